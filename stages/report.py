"""Write the verdict, the plots, and one HTML page with the result and how it was made.

Reads   data/detail/, data/raw/labels.csv, data/raw/provenance.json, data/prepared/index.csv,
        data/prepared/preparation.json, models/model.safetensors, data/curves/, data/predictions.csv,
        data/audit/findings.csv, plots/audit/, plots/gradcam.png, params.yaml
Writes  metrics/detail/, metrics/verdict.md, plots/train/, plots/evaluate/, reports/report.html
Alone   python stages/report.py
"""

import platform
import shutil
from pathlib import Path
from typing import Any

from core.evidence import calibration, metrics
from core.evidence import verdict as verdicts
from core.pipeline import entrypoint, files, params, provenance, tables
from core.pipeline.schemas.base import Section, Seed
from core.pipeline.schemas.data import Data
from core.pipeline.schemas.evaluate import Evaluate
from core.pipeline.schemas.model import Model
from core.pipeline.schemas.prepare import Prepare
from core.pipeline.schemas.report import Report
from core.pipeline.schemas.split import Split
from core.pipeline.schemas.train import Train
from core.report import html, plots
from core.report.plots import Judged

import pandas as pd

AUDIT = "data/detail/audit.json"
SPLIT = "data/detail/split.json"
TRAIN = "data/detail/train.json"
EVALUATE = "data/detail/evaluate.json"
AUDIT_IN_GIT = "metrics/detail/audit.json"
SPLIT_IN_GIT = "metrics/detail/split.json"
TRAIN_IN_GIT = "metrics/detail/train.json"
EVALUATE_IN_GIT = "metrics/detail/evaluate.json"
VERDICT = "metrics/verdict.md"
LABELS = "data/raw/labels.csv"
SOURCE = "data/raw/provenance.json"
INDEX = "data/prepared/index.csv"
PREPARATION = "data/prepared/preparation.json"
WEIGHTS = "models/model.safetensors"
PREDICTIONS = "data/predictions.csv"
FINDINGS = "data/audit/findings.csv"
CURVES = "data/curves"
TRAINED = "plots/train"
EVALUATED = "plots/evaluate"
GRADCAM = "plots/gradcam.png"
COPIES = "plots/audit"
REPORT = "reports/report.html"


class Params(Section):
    seed: Seed
    data: Data
    prepare: Prepare
    split: Split
    model: Model
    train: Train
    evaluate: Evaluate
    report: Report


def main(first: str | None = None) -> None:
    base = Path(first or "")
    chosen = params.load(Params, path=base / params.PATH)
    paths = {"audit": AUDIT, "split": SPLIT, "train": TRAIN, "evaluate": EVALUATE}
    figures = {stage: files.read_json(base / path) for stage, path in paths.items()}
    evaluated = figures["evaluate"]
    epochs = pd.read_csv(base / CURVES / "members.csv")
    judged = judge(base, evaluated)
    vectors = plots.vectors(judged, evaluated) | plots.training_vectors(epochs)
    figures["external"] = None
    if first:
        figures["external"] = files.read_json(EVALUATE)
        vectors |= plots.vectors(judge(Path(), figures["external"]), figures["external"], "external_")
    else:
        write_plots(judged, evaluated, epochs)
        for path, stage in ((AUDIT_IN_GIT, "audit"), (SPLIT_IN_GIT, "split"), (TRAIN_IN_GIT, "train")):
            files.write_json(path, figures[stage])
    files.write_json(EVALUATE_IN_GIT, figures["external"] or evaluated)
    verdict = verdicts.render_verdict(evaluated, figures["external"])

    folders = [base, Path()] if first else [base]
    pictures = [
        picture for folder in folders for picture in (folder / GRADCAM, *sorted((folder / COPIES).glob("*.png")))
    ]
    page = html.report(
        figures,
        verdict,
        plots=vectors,
        pictures=[html.embedded(path) for path in pictures] if chosen.report.images else [],
        patients=html.by_patient(judged.test, evaluated["threshold"]),
        confusion=judged.confusion.tolist(),
        findings=tables.read(base / FINDINGS, tables.FINDINGS)["finding"].value_counts(),
        parameters=chosen.model_dump(mode="json", warnings=False),
        source=files.read_json(base / SOURCE),
        preparation=files.read_json(base / PREPARATION),
        made={
            "data (index.csv)": files.sha256(base / INDEX),
            "model (model.safetensors)": files.sha256(base / WEIGHTS),
        },
        versions=provenance.installed(),
        python=platform.python_version(),
    )
    files.write_text(VERDICT, verdict)
    files.write_text(REPORT, page)
    print(f"{verdict}\nOpen {REPORT} in a browser")


def judge(folder: Path, evaluated: dict[str, Any]) -> Judged:
    """What the plots of the test images in a folder show; of another set, only of those that the first lacks."""
    predictions = tables.read(folder / PREDICTIONS, tables.PREDICTIONS)
    part = {name: predictions[predictions["split"] == name].copy() for name in ("val", "test")}
    if "common" in evaluated:
        part["test"] = metrics.unseen(part["test"])
    test = part["test"] = part["test"].assign(**{"class": tables.classes(folder / LABELS, part["test"])})
    called = metrics.call(test, evaluated["threshold"])
    reliability = calibration.reliability(test["label"].to_numpy(), test["probability"].to_numpy())
    return Judged(test, metrics.curves(part), called, metrics.confusion(called), metrics.histogram(test), reliability)


def write_plots(judged: Judged, evaluated: dict[str, Any], epochs: pd.DataFrame) -> None:
    """The tables that DVC plots, and the same as pictures."""
    drawn = {f"{name}_{kind}": curve for kind, by_part in judged.curves.items() for name, curve in by_part.items()}
    drawn |= {"confusion": judged.called, "histogram": judged.bins, "reliability": judged.reliability}
    for name, table in drawn.items():
        marked = table.assign(synthetic=True) if evaluated["synthetic"] else table
        tables.write(marked, f"{EVALUATED}/{name}.csv", list(marked.columns))
    for path in sorted(
        path for path in Path(CURVES).rglob("*") if path.is_file()
    ):  # in git, so that branches can be compared
        with files.atomic_write(TRAINED / path.relative_to(CURVES)) as unfinished:
            shutil.copyfile(path, unfinished)
    plots.evaluation(judged, evaluated, f"{EVALUATED}/evaluation.png")
    plots.training(epochs, f"{EVALUATED}/training.png", evaluated["synthetic"])


if __name__ == "__main__":
    entrypoint.stage(main, first="report on this set beside the one in this folder, from which the model comes")
