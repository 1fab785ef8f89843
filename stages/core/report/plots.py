"""Plots of training and evaluation, as PNG and as SVG. DVC compares runs by the tables, not by these plots."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # draw without a display

from core.pipeline import files, tables

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

# The colours of Okabe and Ito, which colour-blind people can distinguish.
TEST, VALIDATION, NEGATIVE, POSITIVE = "#0072B2", "#E69F00", "#0072B2", "#D55E00"


@contextmanager
def _page(path: str | Path, size: tuple[float, float], grid: tuple[int, int], synthetic: bool) -> Iterator[Any]:
    """A figure with a ``grid`` of axes, saved as PNG, with a title that says so if the images are synthetic."""
    figure, axes = plt.subplots(*grid, figsize=size, layout="constrained", squeeze=False)
    if synthetic:
        figure.suptitle("SYNTHETIC images: says nothing about patients", fontsize=10, color="0.35")
    try:
        yield axes
        with files.atomic_write(path) as unfinished:
            # Leave out the version of matplotlib, so that equal plots give equal files.
            figure.savefig(unfinished, dpi=100, metadata={"Software": None})
    finally:
        plt.close(figure)


def training(epochs: pd.DataFrame, path: str | Path, synthetic: bool) -> None:
    """Loss, accuracy and learning rate of each network by epoch, with a mark at the epoch whose weights are saved.

    ``epochs`` is the table data/curves/members.csv.
    """
    with _page(path, (11, 3.4), (1, 3), synthetic) as axes:
        for axis, measure in zip(axes[0], ("loss", "accuracy", "lr"), strict=True):
            _epochs(axis, measure, epochs)
        axes[0, 0].legend(frameon=False, fontsize=8)


def _epochs(axis: Any, measure: str, epochs: pd.DataFrame) -> None:
    colours = {"lr": "0.3"} if measure == "lr" else {f"train_{measure}": TEST, f"val_{measure}": VALIDATION}
    saved = epochs[epochs["kept"]]
    members = [table for _, table in epochs.groupby("member")]
    for column, colour in colours.items():
        for number, table in enumerate(members):
            label = "_" if number else column.partition("_")[0]
            alpha = 0.2 + 0.8 / len(members)
            axis.plot(table["epoch"], table[column], color=colour, label=label, marker=".", alpha=alpha)
        axis.plot(saved["epoch"], saved[column], color=colour, marker="o", linestyle="none", fillstyle="none")
    axis.plot([], [], color="0.6", marker="o", linestyle="none", fillstyle="none", label="saved epoch")
    axis.set_ylim(0, 1.02 if measure == "accuracy" else None)
    axis.set_ylabel("learning rate" if measure == "lr" else measure)
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


class PlotData(NamedTuple):
    """What the plots of the test images show."""

    test: pd.DataFrame  # the test images, with the columns of tables.PREDICTIONS and class
    curves: dict[str, dict[str, pd.DataFrame]]  # of curves.curves
    predicted: pd.DataFrame  # of curves.predicted_classes
    confusion: np.ndarray  # of curves.confusion: int64 (2, 2), the true class in rows
    bins: pd.DataFrame  # of curves.histogram
    reliability: pd.DataFrame  # of calibration.reliability
    net_benefit: pd.DataFrame  # of curves.net_benefit, of the non-leaking images


def write(data: PlotData, figures: dict[str, Any], epochs: pd.DataFrame, folder: str) -> None:
    """The tables that DVC plots, and the same as two pictures, in ``folder``; arguments as ``evaluation`` and
    ``training`` have them."""
    by_name = {f"{split}_{kind}": curve for kind, by_split in data.curves.items() for split, curve in by_split.items()}
    by_name |= {"confusion": data.predicted, "histogram": data.bins, "reliability": data.reliability}
    by_name["net_benefit"] = data.net_benefit
    for name, table in by_name.items():
        marked = table.assign(synthetic=True) if figures["synthetic"] else table
        tables.write(marked, f"{folder}/{name}.csv", list(marked.columns))
    evaluation(data, figures, f"{folder}/evaluation.png")
    training(epochs, f"{folder}/training.png", figures["synthetic"])


def evaluation(data: PlotData, figures: dict[str, Any], path: str | Path) -> None:
    """ROC and PR curves, reliability, confusion matrix, histogram and measures with their intervals. ``figures`` is the
    content of data/detail/evaluate.json."""
    test, counts = figures["test"], data.confusion
    with _page(path, (13.5, 8), (2, 3), figures["synthetic"]) as axes:
        for axis, kind in zip(axes[0], ("roc", "pr"), strict=False):
            _curve(axis, kind, data.curves[kind], test)
        _reliability(axes[0, 2], data.reliability, figures["calibration"])

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

        _scores(axes[1, 1], data.bins, figures["threshold"])
        _intervals(axes[1, 2], figures)


def _curve(axis: Any, kind: str, curves: dict[str, pd.DataFrame], test: dict[str, Any]) -> None:
    """The ROC or PR curve of validation and test."""
    for split, colour in (("val", VALIDATION), ("test", TEST)):
        steps = "steps-post" if kind == "pr" else None
        if len(curves[split]):
            axis.plot(curves[split].iloc[:, 0], curves[split].iloc[:, 1], color=colour, drawstyle=steps, label=split)
    axis.set_title(f"{kind.upper()} AUC on test: {text(test[f'{kind}_auc'])}", fontsize=10)
    x, y = ("false positive rate", "sensitivity") if kind == "roc" else ("sensitivity", "precision")
    axis.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axis.legend(frameon=False, loc="lower right" if kind == "roc" else "best")
    if kind == "roc":
        axis.plot([0, 1], [0, 1], color="0.8", linewidth=1, zorder=0)


def _scores(axis: Any, bins: pd.DataFrame, threshold: float) -> None:
    width = 1 / len(bins)
    axis.bar(bins["probability"] - width / 4, bins["negatives"], width / 2, color=NEGATIVE, label="negative")
    axis.bar(bins["probability"] + width / 4, bins["positives"], width / 2, color=POSITIVE, label="positive")
    axis.axvline(threshold, color="0.4", linestyle=":")
    axis.set(xlabel="probability of positive", ylabel="test images", xlim=(0, 1))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title("Predicted probabilities", fontsize=10)
    axis.legend(frameon=False)


def text(entry: dict[str, Any]) -> str:
    return "not defined" if entry["value"] is None else f"{entry['value']:.3f} ({bounds(entry)})"


def bounds(entry: dict[str, Any]) -> str:
    """An interval as text."""
    return "no interval" if entry["ci_low"] is None else f"{entry['ci_low']:.3f} to {entry['ci_high']:.3f}"


def _reliability(axis: Any, table: pd.DataFrame, calibration: dict[str, Any]) -> None:
    axis.plot([0, 1], [0, 1], color="0.8", linewidth=1, zorder=0)
    axis.plot(table["probability"], table["positive_share"], color=TEST, marker="o", markersize=4)
    share = table["positive_share"].to_numpy()
    neighbours = (np.append(share[1:], share[-1:]) + np.append(share[:1], share[:-1])) / 2
    for bin_, low in zip(table.itertuples(), share < neighbours, strict=True):  # write the number off the line
        place = {"xytext": (4, -8), "ha": "left"} if low else {"xytext": (0, 6), "ha": "center"}
        point = bin_.probability, bin_.positive_share
        axis.annotate(f"{bin_.images:,}", point, textcoords="offset points", fontsize=7, color="0.35", **place)
    error = calibration["ece"]["after" if calibration["applied"] else "before"]
    words = "not defined" if error is None else f"{error:.3f}"
    axis.set_title(f"Reliability on test, calibration error: {words}", fontsize=10)
    axis.set(xlabel="mean probability (numbers: images in the bin)", ylabel="share of positives")
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.05, 1.1))


def _net_benefit(axis: Any, table: pd.DataFrame, points: dict[str, Any]) -> None:
    """The decision curve, with the 95 % intervals of the model at ``points``, the block net_benefit of the details."""
    for name, words, colour in (
        ("all", "all positive", VALIDATION), ("none", "none positive", "0.6"), ("model", "model", TEST),
    ):  # fmt: skip
        axis.plot(table["threshold"], table[name], color=colour, label=words)
    for threshold, entries in points.items():
        if entries["model"]["ci_low"] is not None:
            axis.plot([float(threshold)] * 2, [entries["model"]["ci_low"], entries["model"]["ci_high"]], color=TEST)
    top = max(0.02, table["all"].max())  # in this order: of no images, the other is NaN
    axis.set(xlabel="threshold", ylabel="net benefit per image", xlim=(-0.02, 1.02), ylim=(-top / 3, top * 1.2))
    axis.set_title("Net benefit on non-leaking test images", fontsize=10)
    axis.legend(frameon=False, fontsize=8)


def _intervals(axis: Any, figures: dict[str, Any]) -> None:
    """Each measure with its interval: on all test images and, if the test set leaks, also on the non-leaking ones."""
    names = [name for name, entry in figures["test"].items() if isinstance(entry, dict)]
    leaks = figures["test_unseen"]["images"] < figures["test"]["images"]
    blocks = [("test", "all test images", TEST, 0.0)]
    if leaks:
        blocks = [("test", "all test images", TEST, -0.14), ("test_unseen", "non-leaking", VALIDATION, 0.14)]
    for block, label, colour, shift in blocks:
        for place, name in enumerate(names):
            entry = figures[block][name]
            if entry["value"] is not None:
                axis.plot(entry["value"], place + shift, color=colour, marker="o", markersize=4)
            for interval, width in ((entry, 1.5), (entry["recipe"], 0.7)):
                if interval["ci_low"] is not None:
                    ends = [interval["ci_low"], interval["ci_high"]]
                    axis.plot(ends, [place + shift] * 2, color=colour, linewidth=width)
        axis.plot([], [], color=colour, marker="o", markersize=4, label=label)
    axis.set_yticks(range(len(names)), [TICKS.get(name, name.replace("_", " ")) for name in names])
    axis.invert_yaxis()
    axis.set(xlim=(-0.02, 1.02))
    thin = any(figures["test"][name]["recipe"]["ci_low"] is not None for name in names)
    axis.set_title(f"Measures, 95 % intervals{'; thin: with seed variance' if thin else ''}", fontsize=10)
    if leaks:
        axis.legend(frameon=False, fontsize=8)


TICKS = {"f1": "F1", "roc_auc": "ROC AUC", "pr_auc": "PR AUC", "brier": "Brier (0 is best)"}
# The CSS variable that replaces each colour in the page, which sets it for light and for dark mode.
INKS = {
    "#000000": "ink", "#4d4d4d": "ink", "#595959": "muted", "#666666": "muted", "#999999": "muted", "#cccccc": "faint",
    TEST.lower(): "blue", POSITIVE.lower(): "orange", VALIDATION.lower(): "yellow",
}  # fmt: skip
MAX_ROWS = 60  # in one plot


def vectors(data: PlotData, figures: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """The plots of test images as inline SVG for an HTML page, by name with ``prefix``. They use the font and the CSS
    variables of the page and load nothing. ``figures`` is the content of data/detail/evaluate.json."""
    test, area = data.test, figures["test_unseen" if "common" in figures else "test"]
    plots: dict[str, Callable[[Any], None]] = {
        "roc": lambda axis: _curve(axis, "roc", data.curves["roc"], area),
        "pr": lambda axis: _curve(axis, "pr", data.curves["pr"], area),
        "reliability": lambda axis: _reliability(axis, data.reliability, figures["calibration"]),
        "scores": lambda axis: _scores(axis, data.bins, figures["threshold"]),
        "net_benefit": lambda axis: _net_benefit(axis, data.net_benefit, figures["net_benefit"]),
        "intervals": lambda axis: _intervals(axis, figures),
    }
    height = dict.fromkeys(plots, 3.6)
    if test["patient"].notna().any():
        plots["patients"] = lambda axis: _rows(axis, test, "patient", figures["threshold"])
        height["patients"] = 1.2 + 0.2 * min(test["patient"].nunique(), MAX_ROWS)
    if "test_classes" in figures:
        plots["classes"] = lambda axis: _rows(axis, test, "class", figures["threshold"])
        height["classes"] = 1.2 + 0.25 * min(test["class"].nunique(), MAX_ROWS)
    if "groups" in figures:
        plots["groups"] = lambda axis: _groups(axis, figures)
        height["groups"] = 1.2 + 0.25 * sum(len(group["levels"]) for group in figures["groups"].values())
    return {prefix + name: _vector(prefix + name, draw, height[name]) for name, draw in plots.items()}


def training_vectors(epochs: pd.DataFrame) -> dict[str, str]:
    """The plots of loss and accuracy as inline SVG; ``epochs`` as for ``training``."""
    return {name: _vector(name, partial(_epochs, measure=name, epochs=epochs), 2.6) for name in ("loss", "accuracy")}


def _vector(name: str, draw: Callable[[Any], None], height: float) -> str:
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):  # equal plots give equal bytes
        figure, axis = plt.subplots(figsize=(5, height), layout="constrained")
        draw(axis)
        if name == "loss":
            axis.legend(frameon=False, fontsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    _, _, svg = buffer.getvalue().partition("<svg")
    svg = re.sub(r"<metadata>.*?</metadata>", "", f"<svg{svg}", flags=re.DOTALL)
    svg = re.sub(r'( id="|"#|url\(#)', rf"\g<1>{name}-", svg)  # ids must be unique among the plots of a page
    return re.sub("#[0-9a-f]{6}", lambda match: f"var(--{INKS[match[0]]})" if match[0] in INKS else match[0], svg)


def _groups(axis: Any, figures: dict[str, Any]) -> None:
    """ROC AUC of each level of each group, with its interval."""
    levels = [
        (f"{group}: {level}", entry["roc_auc"])
        for group, content in figures["groups"].items()
        for level, entry in content["levels"].items()
    ]
    for place, (_, entry) in enumerate(levels):
        if entry["value"] is not None:
            axis.plot(entry["value"], place, color=TEST, marker="o", markersize=4)
        if entry["ci_low"] is not None:
            axis.plot([entry["ci_low"], entry["ci_high"]], [place, place], color=TEST, linewidth=1.5)
    area = figures["test_unseen"]["roc_auc"]["value"]
    if area is not None:
        axis.axvline(area, color="0.4", linestyle=":")
    axis.set_yticks(range(len(levels)), [name for name, _ in levels], fontsize=8, parse_math=False)
    axis.set(xlabel="ROC AUC", xlim=(-0.02, 1.02), ylim=(len(levels) - 0.4, -0.6))


def _rows(axis: Any, test: pd.DataFrame, by: str, threshold: float) -> None:
    """The probability of each test image, one line per patient or per class, highest mean first."""
    means = test.groupby(by)["probability"].mean().sort_values(ascending=False, kind="stable")
    shown = means.index[:MAX_ROWS]
    place = test[by].map({name: number for number, name in enumerate(shown)})
    for label, colour, name in ((0, NEGATIVE, "negative"), (1, POSITIVE, "positive")):
        rows = (test["label"] == label) & place.notna()
        marks = {"marker": "o" if label else "|", "markersize": 3.5 if label else 6, "linestyle": "none"}
        axis.plot(test.loc[rows, "probability"], place[rows], color=colour, label=name, alpha=0.7, **marks)
    axis.axvline(threshold, color="0.4", linestyle=":")
    axis.set_yticks(range(len(shown)), shown, fontsize=7, parse_math=False)
    axis.set(xlabel="probability of positive", xlim=(-0.02, 1.02), ylim=(len(shown) + 0.4, -0.6))
    excerpt = f", the {MAX_ROWS} highest of {len(means):,}" if len(means) > MAX_ROWS else ""
    axis.set_title(f"Predicted probabilities by {by}{excerpt}", fontsize=10)
    axis.legend(frameon=False, fontsize=8, loc="lower right", ncols=2)
