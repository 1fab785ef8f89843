"""Trainings on synthetic images whose truth is known, shared by coverage.py, equal_recipes.py, luck.py and others.

Each data set is drawn, prepared, audited, split and trained by the stages, in a clone of the last commit, with a seed
of its own. The truth is measured on FRESH, images of 600 other patients. The predictions of a training are cached in
.benchmarks/, and the results of a script on each set are stored in benchmarks/results/, so that an interrupted script
continues where it stopped. Delete both after a change of the training's code.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.commands.comparison import Run
from core.evidence import metrics, seed_variance
from core.evidence.intervals import Scores
from core.images import phantom
from core.network import devices, ensemble, inference
from core.pipeline import components, files, tables
from core.pipeline.schemas import params_yaml
from core.split import leakage

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import parameters

TOP = Path(__file__).resolve().parents[1]
CACHE = TOP / ".benchmarks"
RESULTS = TOP / "benchmarks/results"
FRESH = {"images": 3000, "patients": 600, "seed": 990_001}
FIRST_SEED = 1000  # seed of the first data set; the settings were chosen on others
SMALL = {
    "data.phantom.images": 240, "data.phantom.patients": 40, "data.phantom.side": 32, "prepare.image_size": 32,
    "train.epochs": 8, "train.batch_size": 16,
}  # fmt: skip
STAGES = [f"stages/{name}.py" for name in ("download", "prepare", "audit", "split", "train")]
RUN = """
import runpy, sys
sys.path.insert(0, "stages")
for path in list(sys.argv[1:]):
    sys.argv = [path]
    runpy.run_path(path, run_name="__main__")
"""  # in one process, which imports everything once
NAMES = ("roc_auc", "sensitivity", "specificity", "accuracy")


class Predictions(NamedTuple):
    """The predictions of several trainings on a data set, for its test images and for the FRESH images: two tables with
    file, label, patient, unit and a column member_i for each training."""

    test: pd.DataFrame
    fresh: pd.DataFrame


def ensemble_predictions(table: pd.DataFrame, members: list[int]) -> pd.DataFrame:
    """The images with the probability of the ensemble of these trainings, which are numbered from 0."""
    columns = tables.members(table)
    by_member = table[columns].to_numpy()[:, members]
    predictions = table.drop(columns=columns).join(tables.of_members(by_member))
    return predictions.assign(probability=by_member.mean(axis=1))


def scores(table: pd.DataFrame, members: list[int]) -> Scores:
    return metrics.scores(seed_variance.add_leave_one_out(ensemble_predictions(table, members), 1.0), 0.5)


def run(table: pd.DataFrame, members: list[int], name: str) -> Run:
    """The ensemble of these trainings as a run that compare.py can compare, tested on these images."""
    predictions = ensemble_predictions(table, members)
    return Run(name, predictions.assign(pixels_sha256=""), predictions, 0.5, {})


def roc_auc(table: pd.DataFrame, members: list[int]) -> float:
    """ROC AUC of the ensemble of these trainings on these images."""
    return float(metrics.measures(scores(table, members))["roc_auc"] or 0)


def truth(predictions: Predictions, members: list[int]) -> dict[str, float]:
    """The measures of an ensemble on the FRESH images."""
    measures = metrics.measures(scores(predictions.fresh, members))
    return {name: float(measures[name] or 0) for name in NAMES}


def parse_args(description: str | None, default: int, first: int = FIRST_SEED) -> tuple[range, dict[str, Any]]:
    """The seeds of the sets, as many as the command line says, and the changes to the default recipe."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=default, help="how many")
    parser.add_argument("--small", action="store_true", help="small images, and few of them: a minute for a set")
    args = parser.parse_args()
    return range(first, first + args.sets), SMALL if args.small else {}


def load_or_measure(
    script: str, seeds: range, recipe: dict[str, Any], rows: Callable[[int, dict[str, Any]], list[dict[str, Any]]]
) -> pd.DataFrame:
    """The rows of each set, with its seed in the column ``set``. Those of the default recipe are stored in RESULTS."""
    path = RESULTS / f"{Path(script).stem}.csv"
    table = pd.read_csv(path) if path.exists() and not recipe else pd.DataFrame({"set": []})
    for seed in tqdm(seeds, "sets", disable=None):
        if seed not in table["set"].to_numpy():
            new_rows = pd.DataFrame([{"set": seed} | row for row in rows(seed, recipe)])
            table = new_rows if table.empty else pd.concat([table, new_rows], ignore_index=True)
            if not recipe:
                with files.atomic_write(path) as unfinished:
                    table.sort_values("set", kind="stable").to_csv(unfinished, index=False, float_format="%.6g")
    return table[table["set"].isin(seeds)].reset_index(drop=True)


def load_or_train(seed: int, ensemble_size: int, changes: dict[str, Any]) -> Predictions:
    """The predictions of ``ensemble_size`` trainings of the default recipe with ``changes``, on the data set of
    ``seed``; trained if they are not in CACHE."""
    changes = {"seed": seed, "train.ensemble_size": ensemble_size, "split.on_leak": "fail"} | changes
    recipe = [parameters.read(TOP / "params.yaml"), changes]
    path = CACHE / f"{hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]}-{seed}.npz"
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix="trainings-") as folder:
            clone = Path(folder) / "clone"
            subprocess.run(["git", "clone", "--quiet", TOP, clone], check=True)
            parameters.change(clone / "params.yaml", changes)
            subprocess.run([sys.executable, "-c", RUN, *STAGES], cwd=clone, check=True, capture_output=True,
                           env=os.environ | {"DVC_ROOT": str(clone)})  # fmt: skip
            arrays = predict(clone)
        with files.atomic_write(path) as unfinished:
            np.savez_compressed(unfinished, **arrays)
    with np.load(path) as stored:
        columns = {name: stored[f"test_{name}"] for name in ("file", "label", "patient", "unit")}
        side = int(changes.get("data.phantom.side", recipe[0]["data"]["phantom"]["side"]))
        return Predictions(
            prediction_table(columns, stored["test_each"]),
            prediction_table(fresh_images(side)[0], stored["fresh_each"]),
        )


def prediction_table(columns: dict[str, np.ndarray], by_member: np.ndarray) -> pd.DataFrame:
    """The columns file, label, patient and unit as a table of test images, with the probability by each training."""
    table = pd.DataFrame(columns).astype({"file": "string", "patient": "string"})
    table = table.assign(cluster=pd.array([None] * len(table), dtype="Int64"), split="test")
    table["copy_in_train"] = table["patient_in_train"] = pd.array([False] * len(table), dtype="boolean")
    return table.join(tables.of_members(by_member.astype(float)))


def predict(clone: Path) -> dict[str, np.ndarray]:
    """The probabilities by each member in a clone, of its test images and of the FRESH images."""
    split = tables.read(clone / "data/split.csv", tables.SPLIT)
    rows = split.join(leakage.shared_with_train(split)).assign(unit=components.units(split))
    test = rows[rows["split"] == "test"]
    devices.seed_everything(0, threads=len(os.sched_getaffinity(0)))
    model = ensemble.load_ensemble(clone / "models/model.safetensors", files.read_json(clone / "models/model.json"))
    device = torch.device("cpu")
    images = files.read_array(clone / "data/prepared/images.npy")
    fresh = fresh_images(images.shape[1])[1]
    return {
        "test_file": test["file"].to_numpy(dtype=str), "test_label": test["label"].to_numpy(),
        "test_patient": test["patient"].to_numpy(dtype=str), "test_unit": test["unit"].to_numpy(),
        "test_each": inference.probabilities(model, images, test["row"].to_numpy(), device).astype(np.float32),
        "fresh_each": inference.probabilities(model, fresh, np.arange(len(fresh)), device).astype(np.float32),
    }  # fmt: skip


@cache
def fresh_images(side: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The FRESH images of this side: their columns file, label, patient and unit, and their pixels."""
    patches = list(phantom.draw(**FRESH, side=side))
    patients = np.array([patch.patient for patch in patches])
    columns = {"file": np.array([patch.name for patch in patches]), "patient": patients,
               "label": np.array([patch.label for patch in patches]),
               "unit": np.unique(patients, return_inverse=True)[1]}  # fmt: skip
    return columns, np.stack([patch.pixels for patch in patches])


def default_ensemble_size() -> int:
    """The number of members in the default recipe."""
    return params_yaml.load(TOP / "params.yaml").train.ensemble_size
