"""Write the report: one page that says what the result is worth, and from what it was made.

Reads   metrics/, data/prepared/index.csv, models/model.safetensors, data/predictions.csv, data/audit/findings.csv,
        plots/, params.yaml
Writes  reports/report.html
Alone   python stages/report.py
"""

from pathlib import Path

from core import drawing, files, params, provenance, reporting, running, scoring, tables

AUDIT = "metrics/audit.json"
SPLIT = "metrics/split.json"
TRAIN = "metrics/train.json"
EVALUATE = "metrics/evaluate.json"
VERDICT = "metrics/verdict.md"
INDEX = "data/prepared/index.csv"
WEIGHTS = "models/model.safetensors"
PREDICTIONS = "data/predictions.csv"
FINDINGS = "data/audit/findings.csv"
CURVES = "plots/train/plots/metrics"
EVALUATED = "plots/evaluate"
REGIONS = "plots/regions.png"
COPIES = "plots/audit"
REPORT = "reports/report.html"


def main() -> None:
    chosen = params.load("data", "evaluate", "model", "prepare", "report", "seed", "split", "train")
    paths = {"audit": AUDIT, "split": SPLIT, "train": TRAIN, "evaluate": EVALUATE}
    figures = {stage: files.read_json(path) for stage, path in paths.items()}
    predictions = tables.read(PREDICTIONS, tables.PREDICTIONS)
    test = predictions[predictions["part"] == "test"]
    curves, reliability, bins = reporting.plotted(EVALUATED)
    best, threshold = figures["train"]["best_epoch"], figures["evaluate"]["threshold"]
    pictures = [Path(REGIONS), *sorted(Path(COPIES).glob("*.png"))] if chosen.report.images else []
    page = reporting.report(
        figures,
        files.there(VERDICT).read_text(encoding="utf-8"),
        plots=drawing.vectors(curves, reliability, bins, test, figures["evaluate"], CURVES, best),
        pictures=[reporting.embedded(path) for path in pictures],
        patients=reporting.by_patient(test, threshold),
        confusion=scoring.confusion(scoring.call(test, threshold)).tolist(),
        findings=tables.read(FINDINGS, tables.FINDINGS)["finding"].value_counts(),
        parameters=chosen.model_dump(mode="json", warnings=False),
        made={"data (index.csv)": files.sha256(INDEX), "model (model.safetensors)": files.sha256(WEIGHTS)},
        versions=provenance.installed(),
    )
    files.write_text(REPORT, page)
    print(f"{REPORT}: open it in a browser")


if __name__ == "__main__":
    running.stage(main)
