"""Judge another set of images with the trained model, without training. It runs in the folder of this set.

Reads   data/raw/groups.csv, data/prepared/ (images.npy, thumbnails.npy, index.csv), params.yaml (external, seed); of
        the first set ../data/prepared/ (thumbnails.npy, index.csv), ../data/predictions.csv,
        ../data/detail/evaluate.json, ../models/, ../params.yaml (evaluate.threshold; device, reproducible, threads of
        train)
Writes  data/predictions.csv, metrics/evaluate.json, data/detail/evaluate.json, plots/gradcam.png
Alone   cd FOLDER; python ../stages/external.py
"""

from pathlib import Path

from core.audit import between
from core.evidence import calibration, external, luck, messages, metrics
from core.images import decoder
from core.network import devices, ensemble, gradcam, inference, ood, pretrained
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
GRADCAM = "plots/gradcam.png"


class Params(Section):
    seed: Seed
    external: External


class FirstParams(Section):
    train: Device
    evaluate: Threshold


def main() -> None:
    chosen = params.load(Params)
    first = params.load(FirstParams, path=FIRST_PARAMS)
    index, images = tables.read(INDEX, tables.INDEX), files.read_array(IMAGES)
    description, judged = files.read_json(MODEL), files.read_json(FIRST_DETAIL)
    if images.shape[-1] > description["channels"]:
        raise PipelineError(messages.colour_images())
    if images.shape[-1] < description["channels"]:
        print(messages.grey_images())
        images = np.broadcast_to(images, (*images.shape[:3], description["channels"]))
    grey = decoder.Grey(files.read_array(FIRST_THUMBNAILS), files.read_array(THUMBNAILS))
    same, theirs = chosen.external.patients == "same", tables.read(FIRST_INDEX, tables.INDEX)
    found = between.compare(theirs, index, grey, same)
    common = between.summarise(found, theirs, same)
    if metrics.unseen(found).empty:
        raise PipelineError(messages.no_other_set(common))

    devices.seed_everything(0, first.train.reproducible, first.train.threads)
    classifiers = ensemble.load_ensemble(WEIGHTS, description)
    device = devices.get_device(first.train.device)
    each, features = inference.features(classifiers, images, index["row"].to_numpy(), device)
    temperature = calibration.used(judged["calibration"])
    found["raw"] = each.mean(axis=1)
    found["probability"] = calibration.tempered(each.mean(axis=1), temperature)
    found["ood"] = ood.Detector(**pretrained.read(Path(OOD))).ood_score(features) > 1
    found = found.merge(tables.read(GROUPS, ["file"]), on="file", how="left", validate="one_to_one")
    found = found.join(tables.of_members(each))

    test = luck.leave_out(found, temperature)
    val = tables.read(FIRST_PREDICTIONS, tables.PREDICTIONS)
    val = luck.leave_out(val[val["split"] == "val"].assign(unit=0), temperature)
    figures = {"synthetic": tables.is_synthetic(index), "common": common}
    figures |= external.judge(test, val, judged, first.evaluate.threshold, chosen.seed)
    fresh = metrics.unseen(test)
    gradcam.gallery(classifiers, images, fresh, judged["threshold"], GRADCAM, figures["synthetic"])
    tables.write(found, PREDICTIONS, [*tables.PREDICTIONS, *tables.members(found)])
    files.write_json(METRICS, external.headline(figures))
    files.write_json(DETAIL, figures)
    print(messages.summary(figures))


if __name__ == "__main__":
    entrypoint.stage(main)
