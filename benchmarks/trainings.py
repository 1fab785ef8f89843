"""Trainings on synthetic images whose truth is known, for coverage.py, equal_recipes.py, better_recipe.py and luck.py.

Each data set is drawn, prepared, audited, split and trained by the stages, in a clone of the last commit, with a seed
of its own. The truth is measured on FRESH, images of 600 other patients. What a training gave is kept in .benchmarks/,
and what a script found on a set is recorded in benchmarks/found/, so an interrupted script continues where it stopped.
Delete both after a change of the training's code.
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
KEPT = TOP / ".benchmarks"
FOUND = TOP / "benchmarks/found"
FRESH = {"images": 3000, "patients": 600, "seed": 990_001}
FIRST = 1000  # seed of the first data set; the settings were chosen on others
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


class Trained(NamedTuple):
    """A data set and what its trainings say of its test images and of the FRESH ones: two tables with file, label,
    patient, unit and a column member_i for each training."""

    test: pd.DataFrame
    fresh: pd.DataFrame


def together(table: pd.DataFrame, which: list[int]) -> pd.DataFrame:
    """Images as the ensemble of some trainings, numbered from 0, judges them."""
    each = table[tables.members(table)].to_numpy()[:, which]
    judged = table.drop(columns=tables.members(table)).join(tables.of_members(each))
    return judged.assign(probability=each.mean(axis=1))


def scores(table: pd.DataFrame, which: list[int]) -> Scores:
    return metrics.scores(seed_variance.add_leave_one_out(together(table, which), 1.0), 0.5)


def run(table: pd.DataFrame, which: list[int], name: str) -> Run:
    """What compare.py knows of the ensemble of some trainings that was tested on these images."""
    found = together(table, which)
    return Run(name, found.assign(pixels_sha256=""), found, 0.5, {})


def area(table: pd.DataFrame, which: list[int]) -> float:
    """ROC AUC of the ensemble of some trainings on these images."""
    return float(metrics.measures(scores(table, which))["roc_auc"] or 0)


def truth(made: Trained, which: list[int]) -> dict[str, float]:
    """The measures of an ensemble on the FRESH images."""
    found = metrics.measures(scores(made.fresh, which))
    return {name: float(found[name] or 0) for name in NAMES}


def asked(description: str | None, default: int, first: int = FIRST) -> tuple[range, dict[str, Any]]:
    """The seeds of the sets, as many as the command line says, and the changes to the default recipe."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=default, help="how many")
    parser.add_argument("--small", action="store_true", help="small images, and few of them: a minute for a set")
    given = parser.parse_args()
    return range(first, first + given.sets), SMALL if given.small else {}


def recorded(
    script: str, seeds: range, recipe: dict[str, Any], rows: Callable[[int, dict[str, Any]], list[dict[str, Any]]]
) -> pd.DataFrame:
    """The rows of each set, with its seed in the column ``set``. Those of the default recipe are recorded in FOUND."""
    path = FOUND / f"{Path(script).stem}.csv"
    known = pd.read_csv(path) if path.exists() and not recipe else pd.DataFrame({"set": []})
    for seed in tqdm(seeds, "sets", disable=None):
        if seed not in known["set"].to_numpy():
            found = pd.DataFrame([{"set": seed} | row for row in rows(seed, recipe)])
            known = found if known.empty else pd.concat([known, found], ignore_index=True)
            if not recipe:
                with files.atomic_write(path) as unfinished:
                    known.sort_values("set", kind="stable").to_csv(unfinished, index=False, float_format="%.6g")
    return known[known["set"].isin(seeds)].reset_index(drop=True)


def trained(seed: int, members: int, changes: dict[str, Any]) -> Trained:
    """The trainings of the default recipe with ``changes``, on the data set of ``seed``; computed if not kept."""
    changes = {"seed": seed, "train.ensemble_size": members, "split.on_leak": "fail"} | changes
    recipe = [parameters.read(TOP / "params.yaml"), changes]
    path = KEPT / f"{hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]}-{seed}.npz"
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix="trainings-") as place:
            clone = Path(place) / "clone"
            subprocess.run(["git", "clone", "--quiet", TOP, clone], check=True)
            parameters.change(clone / "params.yaml", changes)
            subprocess.run([sys.executable, "-c", RUN, *STAGES], cwd=clone, check=True, capture_output=True,
                           env=os.environ | {"DVC_ROOT": str(clone)})  # fmt: skip
            content = judged(clone)
        with files.atomic_write(path) as unfinished:
            np.savez_compressed(unfinished, **content)
    with np.load(path) as kept:
        columns = {name: kept[f"test_{name}"] for name in ("file", "label", "patient", "unit")}
        side = int(changes.get("data.phantom.side", recipe[0]["data"]["phantom"]["side"]))
        return Trained(table_of(columns, kept["test_each"]), table_of(drawn(side)[0], kept["fresh_each"]))


def table_of(columns: dict[str, np.ndarray], each: np.ndarray) -> pd.DataFrame:
    """The columns file, label, patient and unit as a table of test images, with the probability by each training."""
    table = pd.DataFrame(columns).astype({"file": "string", "patient": "string"})
    table = table.assign(cluster=pd.array([None] * len(table), dtype="Int64"), split="test")
    table["copy_in_train"] = table["patient_in_train"] = pd.array([False] * len(table), dtype="boolean")
    return table.join(tables.of_members(each.astype(float)))


def judged(clone: Path) -> dict[str, np.ndarray]:
    """What each member in a clone says of its test images and of the FRESH images."""
    split = tables.read(clone / "data/split.csv", tables.SPLIT)
    rows = split.join(leakage.shared_with_train(split)).assign(unit=components.units(split))
    test = rows[rows["split"] == "test"]
    devices.seed_everything(0, threads=len(os.sched_getaffinity(0)))
    found = ensemble.load_ensemble(clone / "models/model.safetensors", files.read_json(clone / "models/model.json"))
    device = torch.device("cpu")
    images = files.read_array(clone / "data/prepared/images.npy")
    fresh = drawn(images.shape[1])[1]
    return {
        "test_file": test["file"].to_numpy(dtype=str), "test_label": test["label"].to_numpy(),
        "test_patient": test["patient"].to_numpy(dtype=str), "test_unit": test["unit"].to_numpy(),
        "test_each": inference.probabilities(found, images, test["row"].to_numpy(), device).astype(np.float32),
        "fresh_each": inference.probabilities(found, fresh, np.arange(len(fresh)), device).astype(np.float32),
    }  # fmt: skip


@cache
def drawn(side: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The FRESH images of this side: their columns file, label, patient and unit, and their pixels."""
    patches = list(phantom.draw(**FRESH, side=side))
    patients = np.array([patch.patient for patch in patches])
    columns = {"file": np.array([patch.name for patch in patches]), "patient": patients,
               "label": np.array([patch.label for patch in patches]),
               "unit": np.unique(patients, return_inverse=True)[1]}  # fmt: skip
    return columns, np.stack([patch.pixels for patch in patches])


def members() -> int:
    """The number of members of the default recipe."""
    return params_yaml.load(TOP / "params.yaml").train.ensemble_size
