"""Evaluate the trained model on an external set of images, without training. It runs in the folder of this set.

Reads   data/raw/groups.csv, data/prepared/ (images.npy, thumbnails.npy, index.csv), params.yaml (external, seed); of
        the first set ../data/prepared/ (thumbnails.npy, index.csv), ../data/predictions.csv,
        ../data/detail/evaluate.json, ../models/, ../params.yaml (threshold, tta of evaluate; device, reproducible,
        threads of train)
Writes  data/predictions.csv, metrics/evaluate.json, data/detail/evaluate.json, plots/heatmaps.png
Alone   cd FOLDER; python ../stages/external.py
"""

from pathlib import Path
from typing import Any

from core.audit import between
from core.evidence import calibration, external, messages, metrics, seed_variance
from core.images import decoder
from core.network import devices, ensemble, inference, occlusion, ood, pretrained
from core.pipeline import entrypoint, files, params, tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.base import Section, Seed
from core.pipeline.schemas.device import Device
from core.pipeline.schemas.external import External, Threshold

import numpy as np

GROUPS = "data/raw/groups.csv"
IMAGES = "data/prepared/images.npy"
THUMBNAILS = "data/prepared/thumbnails.npy"
INDEX = "data/prepared/index.csv"
FIRST_THUMBNAILS = "../data/prepared/thumbnails.npy"
FIRST_INDEX = "../data/prepared/index.csv"
FIRST_PREDICTIONS = "../data/predictions.csv"
FIRST_DETAIL = "../data/detail/evaluate.json"
WEIGHTS = "../models/model.safetensors"
MODEL = "../models/model.json"
OOD = "../models/ood.safetensors"
FIRST_PARAMS = "../params.yaml"
PREDICTIONS = "data/predictions.csv"
METRICS = "metrics/evaluate.json"
DETAIL = "data/detail/evaluate.json"
HEATMAPS = "plots/heatmaps.png"


class Params(Section):
    seed: Seed
    external: External


class FirstParams(Section):
    train: Device
    evaluate: Threshold


def main() -> None:
    cfg = params.load(Params)
    first_cfg = params.load(FirstParams, path=FIRST_PARAMS)
    index, images = tables.read(INDEX, tables.INDEX), files.read_array(IMAGES)
    description, first = files.read_json(MODEL), files.read_json(FIRST_DETAIL)
    if images.shape[-1] > description["channels"]:
        raise PipelineError(messages.COLOUR_IMAGES)
    if images.shape[-1] < description["channels"]:
        print(messages.GREY_IMAGES)
        images = np.broadcast_to(images, (*images.shape[:3], description["channels"]))
    grey = decoder.Grey(files.read_array(FIRST_THUMBNAILS), files.read_array(THUMBNAILS))
    same_patients, first_index = cfg.external.patients == "same", tables.read(FIRST_INDEX, tables.INDEX)
    predictions = between.compare(first_index, index, grey, same_patients)
    common = between.summarise(predictions, first_index, same_patients)
    if metrics.non_leaking(predictions).empty:
        raise PipelineError(messages.NO_OTHER_SET.format(**common))

    devices.seed_everything(0, first_cfg.train.reproducible, first_cfg.train.threads)
    classifiers = ensemble.load_ensemble(WEIGHTS, description, first_cfg.evaluate.tta)
    device = devices.get_device(first_cfg.train.device)
    by_member, features = inference.features(classifiers, images, index["row"].to_numpy(), device)
    temperature = calibration.applied_temperature(first["calibration"])
    predictions["raw"] = by_member.mean(axis=1)
    predictions["probability"] = calibration.apply_temperature(by_member.mean(axis=1), temperature)
    predictions["ood"] = ood.Detector(**pretrained.read(Path(OOD))).ood_score(features) > 1
    predictions = predictions.merge(tables.read(GROUPS, ["file"]), on="file", how="left", validate="one_to_one")
    predictions = predictions.join(tables.of_members(by_member))

    test = seed_variance.add_leave_one_out(predictions, temperature)
    val = tables.read(FIRST_PREDICTIONS, tables.PREDICTIONS)
    val = seed_variance.add_leave_one_out(val[val["split"] == "val"].assign(unit=0), temperature)
    details: dict[str, Any] = {"synthetic": tables.is_synthetic(index), "common": common}
    details |= external.summarise(test, val, first, first_cfg.evaluate.threshold, cfg.seed)
    non_leaking = metrics.non_leaking(test)
    occlusion.gallery(classifiers, images, non_leaking, first["threshold"], HEATMAPS, details["synthetic"])
    tables.write(predictions, PREDICTIONS, [*tables.PREDICTIONS, *tables.members(predictions)])
    files.write_json(METRICS, external.headline(details))
    files.write_json(DETAIL, details)
    print(messages.summary(details))


if __name__ == "__main__":
    entrypoint.stage(main)
