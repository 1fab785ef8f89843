"""Compare settings of the training on images that no test set needs, over several seeds.

    python benchmarks/settings.py [--listed LIST.csv] [--seeds 5] [KEY=VALUE ...]

Uses the images that the last run prepared, without those of its test split and, with --listed, only those that a cell
of LIST.csv names (AMi-Br: the published list of training patches). Two folds by patient among them: each is scored by
networks that were trained on the other. KEY=VALUE changes params.yaml, for example train.epochs=8. Prints the mean over
seeds and folds of ROC AUC and balanced accuracy, for ensembles of one, two and five networks, and the SD over the seeds
for one. The threshold is the share of positives among these images, moved as train.pos_weight moves the probabilities.
Scores are without evaluate.tta.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.network import devices, inference, members, ranks, training
from core.network.ensemble import Ensemble
from core.pipeline import files, tables
from core.pipeline.schemas import params_yaml

import numpy as np
import pandas as pd
import yaml
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

import parameters

IMAGES, SPLIT = "data/prepared/images.npy", "data/split.csv"
SIZES = (1, 2, 5)  # networks in an ensemble


def load_cfg(changes: list[str]) -> params_yaml.Params:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy("params.yaml", folder))
        parameters.change(
            path, {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in changes)}
        )
        return params_yaml.load(path)


def load_rows(listed: str | None) -> pd.DataFrame:
    """The images that can be used, with their ``fold``."""
    rows = tables.read(SPLIT, tables.SPLIT)
    rows = rows[rows["split"].isin(["train", "val"])]
    if listed:
        names = rows["file"].str.rpartition("/")[2]
        rows = rows[names.isin(pd.read_csv(listed, dtype=str).to_numpy().ravel())]
    rows = rows.reset_index(drop=True).assign(fold=0)
    folds = StratifiedGroupKFold(2, shuffle=True, random_state=0).split(rows, rows["label"], rows["patient"])
    rows.loc[list(folds)[1][1], "fold"] = 1
    return rows


def train(cfg: params_yaml.Params, rows: pd.DataFrame, fold: int, seeds: int) -> np.ndarray:
    """Probabilities of the images of ``fold`` by networks trained on the other: float64 (N, seeds)."""
    labels = np.zeros(len(files.read_array(IMAGES)), np.int64)
    labels[rows["row"]] = rows["label"]
    inside = rows["fold"] == fold
    parts = {"train": rows["row"][~inside].to_numpy(), "val": rows["row"][inside].to_numpy()[:64]}
    numbers = members.seeds(cfg.seed, seeds)
    job = members.TrainJob(cfg.model, cfg.train, numbers, IMAGES, labels, parts, Path.cwd())
    device = devices.get_device(cfg.train.device)
    with ranks.process_group(device, 5) as dist:
        ensemble = Ensemble([members.build_member(job, index) for index in range(seeds)])
        results = members.train(job, training.Callbacks(), dist)
    for network, result in zip(ensemble.members, results, strict=True):
        network.load_state_dict(result.best_state)
    return inference.probabilities(ensemble.eval(), files.read_array(IMAGES), rows["row"][inside].to_numpy(), device)


def measure(labels: np.ndarray, probabilities: np.ndarray, threshold: float, size: int) -> np.ndarray:
    """ROC AUC and balanced accuracy of each ensemble of ``size`` neighbouring seeds: float64 (seeds, 2)."""
    seeds = probabilities.shape[1]
    means = [probabilities[:, (first + np.arange(size)) % seeds].mean(axis=1) for first in range(seeds)]
    return np.array([(roc_auc_score(labels, p), balanced_accuracy_score(labels, p >= threshold)) for p in means])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listed", metavar="LIST.csv")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
    if args.seeds < max(SIZES):
        parser.error(f"--seeds {args.seeds}: at least {max(SIZES)} are needed, for ensembles of so many networks")
    cfg, rows = load_cfg(args.changes), load_rows(args.listed)
    share = rows["label"].mean()
    odds = cfg.train.pos_weight * share / (1 - share)
    figures = []
    for fold in (0, 1):
        labels = rows["label"][rows["fold"] == fold].to_numpy()
        scores = train(cfg, rows, fold, args.seeds)
        figures.append([measure(labels, scores, odds / (1 + odds), size) for size in SIZES])
    means, spread = np.mean(figures, axis=(0, 2)), np.std(figures, axis=2, ddof=1).mean(axis=0)[0]
    cells = [f"{area:.3f}, {balanced:.3f}" for area, balanced in means]
    print(f"{len(rows)} images of {rows['patient'].nunique()} patients, threshold {odds / (1 + odds):.2f}")
    print("| ROC AUC, balanced accuracy: one network | SD over seeds | two | five | CPU s |\n|---|---|---|---|---|")
    print(f"| {cells[0]} | {spread[0]:.3f}, {spread[1]:.3f} | {cells[1]} | {cells[2]} | {sum(os.times()[:4]):.0f} |")


if __name__ == "__main__":
    main()
