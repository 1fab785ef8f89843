"""Test whether two classifiers differ, and list what changed between them in data and parameters."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from core.commands import folds, revisions
from core.evidence import intervals, metrics, seed_variance
from core.evidence.intervals import Scores
from core.pipeline import components, params, tables
from core.pipeline.errors import PipelineError
from core.pipeline.text import format_p, shorten

import numpy as np
import pandas as pd
from scipy.special import ndtri

PREDICTIONS = "data/predictions.csv"
SPLIT = "data/split.csv"
INDEX = "data/prepared/index.csv"
DETAIL = "metrics/detail/evaluate.json"
LABELS = {"roc_auc": "ROC AUC", "pr_auc": "PR AUC", "f1": "F1", "brier": "Brier (lower is better)"}
LESS_IS_BETTER = ["brier"]
PRIMARY = "roc_auc"
DRAWS = 20_000  # of the statistics of all measures without a difference
NUMBERS = ["first", "second", "difference", "ci_low", "ci_high", "p"]


class Run(NamedTuple):
    """A revision, or the folds of a cross-validation."""

    name: str
    split: pd.DataFrame  # with the column pixels_sha256
    predictions: pd.DataFrame  # of folds, with the columns fold, threshold and temperature of each row
    threshold: float
    params: dict[str, Any]  # with dotted keys
    temperature: float = 1.0  # 1 if the run was not calibrated


def load(revision: str) -> Run:
    """A revision, branch or experiment, read through DVC, or NAME-K, the folds NAME-K-1 to NAME-K-K of folds.py. Raises
    PipelineError."""
    if names := revisions.folds(revision):
        runs = list(map(load, names))
        tables_of_folds = [run.predictions.assign(temperature=run.temperature) for run in runs]
        tested = folds.pool(tables_of_folds, [run.threshold for run in runs])
        parameters = {key: value for key, value in runs[0].params.items() if key != "split.fold"}
        return Run(revision, runs[0].split, tested, runs[0].threshold, parameters)
    pixels = revisions.table(revision, INDEX, ["file", "pixels_sha256"])
    threshold, temperature = revisions.decisions(revision, DETAIL)
    split = revisions.table(revision, SPLIT, tables.SPLIT).merge(pixels, on="file", how="left")
    predictions = revisions.table(revision, PREDICTIONS, tables.PREDICTIONS)
    return Run(revision, split, predictions, threshold, revisions.parameters(revision, params.PATH), temperature)


def test_images(runs: tuple[Run, Run], shared: bool) -> pd.DataFrame:
    """The test images of both runs.

    A unit is a set of images that are left out together: images linked by patient or by copies in either run.

    Parameters
    ----------
    shared : return only the images that are the same in both runs, possibly none

    Returns
    -------
    DataFrame
        file, label, patient, unit, and of each run, 0 and 1, the probability and those without one of its members, the
        fold and its threshold: probability_0, without_1_0, fold_0, threshold_0, ...

    Raises
    ------
    PipelineError
        If the test sets differ, without ``shared``.
    """
    tests = []
    for number, run in enumerate(runs):
        test = run.predictions[run.predictions["split"] == "test"]
        test = test.assign(fold=test.get("fold", 0), threshold=test.get("threshold", run.threshold))
        temperature = test["temperature"].to_numpy() if "temperature" in test else run.temperature
        test = seed_variance.add_leave_one_out(test, temperature).set_index("file")
        columns = ["label", "patient", "probability", "fold", "threshold", *seed_variance.leave_one_out_columns(test)]
        tests.append(test[columns].add_suffix(f"_{number}"))
    both = tests[0].join(tests[1], how="inner").reset_index()
    relabelled = both["label_0"] != both["label_1"]
    pixels = [both["file"].map(run.split.set_index("file")["pixels_sha256"]) for run in runs]
    replaced = pixels[0] != pixels[1]  # another image under the same name
    same = both[~relabelled & ~replaced].rename(columns={"label_0": "label", "patient_0": "patient"})
    missing = [len(test) - len(both) for test in tests]
    if (any(missing) or len(same) < len(both)) and not shared:
        raise PipelineError(
            f"the test sets differ: {missing[0]:,} images only in {runs[0].name}, {missing[1]:,} only in "
            f"{runs[1].name}, {int(relabelled.sum()):,} with another label, {int(replaced.sum()):,} with other pixels, "
            f"{len(same):,} the same. Add --shared to compare only the same images"
        )
    images = pd.DataFrame(index=pd.concat([run.split["file"] for run in runs]).unique())
    keys = [run.split.set_index("file")[key] for run in runs for key in ("patient", "cluster")]
    unit = components.union(images, keys).loc[same["file"]]
    return same.assign(unit=unit.to_numpy(dtype=np.int64)).reset_index(drop=True)


def measure(runs: tuple[Run, Run], images: pd.DataFrame, seed: int = 0, primary: str = PRIMARY) -> pd.DataFrame:
    """Compare the measures of two runs on the same images.

    If both runs are ensembles, recipes are compared: patients and trainings are both drawn
    (core.evidence.seed_variance). Otherwise the two models are compared: only the patients are drawn. The ``primary``
    measure is tested by itself, as the primary endpoint of a trial is; the p-values of all others are adjusted for each
    other. The areas under the curves compare images of the same fold.

    Parameters
    ----------
    images : DataFrame, from ``test_images``

    Returns
    -------
    DataFrame with a row for each measure
        Both values, their difference (second minus first) with its 95 % interval and p, the reason if one of these is
        missing, ``primary``, and ``differ``, whether the difference is significant.
    """
    pair = _scores(images, 0), _scores(images, 1)
    folds_of = [images[f"fold_{number}"].to_numpy() for number in (0, 1)]
    within_folds = any(len(np.unique(folds)) > 1 for folds in folds_of)

    first, second = (
        _measured(scores, folds, seed, recipes(runs)) for scores, folds in zip(pair, folds_of, strict=True)
    )
    effects = np.zeros((len(metrics.MEASURES), len(first.left_out["accuracy"])))
    rows = []
    for name, effect in zip(metrics.MEASURES, effects, strict=True):
        values = first.values[name], second.values[name]
        row: dict[str, Any] = {"measure": name, "first": values[0], "second": values[1], "reason": "not defined"}
        rows.append(row)
        if None in values:
            continue
        row["difference"] = values[1] - values[0]
        left_out = second.left_out[name] - first.left_out[name]
        effect[:] = left_out - row["difference"]
        trainings = first.training(name), second.training(name)
        result = intervals.difference(name, values, left_out, pair, sum(trainings, ()), within_folds)
        if isinstance(result, str):
            row["reason"] = result
        elif recipes(runs) and not all(trainings):
            row["reason"] = "not defined without one of the members"
        else:
            row |= dict(zip(("ci_low", "ci_high", "p"), result, strict=True), reason="")
    table = pd.DataFrame(rows, columns=["measure", *NUMBERS, "reason"]).astype(dict.fromkeys(NUMBERS, "Float64"))
    p, others = table["p"].to_numpy(dtype=np.float64, na_value=np.nan), (table["measure"] != primary).to_numpy()
    p[others] = _max_t(p[others], effects[others], seed)
    table = table.assign(p=pd.array(p, dtype="Float64"), primary=~others)
    return table.assign(differ=(table["p"] <= intervals.ALPHA).fillna(False).astype(bool))


class _Measures(NamedTuple):
    """The measures of a run, and of an ensemble those without each of its networks."""

    values: dict[str, Any]
    left_out: dict[str, np.ndarray]  # (R,): without each patient
    members: list[dict[str, Any]]  # without each of K networks
    crossed: list[dict[str, np.ndarray]]  # (R,): without each of K networks and each patient; [] for many patients

    def training(self, name: str) -> tuple[seed_variance.VarianceComponent, ...]:
        """The variance of a measure over trainings, and minus its interaction with patients; none if not defined."""
        members = [measures[name] for measures in self.members]
        if not (total := seed_variance.jackknife(members)):
            return ()
        if not self.crossed:
            return (total,)
        crossed = np.stack([left_out[name] for left_out in self.crossed])
        both = seed_variance.interaction(self.values[name], members, self.left_out[name], crossed)
        return total, both._replace(variance=-min(both.variance, total.variance))


def _measured(scores: Scores, folds: np.ndarray, seed: int, ensemble: bool) -> _Measures:
    """``folds``, int64 (N,), are those of the images: the areas under the curves compare images of the same fold.

    With more than MAX_LEFT_OUT patients, their interaction with trainings is a small part of the variance over
    trainings, and is not computed, which would take most of the time.
    """

    def compute(images: Scores, function: Callable[[Scores], dict[str, Any]]) -> dict[str, Any]:
        return function(images) | (metrics.within(images, folds, function) if len(np.unique(folds)) > 1 else {})

    jackknife = partial(intervals.jackknife, seed=seed, superset=scores)
    members = scores.leave_one_out if ensemble else ()
    crossed = members if scores.units.max() < intervals.MAX_LEFT_OUT else ()
    return _Measures(
        compute(scores, metrics.measures), compute(scores, jackknife),
        [compute(member, metrics.measures) for member in members], [compute(member, jackknife) for member in crossed],
    )  # fmt: skip


def _scores(images: pd.DataFrame, number: int) -> Scores:
    """The scores of the first run (0) or the second (1) in a table of ``test_images``."""
    table = images.filter(regex=rf"^(probability|{seed_variance.WITHOUT}\d+)_{number}$")
    table = table.rename(columns=lambda name: name.rpartition("_")[0]).join(images[["label", "unit"]])
    return metrics.scores(table, images[f"threshold_{number}"])


def recipes(runs: tuple[Run, Run]) -> bool:
    """Whether both runs have several members, so that their recipes can be compared."""
    return all(len(tables.members(run.predictions)) > 1 for run in runs)


def _max_t(p: np.ndarray, effects: np.ndarray, seed: int) -> np.ndarray:
    """The p-values adjusted for each other by the step-down max-T procedure (Westfall and Young 1993, Resampling-Based
    Multiple Testing, algorithm 2.8): the largest of correlated statistics is rarely much larger than one of them. The
    statistics are drawn from the normal distribution with their correlation (Hothorn, Bretz and Westfall 2008,
    Biometrical Journal 50(3), 346-363).

    ``p``, float64 (M,), is two-sided, and NaN where missing. ``effects``, float64 (M, R), are how much each patient
    changes each difference when left out. No adjusted p is less than ``p``, or than 1 / (DRAWS + 1).
    """
    adjusted, order = np.full(len(p), np.nan), np.argsort(p, kind="stable")[: int((~np.isnan(p)).sum())]
    if not len(order):
        return adjusted
    tested = np.nan_to_num(effects[order])
    tested /= np.maximum(np.linalg.norm(tested, axis=1, keepdims=True), 1e-12)  # all 0 if no patient changes it
    random = np.random.RandomState(seed % 2**32)
    null = np.abs(random.multivariate_normal(np.zeros(len(order)), tested @ tested.T, DRAWS, check_valid="ignore")).T
    observed = -ndtri(p[order] / 2)  # the normal quantiles, because p is of Student's t, also over trainings
    previous = 0.0
    for step, number in enumerate(order):
        exceeding = int((null[step:].max(axis=0) >= observed[step]).sum())
        previous = adjusted[number] = max(previous, p[number], (1 + exceeding) / (1 + DRAWS))
    return adjusted


def changed_images(runs: tuple[Run, Run]) -> dict[str, list[str]]:
    """The files that were added, removed, replaced, relabelled, given to another patient or moved between splits."""
    both = runs[0].split.merge(runs[1].split, on="file", how="outer", suffixes=("_0", "_1"), indicator="where")
    kept = both[both["where"] == "both"]
    patients = [kept[f"patient_{number}"].fillna("") for number in (0, 1)]
    moved = kept[kept["split_0"] != kept["split_1"]]
    changes = {
        "added": both[both["where"] == "right_only"],
        "removed": both[both["where"] == "left_only"],
        "with other pixels": kept[kept["pixels_sha256_0"] != kept["pixels_sha256_1"]],
        "relabelled": kept[kept["label_0"] != kept["label_1"]],
        "given to another patient": kept[patients[0] != patients[1]],
    }
    for (old, new), rows in moved.groupby(["split_0", "split_1"]):
        changes[f"moved from {old} to {new}"] = rows
    return {change: sorted(rows["file"]) for change, rows in changes.items() if len(rows)}


def changed_params(runs: tuple[Run, Run]) -> dict[str, tuple[Any, Any]]:
    """Each key whose value differs, with both values; "absent" if a run does not have the key."""
    keys = sorted(runs[0].params.keys() | runs[1].params.keys())
    both = {key: (runs[0].params.get(key, "absent"), runs[1].params.get(key, "absent")) for key in keys}
    return {key: values for key, values in both.items() if values[0] != values[1]}


def explain(runs: tuple[Run, Run], images: pd.DataFrame, measured: pd.DataFrame | None, markdown: bool) -> str:
    """The comparison for people, as plain text or as Markdown for a pull request. If the runs have no ``images`` in
    common, ``measured`` is None, and only the changes are listed."""
    first, second = runs[0].name, runs[1].name
    counted = tables.counts(images)
    whose = "patients unknown" if counted["patients"] is None else (
        f"of {counted['patients']:,} patients ({counted['positive_patients']:,} with a positive image)"
    )  # fmt: skip
    lines = [f"## {first} and {second}", ""] if markdown else []
    if tables.is_synthetic(images):
        lines += ["SYNTHETIC images: this comparison says nothing about patients.", ""]
    headline = f"{first} and {second} have no test image in common: their figures can't be compared."
    headline = headline if measured is None else _headline(runs, measured)
    lines += [f"**{headline}**" if markdown else headline, ""]
    for run in runs:
        test = run.predictions[run.predictions["split"] == "test"]
        if leaking := len(test) - len(metrics.non_leaking(test)):
            share = f"{leaking:,} of its {len(test):,} test images"
            lines.append(f"LEAK in {run.name}: {share} have a copy or their patient in training.")
    if measured is not None:
        lines += [f"Test images in both: {counted['images']:,} ({counted['positives']:,} positive), {whose}."]
        lines += ["", *_table(runs, measured, markdown), ""]
        drawn = "new patients and new trainings" if recipes(runs) else "new patients, and these trainings"
        lines.append(
            f"Intervals: 95 % for each difference, for {drawn}. The primary measure (evaluate.primary, or --primary "
            "of judge.py) is tested by itself. The others are exploratory: their p is adjusted for all of them "
            "(max-T), so an interval can exclude 0 while p is above 0.05."
        )
    bullet = "- " if markdown else "  "
    for title, entries in (
        ("Parameters", [f"{key}: {_yaml(old)} -> {_yaml(new)}" for key, (old, new) in changed_params(runs).items()]),
        ("Images", [f"{len(files):,} {change}: {shorten(files, 3)}" for change, files in changed_images(runs).items()]),
    ):
        if title == "Parameters" and not (runs[0].params or runs[1].params):
            continue  # scores from elsewhere
        lines += ["", f"**{title}**" if markdown else title, ""][: 3 if markdown else 2]
        lines += [bullet + (f"`{entry}`" if markdown else entry) for entry in entries] or [bullet + "no change"]
    return "\n".join(lines) + "\n"


def _headline(runs: tuple[Run, Run], measured: pd.DataFrame) -> str:
    first, second = runs[0].name, runs[1].name
    primary, differ = measured[measured["primary"]].iloc[0], measured[measured["differ"]]
    if measured["p"].isna().all():
        return f"A difference between {first} and {second} can't be tested: {primary['reason']}."
    if (measured["difference"].fillna(0) == 0).all():
        return f"{first} and {second} give equal figures."
    label = LABELS.get(primary["measure"], primary["measure"].replace("_", " "))
    text = f"No significant difference between {first} and {second} in {label}, the primary measure."
    if pd.isna(primary["p"]):
        text = f"{label}, the primary measure, can't be tested: {primary['reason']}."
    names = [f"{row['measure'].replace('_', ' ')} {_signed(row['difference'])}" for _, row in differ.iterrows()]
    if primary["differ"]:
        text = f"{first} and {second} differ significantly: {', '.join(names)} ({second} minus {first})."
    elif names:
        text += f" Exploratory measures differ: {', '.join(names)} ({second} minus {first})."
    single = [run.name for run in runs if len(tables.members(run.predictions)) < 2]
    return text if not single else (
        f"{text} This compares two models, not their recipes: {' and '.join(single)} trained one network only, so the "
        "difference may come from the random seed (train.ensemble_size)."
    )  # fmt: skip


def _signed(difference: float) -> str:
    return f"{difference:+.3f}" if difference == 0 or abs(difference) >= 0.0005 else f"{difference:+.0e}"


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value)


def _table(runs: tuple[Run, Run], measured: pd.DataFrame, markdown: bool) -> list[str]:
    cells = [["measure", runs[0].name, runs[1].name, "difference (95 % interval)", "p", ""]]
    for row in measured.to_dict("records"):
        first, second = ("-" if pd.isna(row[name]) else f"{row[name]:.3f}" for name in ("first", "second"))
        p = "-" if pd.isna(row["p"]) else format_p(row["p"]).removeprefix("p ").removeprefix("= ")
        difference = "-" if pd.isna(row["difference"]) else _signed(row["difference"])
        conclusion = row["reason"]
        if not pd.isna(row["p"]):
            difference += f" ({_signed(row['ci_low'])} to {_signed(row['ci_high'])})"
            conclusion = "no significant difference" if row["difference"] else "equal"
            if row["differ"]:
                conclusion = f"{runs[int(row['difference'] > 0)].name} is higher"
        label = LABELS.get(row["measure"], row["measure"].replace("_", " ")) + " (primary)" * row["primary"]
        cells.append([label, first, second, difference, p, conclusion])
    if markdown:
        rule = "|" + " --- |" * len(cells[0])
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
        return [lines[0], rule, *lines[1:]]
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
