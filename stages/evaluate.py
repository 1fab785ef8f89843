"""Score all test images, and separately the test images whose patient and copies are not in training.

Reads   data/raw/labels.csv, data/raw/groups.csv, data/prepared/images.npy, data/split.csv, models/, params.yaml
        (evaluate, seed; device, reproducible, threads of train)
Writes  data/predictions.csv, metrics/evaluate.json, data/detail/evaluate.json, plots/gradcam.png
Alone   python stages/evaluate.py
"""

from core.evidence import calibration, luck, messages, metrics, planning, subgroups
from core.network import devices, ensemble, gradcam, inference
from core.pipeline import components, entrypoint, files, params, tables
from core.pipeline.schemas.base import Section, Seed
from core.pipeline.schemas.device import Device
from core.pipeline.schemas.evaluate import Evaluate
from core.split import leakage

LABELS = "data/raw/labels.csv"
GROUPS = "data/raw/groups.csv"
IMAGES = "data/prepared/images.npy"
SPLIT = "data/split.csv"
WEIGHTS = "models/model.safetensors"
MODEL = "models/model.json"
PREDICTIONS = "data/predictions.csv"
METRICS = "metrics/evaluate.json"
DETAIL = "data/detail/evaluate.json"
GRADCAM = "plots/gradcam.png"


class Params(Section):
    seed: Seed
    train: Device
    evaluate: Evaluate


def main() -> None:
    chosen = params.load(Params)
    split = tables.read(SPLIT, tables.SPLIT)
    every = split.join(leakage.shared_with_train(split)).assign(unit=components.units(split))
    every = every.merge(tables.read(GROUPS, ["file"]), on="file", how="left", validate="one_to_one")
    predictions = every[every["split"].isin(["val", "test"])].reset_index(drop=True)

    devices.seed_everything(0, chosen.train.reproducible, chosen.train.threads)
    classifiers = ensemble.load_ensemble(WEIGHTS, files.read_json(MODEL))
    device = devices.get_device(chosen.train.device)
    images = files.read_array(IMAGES)
    each = inference.probabilities(classifiers, images, predictions["row"].to_numpy(), device)
    asked = chosen.evaluate.calibration == "temperature"
    predictions["probability"], quality = calibration.apply(predictions, each.mean(axis=1), asked)
    predictions = predictions.join(tables.of_members(each))

    judged = luck.leave_out(predictions, calibration.used(quality))
    part = {name: judged[judged["split"] == name] for name in ("val", "test")}
    threshold = metrics.choose_threshold(chosen.evaluate.threshold, part["val"])
    figures = {"synthetic": tables.is_synthetic(split), "threshold": threshold}
    figures |= metrics.summarise(part["test"], part["val"], threshold, chosen.evaluate.threshold, chosen.seed)
    classes = tables.classes(LABELS, part["test"])
    if classes.nunique() > 2:
        figures["test_classes"] = metrics.by_class(part["test"], classes, threshold, chosen.seed)
    fresh = metrics.unseen(part["test"])
    figures |= subgroups.summarise(fresh, every[every["split"].isin(["train", "val"])], threshold, chosen.seed)
    figures["planning"] = planning.plan(metrics.scores(fresh, threshold), chosen.seed)
    figures |= {"test_in_val": len(leakage.in_val(split)), "calibration": quality}
    gradcam.gallery(classifiers, images, part["test"], threshold, GRADCAM, figures["synthetic"])
    tables.write(predictions, PREDICTIONS, [*tables.PREDICTIONS, *tables.members(predictions)])
    files.write_json(METRICS, metrics.headline(figures))
    files.write_json(DETAIL, figures)
    print(messages.summary(figures))


if __name__ == "__main__":
    entrypoint.stage(main)
