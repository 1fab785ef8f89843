"""Score all test images, and separately the test images whose patient and copies are not in training.

Reads   data/raw/labels.csv, data/raw/groups.csv, data/prepared/images.npy, data/split.csv, models/, params.yaml
        (seed; threshold, tta, calibration, combine of evaluate; device, reproducible, threads of train)
Writes  data/predictions.csv, metrics/evaluate.json, data/detail/evaluate.json, plots/heatmaps.png,
        data/likely_wrong_labels.csv and plots/likely_wrong_labels.png, to look at, and models/decision.json: the
        threshold, the temperature, and evaluate.tta if it is not none
Alone   python stages/evaluate.py
"""

from typing import Any

from core.evidence import calibration, intervals, messages, metrics, sample_size, seed_variance, subgroups, utility
from core.images import contact_sheets
from core.network import devices, ensemble, inference, occlusion
from core.pipeline import components, entrypoint, files, params, tables
from core.pipeline.schemas.base import Section, Seed
from core.pipeline.schemas.device import Device
from core.pipeline.schemas.evaluate import Decision
from core.split import leakage

import numpy as np
import pandas as pd

LABELS = "data/raw/labels.csv"
GROUPS = "data/raw/groups.csv"
IMAGES = "data/prepared/images.npy"
SPLIT = "data/split.csv"
WEIGHTS = "models/model.safetensors"
MODEL = "models/model.json"
DECISION = "models/decision.json"
PREDICTIONS = "data/predictions.csv"
METRICS = "metrics/evaluate.json"
DETAIL = "data/detail/evaluate.json"
HEATMAPS = "plots/heatmaps.png"
WRONG_LABELS = "data/likely_wrong_labels.csv"
WRONG_LABELS_SHEET = "plots/likely_wrong_labels.png"
SHOWN, PER_ROW = 40, 8  # images of WRONG_LABELS_SHEET


class Params(Section):
    seed: Seed
    train: Device
    evaluate: Decision


def main() -> None:
    cfg = params.load(Params)
    split = tables.read(SPLIT, tables.SPLIT)
    rows = split.join(leakage.shared_with_train(split)).assign(unit=components.units(split))
    rows = rows.merge(tables.read(GROUPS, ["file"]), on="file", how="left", validate="one_to_one")
    predictions = rows[rows["split"].isin(["val", "test"])].reset_index(drop=True)

    devices.seed_everything(0, cfg.train.reproducible, cfg.train.threads)
    classifiers = ensemble.load_ensemble(WEIGHTS, files.read_json(MODEL), cfg.evaluate.tta)
    device = devices.get_device(cfg.train.device)
    images = files.read_array(IMAGES)
    by_member = inference.probabilities(classifiers, images, predictions["row"].to_numpy(), device)
    calibrate = cfg.evaluate.calibration == "temperature"
    predictions["probability"], calibrated = calibration.apply(predictions, by_member.mean(axis=1), calibrate)
    predictions = predictions.join(tables.of_members(by_member))

    temperature = calibration.applied_temperature(calibrated)
    scored = seed_variance.add_leave_one_out(predictions, temperature)
    val, test = (scored[scored["split"] == name] for name in ("val", "test"))
    threshold = metrics.choose_threshold(cfg.evaluate.threshold, val)
    details: dict[str, Any] = {"synthetic": tables.is_synthetic(split), "threshold": threshold}
    non_leaking = metrics.non_leaking(test)
    scores = metrics.scores(non_leaking, threshold)
    left_out = intervals.jackknife(scores, cfg.seed) if len(non_leaking) else {}  # takes most of the time: only once
    details |= metrics.summarise(test, val, threshold, cfg.evaluate.threshold, cfg.seed, left_out, cfg.evaluate.combine)
    classes = tables.classes(LABELS, test)
    if classes.nunique() > 2:
        details["test_classes"] = metrics.by_class(test, classes, threshold, cfg.seed)
    details |= subgroups.summarise(non_leaking, rows[rows["split"].isin(["train", "val"])], threshold, cfg.seed)
    details["planning"] = sample_size.plan(scores, cfg.seed, left_out)
    details |= utility.summarise(scores)
    wrong = utility.likely_wrong(non_leaking, details["test_unseen"]["roc_auc"])
    details |= {"test_in_val": len(leakage.in_val(split)), "calibration": calibrated, "likely_wrong_labels": len(wrong)}
    occlusion.gallery(classifiers, images, test, threshold, HEATMAPS, details["synthetic"])
    save_sheet(wrong[:SHOWN], images, details["synthetic"])
    tables.write(wrong, WRONG_LABELS, utility.WRONG_LABELS)
    tables.write(predictions, PREDICTIONS, [*tables.PREDICTIONS, *tables.members(predictions)])
    files.write_json(METRICS, metrics.headline(details))
    files.write_json(DETAIL, details)
    decision = {"threshold": threshold, "temperature": temperature, "weights_sha256": files.sha256(WEIGHTS)}
    files.write_json(DECISION, decision | ({} if cfg.evaluate.tta == "none" else {"tta": cfg.evaluate.tta}))
    print(messages.summary(details))


def save_sheet(wrong: pd.DataFrame, images: np.ndarray, synthetic: bool) -> None:
    """The images with the likeliest wrong labels, for people to look at.

    Parameters
    ----------
    wrong : DataFrame with row (the index into ``images``), file, label and probability
    images : (N, H, W, C) uint8
    """
    rows = []
    for start in range(0, len(wrong), PER_ROW):
        part = wrong[start : start + PER_ROW]
        captions = [f"label {row.label}, probability {row.probability:.2f}" for row in part.itertuples()]
        heading = ", ".join(part["file"].str.rpartition("/")[2])
        rows.append(contact_sheets.Row(heading, list(images[part["row"].to_numpy()]), captions))
    title = "Test images whose label is likely wrong, likeliest first: look at each, no label is changed"
    empty = "No label of a test image is listed as likely wrong"
    contact_sheets.save(title if rows else empty, rows, WRONG_LABELS_SHEET, synthetic)


if __name__ == "__main__":
    entrypoint.stage(main)
