"""Score the test set, and beside it the part of the test set that training knows nothing of.

Reads   data/prepared/images.npy, data/split.csv, models/, metrics/train.json, plots/train/,
        params.yaml (evaluate, train.device, seed)
Writes  data/predictions.csv, metrics/evaluate.json, metrics/verdict.md, plots/evaluate/, plots/regions.png
Alone   python stages/evaluate.py
"""

from core import calibration, drawing, files, networks, params, regions, running, scoring, splitting, tables, training
from core import verdict as verdicts

IMAGES = "data/prepared/images.npy"
SPLIT = "data/split.csv"
WEIGHTS = "models/model.safetensors"
MODEL = "models/model.json"
TRAINED = "metrics/train.json"
CURVES = "plots/train/plots/metrics"
PREDICTIONS = "data/predictions.csv"
METRICS = "metrics/evaluate.json"
VERDICT = "metrics/verdict.md"
PLOTS = "plots/evaluate"
REGIONS = "plots/regions.png"


def main() -> None:
    chosen = params.load("evaluate", "train.device", "seed")
    split = tables.read(SPLIT, tables.SPLIT)
    predictions = split.join(splitting.shared_with_train(split)).assign(unit=splitting.units(split))
    predictions = predictions[predictions["part"].isin(["val", "test"])].reset_index(drop=True)

    training.repeatable(0)
    classifier = networks.restore(WEIGHTS, files.read_json(MODEL))
    device = training.choose_device(chosen.train.device)
    images = files.read_array(IMAGES)
    raw = training.probabilities(classifier, images, predictions["row"].to_numpy(), device)
    calibrated, quality = calibration.apply(predictions, raw, chosen.evaluate.calibration == "temperature")
    predictions["probability"] = calibrated

    part = {name: predictions[predictions["part"] == name] for name in ("val", "test")}
    threshold = scoring.choose_threshold(chosen.evaluate.threshold, part["val"])
    figures = {"synthetic": tables.is_synthetic(split), "threshold": threshold}
    figures |= scoring.summarise(part["test"], part["val"], threshold, chosen.evaluate.threshold, chosen.seed)
    figures |= {"test_known_to_val": len(splitting.known_to_val(split)), "calibration": quality}
    verdict = verdicts.word(figures)

    curves = scoring.curves(part)
    called = scoring.call(part["test"], threshold)
    bins = scoring.histogram(part["test"])
    reliability = calibration.reliability(part["test"]["label"].to_numpy(), part["test"]["probability"].to_numpy())
    drawn = {f"{name}_{kind}": curve for kind, by_part in curves.items() for name, curve in by_part.items()}
    for name, table in (drawn | {"confusion": called, "histogram": bins, "reliability": reliability}).items():
        marked = table.assign(synthetic=True) if figures["synthetic"] else table
        tables.write(marked, f"{PLOTS}/{name}.csv", list(marked.columns))
    drawing.evaluation(curves, reliability, scoring.confusion(called), bins, figures, f"{PLOTS}/evaluation.png")
    drawing.training(CURVES, files.read_json(TRAINED)["best_epoch"], f"{PLOTS}/training.png", figures["synthetic"])
    regions.gallery(classifier, images, part["test"], threshold, REGIONS, figures["synthetic"])
    tables.write(predictions, PREDICTIONS, tables.PREDICTIONS)
    files.write_json(METRICS, figures)
    files.write_text(VERDICT, verdict)
    print(scoring.explain(figures), verdict, sep="\n\n", end="")


if __name__ == "__main__":
    running.stage(main)
