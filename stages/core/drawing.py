"""Pictures for people. What DVC overlays between runs are the tables beside them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no screen is needed, and none is looked for

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from core import files

# Okabe and Ito's colours, which people with any colour vision can tell apart.
TEST, VALIDATION, NEGATIVE, POSITIVE = "#0072B2", "#E69F00", "#0072B2", "#D55E00"


@contextmanager
def _page(path: str | Path, size: tuple[float, float], grid: tuple[int, int], synthetic: bool) -> Iterator[Any]:
    """A figure of ``grid`` axes that becomes a PNG, marked where what it shows is synthetic."""
    figure, axes = plt.subplots(*grid, figsize=size, layout="constrained", squeeze=False)
    if synthetic:
        figure.suptitle("SYNTHETIC images: says nothing about patients", fontsize=10, color="0.35")
    try:
        yield axes
        with files.whole(path) as unfinished:
            # Without the version of matplotlib, which would make equal pictures differ.
            figure.savefig(unfinished, dpi=100, metadata={"Software": None})
    finally:
        plt.close(figure)


def training(curves: str | Path, best: int, path: str | Path, synthetic: bool) -> None:
    """Loss, accuracy and learning rate by epoch, the kept epoch ``best`` marked.

    ``curves`` is the folder of tables that dvclive wrote.
    """
    with _page(path, (11, 3.4), (1, 3), synthetic) as axes:
        for axis, measure in zip(axes[0], ("loss", "accuracy"), strict=False):
            for part, colour in (("train", TEST), ("val", VALIDATION)):
                table = pd.read_csv(Path(curves, part, f"{measure}.tsv"), sep="\t")
                axis.plot(table["step"], table[measure], color=colour, label=part, marker=".")
            axis.set_ylabel(measure)
        axes[0, 0].set_ylim(bottom=0)
        axes[0, 1].set_ylim(0, 1.02)
        table = pd.read_csv(Path(curves, "lr.tsv"), sep="\t")
        axes[0, 2].plot(table["step"], table["lr"], color="0.3", marker=".")
        axes[0, 2].set_ylabel("learning rate")
        axes[0, 2].set_yscale("log")
        for axis in axes[0]:
            axis.axvline(best, color="0.6", linestyle=":", label=f"kept: epoch {best}")
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0, 0].legend(frameon=False, fontsize=8)


def evaluation(
    curves: dict[str, dict[str, pd.DataFrame]],
    reliability: pd.DataFrame,
    counts: np.ndarray,
    bins: pd.DataFrame,
    figures: dict[str, Any],
    path: str | Path,
) -> None:
    """ROC and PR curves, reliability, confusion matrix, histogram and measures with their intervals.

    ``curves`` holds, under "roc" and "pr", a table for "test" and "val"; ``reliability`` and ``bins`` are those of
    calibration.reliability and scoring.histogram; ``counts`` is (2, 2), rows being the true class; ``figures`` the
    content of metrics/evaluate.json.
    """
    test = figures["test"]
    with _page(path, (13.5, 8), (2, 3), figures["synthetic"]) as axes:
        for axis, (kind, x, y) in zip(
            axes[0],
            [("roc", "false positive rate", "sensitivity"), ("pr", "sensitivity", "precision")],
            strict=False,
        ):
            for part, colour in (("val", VALIDATION), ("test", TEST)):
                table = curves[kind][part]
                axis.plot(
                    table.iloc[:, 0],
                    table.iloc[:, 1],
                    color=colour,
                    drawstyle="steps-post" if kind == "pr" else None,
                    label=part,
                )
            axis.set_title(f"{kind.upper()}, area on test: {_text(test[f'{kind}_auc'])}", fontsize=10)
            axis.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            axis.legend(frameon=False, loc="lower right" if kind == "roc" else "best")
        axes[0, 0].plot([0, 1], [0, 1], color="0.8", linewidth=1, zorder=0)
        _reliability(axes[0, 2], reliability, figures["calibration"])

        matrix = axes[1, 0]
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        matrix.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            shade = "white" if share[row, column] > 0.5 else "black"
            matrix.text(column, row, f"{count:,}", ha="center", va="center", color=shade, fontsize=14)
        matrix.set(xticks=[0, 1], yticks=[0, 1], xlabel="predicted", ylabel="actual")
        matrix.set_xticklabels(["negative", "positive"])
        matrix.set_yticklabels(["negative", "positive"], rotation=90, va="center")
        matrix.set_title(f"{test['images']:,} test images at threshold {figures['threshold']:.3g}", fontsize=10)

        bars, width = axes[1, 1], 1 / len(bins)
        bars.bar(bins["probability"] - width / 4, bins["negatives"], width / 2, color=NEGATIVE, label="negative")
        bars.bar(bins["probability"] + width / 4, bins["positives"], width / 2, color=POSITIVE, label="positive")
        bars.axvline(figures["threshold"], color="0.4", linestyle=":")
        bars.set(xlabel="probability of positive", ylabel="test images", xlim=(0, 1))
        bars.yaxis.set_major_locator(MaxNLocator(integer=True))
        bars.set_title("Scores", fontsize=10)
        bars.legend(frameon=False)
        _intervals(axes[1, 2], figures)


def _text(entry: dict[str, Any]) -> str:
    if entry["value"] is None:
        return "not defined"
    bounds = "" if entry["low"] is None else f" ({entry['low']:.3f} to {entry['high']:.3f})"
    return f"{entry['value']:.3f}{bounds}"


def _reliability(axis: Any, table: pd.DataFrame, calibration: dict[str, Any]) -> None:
    axis.plot([0, 1], [0, 1], color="0.8", linewidth=1, zorder=0)
    axis.plot(table["probability"], table["positive_share"], color=TEST, marker="o", markersize=4)
    for bin_ in table.itertuples():
        axis.annotate(
            f"{bin_.images:,}",
            (bin_.probability, bin_.positive_share),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color="0.35",
        )
    error = calibration["expected_error"]["after" if calibration["applied"] else "before"]
    axis.set_title(
        f"Reliability on test, expected error: {'not defined' if error is None else format(error, '.3f')}", fontsize=10
    )
    axis.set(
        xlabel="mean probability (beside a point: its images)",
        ylabel="share of positives",
        xlim=(-0.02, 1.02),
        ylim=(-0.05, 1.1),
    )


def _intervals(axis: Any, figures: dict[str, Any]) -> None:
    """Each measure on the whole test set and on what training knows nothing of, with its interval."""
    names = [name for name, entry in figures["test"].items() if isinstance(entry, dict)]
    for block, colour, shift in (("test", TEST, -0.14), ("test_unseen", VALIDATION, 0.14)):
        for place, name in enumerate(names):
            entry = figures[block][name]
            if entry["value"] is not None:
                axis.plot(entry["value"], place + shift, color=colour, marker="o", markersize=4)
            if entry["low"] is not None:
                axis.plot([entry["low"], entry["high"]], [place + shift] * 2, color=colour)
        axis.plot([], [], color=colour, marker="o", markersize=4, label=block.replace("test_", ""))
    axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axis.invert_yaxis()
    axis.set(xlim=(-0.02, 1.02))
    axis.set_title("Measures, 95 % intervals", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
