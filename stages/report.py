"""Write the verdict, the plots, and one HTML page with the result and how it was made.

Reads   metrics/, data/raw/labels.csv, data/prepared/index.csv, models/model.safetensors, data/curves/,
        data/predictions.csv, data/audit/findings.csv, plots/audit/, plots/regions.png, params.yaml
Writes  metrics/verdict.md, plots/train/, plots/evaluate/, reports/report.html
Alone   python stages/report.py
"""

import shutil
from pathlib import Path

from core.evidence import calibration, metrics
from core.evidence import verdict as verdicts
from core.pipeline import entrypoint, files, params, provenance, tables
from core.report import html, plots

import pandas as pd

AUDIT = "metrics/audit.json"
SPLIT = "metrics/split.json"
TRAIN = "metrics/train.json"
EVALUATE = "metrics/evaluate.json"
VERDICT = "metrics/verdict.md"
LABELS = "data/raw/labels.csv"
INDEX = "data/prepared/index.csv"
WEIGHTS = "models/model.safetensors"
PREDICTIONS = "data/predictions.csv"
FINDINGS = "data/audit/findings.csv"
CURVES = "data/curves"
TRAINED = "plots/train"
EVALUATED = "plots/evaluate"
REGIONS = "plots/regions.png"
COPIES = "plots/audit"
REPORT = "reports/report.html"


def main() -> None:
    chosen = params.load("data", "evaluate", "model", "prepare", "report", "seed", "split", "train")
    paths = {"audit": AUDIT, "split": SPLIT, "train": TRAIN, "evaluate": EVALUATE}
    figures = {stage: files.read_json(path) for stage, path in paths.items()}
    predictions = tables.read(PREDICTIONS, tables.PREDICTIONS)
    part = {name: predictions[predictions["part"] == name].copy() for name in ("val", "test")}
    test, evaluated = part["test"], figures["evaluate"]
    test["class"] = tables.classes(LABELS, test)
    threshold = evaluated["threshold"]
    verdict = verdicts.word(evaluated)

    curves = metrics.curves(part)
    called = metrics.call(test, threshold)
    confusion = metrics.confusion(called)
    bins = metrics.histogram(test)
    reliability = calibration.reliability(test["label"].to_numpy(), test["probability"].to_numpy())
    drawn = {f"{name}_{kind}": curve for kind, by_part in curves.items() for name, curve in by_part.items()}
    for name, table in (drawn | {"confusion": called, "histogram": bins, "reliability": reliability}).items():
        marked = table.assign(synthetic=True) if evaluated["synthetic"] else table
        tables.write(marked, f"{EVALUATED}/{name}.csv", list(marked.columns))
    for path in sorted(
        path for path in Path(CURVES).rglob("*") if path.is_file()
    ):  # in git, so that branches can be compared
        with files.whole(TRAINED / path.relative_to(CURVES)) as unfinished:
            shutil.copyfile(path, unfinished)
    epochs = pd.read_csv(Path(CURVES, "members.csv"))
    plots.evaluation(curves, reliability, confusion, bins, evaluated, f"{EVALUATED}/evaluation.png")
    plots.training(epochs, f"{EVALUATED}/training.png", evaluated["synthetic"])

    pictures = [Path(REGIONS), *sorted(Path(COPIES).glob("*.png"))] if chosen.report.images else []
    page = html.report(
        figures,
        verdict,
        plots=plots.vectors(curves, reliability, bins, test, evaluated, epochs),
        pictures=[html.embedded(path) for path in pictures],
        patients=html.by_patient(test, threshold),
        confusion=confusion.tolist(),
        findings=tables.read(FINDINGS, tables.FINDINGS)["finding"].value_counts(),
        parameters=chosen.model_dump(mode="json", warnings=False),
        made={"data (index.csv)": files.sha256(INDEX), "model (model.safetensors)": files.sha256(WEIGHTS)},
        versions=provenance.installed(),
    )
    files.write_text(VERDICT, verdict)
    files.write_text(REPORT, page)
    print(f"{verdict}\nOpen {REPORT} in a browser")


if __name__ == "__main__":
    entrypoint.stage(main)
