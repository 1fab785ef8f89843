"""Write the verdict, the plots, and one HTML page with the result and how it was made.

Reads   data/detail/, data/raw/labels.csv, data/raw/provenance.json, data/prepared/index.csv,
        data/prepared/preparation.json, models/model.safetensors, data/curves/, data/predictions.csv,
        data/audit/findings.csv, plots/audit/, plots/heatmaps.png, plots/likely_wrong_labels.png, params.yaml
Writes  metrics/detail/, metrics/verdict.md, plots/train/, plots/evaluate/, reports/report.html
Alone   python stages/report.py
"""

import platform
import shutil
from pathlib import Path
from typing import Any

from core.evidence import curves, metrics, utility, verdict
from core.pipeline import entrypoint, files, params, provenance, tables
from core.pipeline.schemas.base import Section, Seed
from core.pipeline.schemas.data import Data
from core.pipeline.schemas.evaluate import Evaluate
from core.pipeline.schemas.prepare import Prepare
from core.pipeline.schemas.report import Report
from core.pipeline.schemas.split import Split
from core.pipeline.schemas.train import Model, Train
from core.report import html, plots

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
HEATMAPS = "plots/heatmaps.png"
WRONG_LABELS_SHEET = "plots/likely_wrong_labels.png"
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
    cfg = params.load(Params, path=base / params.PATH)
    paths = {"audit": AUDIT, "split": SPLIT, "train": TRAIN, "evaluate": EVALUATE}
    details = {stage: files.read_json(base / path) for stage, path in paths.items()} | {"external": None}
    evaluated = details["evaluate"]
    epochs = pd.read_csv(base / CURVES / "members.csv")
    data = load_plot_data(base, evaluated)
    vectors = plots.vectors(data, evaluated) | plots.training_vectors(epochs)
    if first:
        details["external"] = files.read_json(EVALUATE)
        vectors |= plots.vectors(load_plot_data(Path(), details["external"]), details["external"], "external_")
    else:
        plots.write(data, evaluated, epochs, EVALUATED)
        for path in filter(Path.is_file, sorted(Path(CURVES).rglob("*"))):  # in git, so that branches can be compared
            with files.atomic_write(TRAINED / path.relative_to(CURVES)) as unfinished:
                shutil.copyfile(path, unfinished)
        for path, stage in ((AUDIT_IN_GIT, "audit"), (SPLIT_IN_GIT, "split"), (TRAIN_IN_GIT, "train")):
            files.write_json(path, details[stage])
    files.write_json(EVALUATE_IN_GIT, details["external"] or evaluated)
    source, audit = files.read_json(base / SOURCE), details["audit"]
    text = verdict.render_verdict(
        evaluated, details["external"], audit["shortcuts"], html.left_out(source, audit), audit["label_conflicts"]
    )

    area = evaluated["test_unseen"]["roc_auc"]
    folders = dict.fromkeys([base, Path()])
    pictures = [base / WRONG_LABELS_SHEET]
    pictures += [path for folder in folders for path in (folder / HEATMAPS, *sorted((folder / COPIES).glob("*.png")))]
    hashes = {"data (index.csv)": INDEX, "model (model.safetensors)": WEIGHTS}
    page = html.report(
        details, text, plots=vectors, confusion=data.confusion.tolist(),
        pictures=[html.embedded(path) for path in pictures] if cfg.report.images else [],
        wrong_labels=html.first_rows(utility.likely_wrong(metrics.non_leaking(data.test), area)),
        patients=html.by_patient(data.test, evaluated["threshold"]),
        findings=tables.read(base / FINDINGS, tables.FINDINGS)["finding"].value_counts(),
        parameters=cfg.model_dump(mode="json", warnings=False), source=source,
        preparation=files.read_json(base / PREPARATION), versions=provenance.installed(),
        hashes={name: files.sha256(base / path) for name, path in hashes.items()}, python=platform.python_version(),
    )  # fmt: skip
    files.write_text(VERDICT, text)
    files.write_text(REPORT, page)
    print(f"{text}\nOpen {REPORT} in a browser")


def load_plot_data(folder: Path, evaluated: dict[str, Any]) -> plots.PlotData:
    """What the plots of the test images in a folder show; of an external set, only the images that the first lacks."""
    predictions = tables.read(folder / PREDICTIONS, tables.PREDICTIONS)
    splits = {name: predictions[predictions["split"] == name] for name in ("val", "test")}
    if "common" in evaluated:
        splits["test"] = metrics.non_leaking(splits["test"])
    splits["test"] = splits["test"].assign(**{"class": tables.classes(folder / LABELS, splits["test"])})
    return plots.PlotData(**curves.for_plots(splits, evaluated["threshold"]))


if __name__ == "__main__":
    entrypoint.stage(main, first="report on this set beside the one in this folder, from which the model comes")
