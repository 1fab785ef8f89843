"""Score all test images, and separately the test images whose patient and copies are not in training.

Reads   data/prepared/images.npy, data/split.csv, models/, params.yaml (evaluate, train.device, seed)
Writes  data/predictions.csv, metrics/evaluate.json, plots/regions.png
Alone   python stages/evaluate.py
"""

from core.evidence import calibration, metrics
from core.network import devices, inference, networks, regions
from core.pipeline import entrypoint, files, params, tables
from core.split import groups, leakage

IMAGES = "data/prepared/images.npy"
SPLIT = "data/split.csv"
WEIGHTS = "models/model.safetensors"
MODEL = "models/model.json"
PREDICTIONS = "data/predictions.csv"
METRICS = "metrics/evaluate.json"
REGIONS = "plots/regions.png"


def main() -> None:
    chosen = params.load("evaluate", "train.device", "seed")
    split = tables.read(SPLIT, tables.SPLIT)
    predictions = split.join(leakage.shared_with_train(split)).assign(unit=groups.units(split))
    predictions = predictions[predictions["part"].isin(["val", "test"])].reset_index(drop=True)

    devices.repeatable(0)
    classifier = networks.restore(WEIGHTS, files.read_json(MODEL))
    device = devices.choose(chosen.train.device)
    images = files.read_array(IMAGES)
    raw = inference.probabilities(classifier, images, predictions["row"].to_numpy(), device)
    calibrated, quality = calibration.apply(predictions, raw, chosen.evaluate.calibration == "temperature")
    predictions["probability"] = calibrated

    part = {name: predictions[predictions["part"] == name] for name in ("val", "test")}
    threshold = metrics.choose_threshold(chosen.evaluate.threshold, part["val"])
    figures = {"synthetic": tables.is_synthetic(split), "threshold": threshold}
    figures |= metrics.summarise(part["test"], part["val"], threshold, chosen.evaluate.threshold, chosen.seed)
    figures |= {"test_known_to_val": len(leakage.known_to_val(split)), "calibration": quality}
    regions.gallery(classifier, images, part["test"], threshold, REGIONS, figures["synthetic"])
    tables.write(predictions, PREDICTIONS, tables.PREDICTIONS)
    files.write_json(METRICS, figures)
    print(metrics.explain(figures))


if __name__ == "__main__":
    entrypoint.stage(main)
