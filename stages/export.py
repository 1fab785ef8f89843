"""Export the model in the layout of Hugging Face: ONNX, safetensors, preprocessing rules, a model card.

Reads   models/, metrics/, data/raw/provenance.json, params.yaml (model, split), and some images of
        data/prepared/images.npy, on which the outputs of ONNX and PyTorch are compared
Writes  export/: model.onnx, config.json, preprocessor_config.json, README.md, and the files of models/
Alone   python stages/export.py [--folder export]
"""

import shutil
from pathlib import Path

from core.commands import export, prediction
from core.network import ensemble
from core.pipeline import entrypoint, files, params
from core.pipeline.errors import PipelineError
from core.report import html

IMAGES = "data/prepared/images.npy"
MODELS = Path("models")
SOURCE = "data/raw/provenance.json"
METRICS = {stage: f"metrics/detail/{stage}.json" for stage in ("audit", "split", "train", "evaluate")}
VERDICT = "metrics/verdict.md"


def main() -> None:
    parser = entrypoint.argument_parser()
    parser.add_argument("--folder", type=Path, default=Path("export"))
    target: Path = parser.parse_args().folder
    if target.exists() and not (target / export.CONFIG).is_file() and any(target.iterdir()):
        raise PipelineError(f"{target} contains other files: use --folder to name a new or empty folder")
    description, decision = (files.read_json(MODELS / name) for name in (prediction.DESCRIPTION, prediction.DECISION))
    figures = {stage: files.read_json(path) for stage, path in METRICS.items()}
    networks = ensemble.load_ensemble(MODELS / prediction.WEIGHTS, description, decision.get("tta", "none"))
    images = files.read_array(IMAGES)

    with files.scratch(target.parent, target.name) as folder:
        for name in (prediction.WEIGHTS, prediction.DESCRIPTION, prediction.OOD, prediction.DECISION):
            shutil.copyfile(files.require(MODELS / name), folder / name)
        worst = export.onnx(networks, images, folder / "model.onnx")
        files.write_json(folder / export.CONFIG, export.config(description, decision))
        files.write_json(folder / "preprocessor_config.json", export.preprocessing(description))
        card = html.filled(
            export.CARD, **figures, description=description, parameters=params.read(),
            source=files.read_json(SOURCE), opset=export.OPSET, worst=worst, measures=html.MEASURES,
            library=export.library(description), tta=networks.tta,
            verdict=files.require(VERDICT).read_text(encoding="utf-8").partition("\n\n")[2],
        )  # fmt: skip
        files.write_text(folder / "README.md", card)
        target.mkdir(exist_ok=True)
        for path in sorted(folder.iterdir()):
            if path.name != files.LOCK:
                path.replace(target / path.name)
    print(f"{target}/: the probabilities of ONNX and PyTorch differ by at most {worst:.1e}. Research only.")


if __name__ == "__main__":
    entrypoint.script(main)
