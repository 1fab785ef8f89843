"""Combine the folds of a cross-validation: mean and spread of each measure, and the measure on all folds pooled."""

import os
from typing import Any

from core.evidence import metrics
from core.pipeline import params, tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.train import Train
from core.pipeline.text import format_metric

import numpy as np
import pandas as pd

PROCESSES = ("ensemble_size", "nproc_per_node", "device", "threads")  # keys of train
VISIBLE = "CUDA_VISIBLE_DEVICES"  # environment variable: the GPUs that a process may use


def with_overrides(cfg: Train, changes: list[str]) -> Train:
    """``cfg`` with those of ``changes``, KEY=VALUE, that decide how many processes train. Raises PipelineError."""
    values = cfg.model_dump()
    for key, _, value in (change.partition("=") for change in changes):
        if (name := key.removeprefix("train.")) != key and name in PROCESSES:
            values[name] = int(value) if value.isdecimal() else value
    return params.validate(Train, values, "--set-param")


def worker_environments(cfg: Train, folds: int) -> list[dict[str, str]]:
    """The folds that this machine can train at the same time, at least one and at most so many: for each, what its
    environment needs. Each process that trains has cores or a GPU of its own."""
    from core.network.members import max_workers

    import torch  # slow to import

    nproc = 1 if cfg.nproc_per_node == "auto" else int(cfg.nproc_per_node)
    processes = nproc if nproc > 1 else cfg.ensemble_size  # several share each member, or each has a member
    on_gpus = cfg.device != "cpu" and torch.cuda.is_available()
    workers = max_workers(cfg, torch.device("cuda" if on_gpus else "cpu"))
    count = min(folds, max(1, workers // processes))
    if not on_gpus or count == 1:
        return [{}] * count
    gpus = os.environ.get(VISIBLE, ",".join(map(str, range(workers)))).split(",")[:workers]
    return [{VISIBLE: ",".join(gpus[workers * at // count : workers * (at + 1) // count])} for at in range(count)]


def pool(folds: list[pd.DataFrame], thresholds: list[float]) -> pd.DataFrame:
    """The test rows of all folds as one table.

    Parameters
    ----------
    folds : predictions of each fold, with a column ``unit``

    Returns
    -------
    DataFrame with the columns of ``folds``, and ``fold`` and ``threshold`` of each row's fold

    Raises
    ------
    PipelineError
        If an image was tested twice.
    """
    tested = [
        fold[fold["split"] == "test"].assign(fold=number, threshold=threshold)
        for number, (fold, threshold) in enumerate(zip(folds, thresholds, strict=True), start=1)
    ]
    pooled = pd.concat(tested, ignore_index=True)
    if twice := pooled["file"].duplicated().sum():
        raise PipelineError(f"{twice:,} images were tested in two folds: the folds come from different splits")
    return pooled


def summarise(pooled: pd.DataFrame, seed: int) -> dict[str, Any]:
    """The content of metrics/detail/folds.json: ``folds``, one entry per fold; ``spread``, mean and standard deviation
    of each measure over the folds in which it is defined; ``pooled``, the measures on the images of all folds, each
    scored by the network that did not train on it; and ``leaking``, as metrics.summarise.

    Networks of different folds have different scales: the areas under the curves compare images of the same fold only.
    """
    folds: list[dict[str, Any]] = [
        {"fold": int(str(number))} | metrics.counts(rows) | metrics.measures(metrics.scores(rows, rows["threshold"]))
        for number, rows in pooled.groupby("fold")
    ]
    spread = {}
    for name in metrics.MEASURES:
        values = [fold[name] for fold in folds if fold[name] is not None]
        spread[name] = {
            "mean": float(np.mean(values)) if values else None,
            "standard_deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "folds": len(values),
        }
    blocks = {}
    for name, rows in (("test", pooled), ("test_unseen", metrics.non_leaking(pooled))):
        scores, strata = metrics.scores(rows, rows["threshold"]), rows["fold"].to_numpy(dtype=np.int64)
        blocks[name] = metrics.counts(rows) | metrics.metrics_with_ci(scores, seed, strata=strata)
    strata = pooled["fold"].to_numpy(dtype=np.int64)
    leaking: dict[str, Any] = {"roc_auc": metrics.leaking_auc(pooled, pooled["threshold"], seed, strata)}
    leaking |= metrics.leaking(pooled)
    synthetic = tables.is_synthetic(pooled)
    return {"synthetic": synthetic, "folds": folds, "spread": spread, "pooled": blocks, "leaking": leaking}


def explain(figures: dict[str, Any]) -> str:
    """A table in plain text, one line per measure."""
    pooled = figures["pooled"]["test"]
    lines = ["SYNTHETIC images"] if figures["synthetic"] else []
    lines.append(f"{'measure':18} {'mean':>6} {'SD':>6} {'folds':>6}   {'pooled (95 % interval)'}")
    for name, spread in figures["spread"].items():
        numbers = (spread[key] for key in ("mean", "standard_deviation"))
        mean, deviation = ("-" if number is None else f"{number:.3f}" for number in numbers)
        measure, count = name.replace("_", " "), spread["folds"]
        lines.append(f"{measure:18} {mean:>6} {deviation:>6} {count:6}   {format_metric(pooled[name])}")
    lines.append("Pooled ROC AUC and PR AUC compare images of the same fold only: each fold has its own network")
    return "\n".join(lines)
