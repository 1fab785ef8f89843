"""Combine the folds of a cross-validation: mean and spread of each measure, and the measure on all folds pooled."""

from typing import Any

from core.evidence import metrics
from core.pipeline import tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.train import Train
from core.pipeline.text import format_metric

import numpy as np
import pandas as pd


def at_once(cfg: Train, members: int) -> int:
    """How many folds of so many members this machine can train at the same time, each member on cores or a GPU of its
    own; at least 1."""
    from core.network import devices  # slow to import
    from core.network.members import max_workers

    return max(1, max_workers(cfg, devices.get_device(cfg.device)) // members)


def pool(folds: list[pd.DataFrame], thresholds: list[float]) -> pd.DataFrame:
    """The test rows of all folds as one table, with the columns ``fold`` and ``threshold`` of each row's fold.

    ``folds`` are predictions with a column ``unit``. Raises PipelineError if an image was tested twice.
    """
    tested = [
        fold[fold["split"] == "test"].assign(fold=number, threshold=threshold)
        for number, (fold, threshold) in enumerate(zip(folds, thresholds, strict=True), start=1)
    ]
    pooled = pd.concat(tested, ignore_index=True)
    twice = pooled["file"].duplicated()
    if twice.any():
        raise PipelineError(
            f"{int(twice.sum()):,} images were tested in two folds: the folds come from different splits"
        )
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
    blocks = {
        name: metrics.counts(rows)
        | metrics.metrics_with_ci(
            metrics.scores(rows, rows["threshold"]), seed, strata=rows["fold"].to_numpy(dtype=np.int64)
        )
        for name, rows in (("test", pooled), ("test_unseen", metrics.non_leaking(pooled)))
    }
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
        mean, deviation = (
            "-" if spread[key] is None else f"{spread[key]:.3f}" for key in ("mean", "standard_deviation")
        )
        lines.append(
            f"{name.replace('_', ' '):18} {mean:>6} {deviation:>6} {spread['folds']:6}   {format_metric(pooled[name])}"
        )
    lines.append("Pooled ROC AUC and PR AUC compare images of the same fold only: each fold has its own network")
    return "\n".join(lines)
