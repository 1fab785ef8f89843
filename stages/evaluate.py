"""Score the test set, and beside it the part of the test set that training knows nothing of.

Reads   data/prepared/images.npy, data/split.csv, models/, metrics/train.json, plots/train/,
        params.yaml (evaluate, train.device)
Writes  data/predictions.csv, metrics/evaluate.json, plots/evaluate/
Alone   python stages/evaluate.py
"""

from core import drawing, files, networks, params, scoring, splitting, tables, training

IMAGES = "data/prepared/images.npy"
SPLIT = "data/split.csv"
WEIGHTS = "models/model.safetensors"
MODEL = "models/model.json"
TRAINED = "metrics/train.json"
CURVES = "plots/train/plots/metrics"
PREDICTIONS = "data/predictions.csv"
METRICS = "metrics/evaluate.json"
PLOTS = "plots/evaluate"


def main() -> None:
    chosen = params.load("evaluate", "train.device")
    split = tables.read(SPLIT, tables.SPLIT)
    predictions = split.join(splitting.shared_with_train(split))
    predictions = predictions[predictions["part"].isin(["val", "test"])].reset_index(drop=True)

    training.repeatable(0)
    classifier = networks.restore(WEIGHTS, files.read_json(MODEL))
    device = training.choose_device(chosen.train.device)
    images = files.read_array(IMAGES)
    predictions["probability"] = training.probabilities(classifier, images, predictions["row"].to_numpy(), device)

    part = {name: predictions[predictions["part"] == name] for name in ("val", "test")}
    threshold = scoring.choose_threshold(chosen.evaluate.threshold, part["val"])
    figures = {"synthetic": tables.is_synthetic(split), "threshold": threshold}
    figures |= scoring.summarise(part["test"], part["val"], threshold, chosen.evaluate.threshold)
    curves = scoring.curves(part)
    called = scoring.call(part["test"], threshold)
    bins = scoring.histogram(part["test"])

    drawn = {f"{name}_{kind}": curve for kind, by_part in curves.items() for name, curve in by_part.items()}
    for name, table in (drawn | {"confusion": called, "histogram": bins}).items():
        marked = table.assign(synthetic=True) if figures["synthetic"] else table
        tables.write(marked, f"{PLOTS}/{name}.csv", list(marked.columns))
    drawing.evaluation(curves, scoring.confusion(called), bins, figures, f"{PLOTS}/evaluation.png")
    drawing.training(CURVES, files.read_json(TRAINED)["best_epoch"], f"{PLOTS}/training.png", figures["synthetic"])
    tables.write(predictions, PREDICTIONS, tables.PREDICTIONS)
    files.write_json(METRICS, figures)
    print(scoring.explain(figures))


if __name__ == "__main__":
    main()
