import subprocess

from core.commands import comparison, revisions
from core.evidence import metrics
from core.pipeline.errors import PipelineError

import numpy as np
import pandas as pd
import pytest

from comparison import equal_runs, recipe_runs, unequal_runs


def run(rows, name="one", threshold=0.5, params=None):
    """A run of (file, label, patient, cluster, part, probability)."""
    table = pd.DataFrame(rows, columns=["file", "label", "patient", "cluster", "split", "probability"])
    table = table.astype({"file": "string", "patient": "string", "cluster": "Int64"})
    table["copy_in_train"] = pd.array([False] * len(table), dtype="boolean")
    table["patient_in_train"] = pd.array([False] * len(table), dtype="boolean")
    table["pixels_sha256"] = "pixels of " + table["file"]
    return comparison.Run(name, table, table[table["split"].isin(["val", "test"])], threshold, params or {})


ROWS = [(f"f{n}", n % 2, f"p{n // 4}", None, "test", 0.2 + 0.5 * (n % 2) + 0.01 * n) for n in range(24)]
ROWS += [(f"t{n}", n % 2, f"q{n}", None, "train", 0.5) for n in range(8)]


def changed(**changes):
    """ROWS with some columns of one file replaced: changed(f3={"label": 0})."""
    names = ["file", "label", "patient", "cluster", "split", "probability"]
    return [tuple((dict(zip(names, row, strict=True)) | changes.get(row[0], {})).values()) for row in ROWS]


def explained(first, second, shared=False, markdown=False):
    images = comparison.test_images((first, second), shared)
    measured = None if images.empty else comparison.measure((first, second), images)
    return comparison.explain((first, second), images, measured, markdown)


def test_equal_runs_give_equal_figures():
    text = explained(run(ROWS), run(ROWS, "two"))
    assert "one and two give equal figures." in text and "no change" in text


@pytest.mark.parametrize(
    "second",
    [
        [row for row in ROWS if row[0] != "f3"],
        [*ROWS, ("new", 1, "z", None, "test", 0.5)],
        changed(f3={"label": 0}),
        changed(f3={"split": "train"}),
    ],
)
def test_different_test_sets_are_refused_and_compared_where_they_are_shared(second):
    with pytest.raises(PipelineError, match="the test sets differ: .* --shared"):
        explained(run(ROWS), run(second, "two"))
    count = 24 if len(second) > len(ROWS) else 23
    assert f"Test images in both: {count} (" in explained(run(ROWS), run(second, "two"), shared=True)


def test_of_runs_without_a_test_image_in_common_only_the_changes_are_told():
    text = explained(run(ROWS), run([("x", 1, "z", None, "test", 0.5)], "two"), shared=True)
    assert "no test image in common: their figures can't be compared." in text and "ROC AUC" not in text
    assert "1 added: x" in text


def test_what_changed_in_the_data_is_counted_and_named():
    second = changed(f1={"label": 0}, f2={"patient": "zz"}, f4={"split": "train"}, t1={"split": "dropped"})[1:]
    second.append(("new", 1, "z", None, "train", 0.5))
    assert comparison.changed_images((run(ROWS), run(second, "two"))) == {
        "added": ["new"],
        "removed": ["f0"],
        "relabelled": ["f1"],
        "given to another patient": ["f2"],
        "moved from test to train": ["f4"],
        "moved from train to dropped": ["t1"],
    }
    assert "1 relabelled: f1" in explained(run(ROWS), run(second, "two"), shared=True)


def test_other_images_under_the_same_names_are_no_common_test_set():
    second = run(ROWS, "two")
    second.split.loc[:2, "pixels_sha256"] = "others"
    with pytest.raises(PipelineError, match="3 with other pixels, 21 the same"):
        explained(run(ROWS), second)
    text = explained(run(ROWS), second, shared=True)
    assert "Test images in both: 21 (" in text and "3 with other pixels: f0, f1, f2" in text


def test_a_name_with_a_bar_does_not_break_the_markdown():
    lines = [
        line for line in explained(run(ROWS, "a|b"), run(ROWS), markdown=True).splitlines() if line.startswith("| ")
    ]
    assert {line.replace("\\|", "").count("|") for line in lines} == {7}


def test_what_changed_in_the_parameters_is_said():
    first, second = (
        run(ROWS, params={"lr": 0.1, "gone": 1, "same": 2}),
        run(ROWS, "two", params={"lr": None, "same": 2}),
    )
    assert comparison.changed_params((first, second)) == {"lr": (0.1, None), "gone": (1, "absent")}
    assert "lr: 0.1 -> null" in explained(first, second)


def test_images_joined_by_copies_in_either_run_are_drawn_together():
    second = changed(f0={"cluster": 7}, f4={"cluster": 7})  # joins patients p0 and p1
    images = comparison.test_images((run(ROWS), run(second, "two")), shared=False)
    assert images["unit"].nunique() == 5 and images.loc[images["file"].isin(["f0", "f4"]), "unit"].nunique() == 1


def test_each_run_keeps_its_own_threshold():
    first, second = run(ROWS, threshold=0.0), run(ROWS, "two", threshold=2.0)
    table = comparison.measure((first, second), comparison.test_images((first, second), False)).set_index("measure")
    assert table.loc["sensitivity", ["first", "second"]].tolist() == [1, 0]
    assert pd.isna(table.loc["precision", "second"]) and table.loc["precision", "reason"] == "not defined"


def test_max_t_of_independent_measures_is_sidaks_and_of_equal_ones_is_p_itself(monkeypatch):
    monkeypatch.setattr(comparison, "DRAWS", 200_000)
    p = np.array([0.01, np.nan, 0.04, 0.2])
    independent = comparison._max_t(p, np.eye(4), 0)
    steps = [1 - 0.99**3, np.nan, 1 - 0.96**2, 0.2]  # step down: of three, of the two others, of the last
    assert independent == pytest.approx(steps, abs=0.003, nan_ok=True)
    equal = comparison._max_t(p, np.tile([0.1, -0.2, np.nan], (4, 1)), 0)
    assert equal == pytest.approx(p, abs=0.003, nan_ok=True)
    assert (comparison._max_t(np.full(4, 1e-30), np.eye(4), 0) == 1 / 200_001).all()  # never 0
    assert np.isnan(comparison._max_t(np.full(4, np.nan), np.eye(4), 0)).all()


def test_the_primary_measure_is_tested_by_itself_and_the_others_are_exploratory():
    runs, images = unequal_runs(0)
    table = comparison.measure(runs, images)
    assert table.loc[table["primary"], "measure"].tolist() == ["roc_auc"]
    other = comparison.measure(runs, images, primary="sensitivity")
    first, second = (entry.set_index("measure")["p"] for entry in (table, other))
    assert first["roc_auc"] <= second["roc_auc"] and second["sensitivity"] <= first["sensitivity"]
    weak = table.assign(differ=table["differ"] & ~table["primary"])
    text = comparison.explain(runs, images, weak, False)
    assert "No significant difference between seed 1 and seed 2 in ROC AUC, the primary measure. Exploratory" in text
    assert "ROC AUC (primary)" in text


def of_folds(rows, name, shift):
    """A run of three folds, whose networks have scales of their own."""
    single = run(rows, name)
    fold = single.predictions["patient"].str[1:].astype(int) % 3
    scaled = (single.predictions["probability"] * shift**fold).clip(0, 1)
    predictions = single.predictions.assign(fold=fold, probability=scaled, threshold=0.5, temperature=1.0)
    return single._replace(predictions=predictions[predictions["split"] == "test"])


def test_folds_on_both_sides_are_one_paired_test_and_scales_of_networks_do_not_matter():
    rows = [
        (f"f{n}", n // 4 % 2, f"p{n // 4}", None, "test", 0.3 + 0.1 * (n // 4 % 2) + 0.05 * (n % 4)) for n in range(96)
    ]
    first, second = of_folds(rows, "one", 1.0), of_folds(rows, "two", 0.5)
    images = comparison.test_images((first, second), False)
    table = comparison.measure((first, second), images).set_index("measure")
    assert images["unit"].nunique() == 24
    assert table.loc["roc_auc", "first"] == table.loc["roc_auc", "second"]
    pooled = metrics.measures(metrics.scores(second.predictions.assign(unit=0), 0.5))["roc_auc"]
    assert pooled < table.loc["roc_auc", "second"] - 0.1


def test_a_p_that_rounds_to_0_is_said_to_be_below_0_001_and_no_bound_is_outside_the_range_of_a_measure():
    runs, images = unequal_runs(0)
    measured = comparison.measure(runs, images)
    assert " 0.000  seed 2 is higher" not in comparison.explain(runs, images, measured, False)
    assert "< 0.001" in comparison.explain(runs, images, measured, False)
    rows = [(*row[:5], 0.9 - row[5]) for row in ROWS]
    pair = run(ROWS), run(rows, "two")
    bounds = comparison.measure(pair, comparison.test_images(pair, False))[["ci_low", "ci_high"]].dropna()
    assert ((bounds >= -1) & (bounds <= 1)).all(axis=None)


def test_positives_of_one_patient_let_nothing_be_said_of_them():
    rows = [(f"f{n}", int(n < 5), "p" if n < 5 else f"q{n}", None, "test", 0.1 + 0.01 * n) for n in range(30)]
    other = [(*row[:5], 0.9 - row[5]) for row in rows]
    table = explained(run(rows), run(other, "two"))
    assert "No significant difference" not in table
    assert table.startswith(
        "ROC AUC, the primary measure, can't be tested: it depends on one patient, or on one set of"
    )
    area = next(line for line in table.splitlines() if line.startswith("ROC AUC (primary)"))
    assert "one patient" in area


def test_without_shared_negative_images_the_primary_measure_is_not_tested():
    rows = [row if row[1] else (*row[:4], "train", row[5]) for row in ROWS]
    other = [(*row[:5], 0.9 - row[5]) for row in rows]
    text = explained(run(ROWS), run(other, "two"), shared=True)
    assert text.startswith("ROC AUC, the primary measure, can't be tested: not defined. Exploratory measures differ: ")


def test_a_leak_of_either_run_is_said_first_of_all_images():
    leaky = run(ROWS, "two")
    leaky.predictions["patient_in_train"] = pd.array([True] * 24, dtype="boolean")
    assert "LEAK in two: 24 of its 24 test images" in explained(run(ROWS), leaky)


def test_markdown_is_a_table_of_equal_columns():
    lines = [
        line for line in explained(run(ROWS), run(ROWS, "two"), markdown=True).splitlines() if line.startswith("|")
    ]
    assert len(lines) == 11 and {line.count("|") for line in lines} == {7}


@pytest.mark.slow
def test_runs_that_differ_in_the_seed_alone_cannot_be_told_apart_in_nine_of_ten_pairs():
    differ = [bool(comparison.measure(*equal_runs(seed))["differ"].any()) for seed in range(50)]
    assert sum(differ) <= 5


@pytest.mark.parametrize(("spread", "low", "high"), [(0.0, 0.1, 0.5), (0.3, 0.7, 1.0)])
def test_where_networks_differ_only_in_what_they_see_in_patients_little_variance_over_trainings_is_left(
    monkeypatch, spread, low, high
):
    """In the variance of 20 pairs of recipes over patients and trainings, what is of trainings, with the interaction
    and without it. Leaving out one of 40 patients at a time counts the interaction twice."""
    passed = []
    monkeypatch.setattr(comparison.intervals, "difference", lambda *args: passed.append(args[4]) or "not needed")
    for seed in range(20):
        comparison.measure(*recipe_runs(seed, (1.2, 1.2), 40, spread, "mixed"))
    areas = passed[list(comparison.metrics.MEASURES).index("roc_auc") :: len(comparison.metrics.MEASURES)]
    total = sum(component.variance for components in areas for component in components if component.variance > 0)
    assert low < sum(component.variance for components in areas for component in components) / total < high


def test_a_truly_better_model_is_told_apart_and_named():
    for seed in range(5):
        runs, images = unequal_runs(seed)
        measured = comparison.measure(runs, images).set_index("measure")
        assert measured.loc["roc_auc", "differ"] and measured.loc["roc_auc", "difference"] > 0
        text = comparison.explain(runs, images, measured.reset_index(), False)
        assert "seed 1 and seed 2 differ significantly: " in text and "seed 2 is higher" in text


def test_names_of_folds_are_known_by_their_experiments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commit = "git -c user.name=T -c user.email=t@example.org commit -q --allow-empty -m one"
    subprocess.run(f"git init -q && {commit}", shell=True, check=True)
    for name in ("folds-2-1", "folds-2-2", "slow-3-1"):
        subprocess.run(["git", "update-ref", f"refs/exps/ab/cdef/{name}", "HEAD"], check=True)
    assert revisions.folds("folds-2") == ["folds-2-1", "folds-2-2"]
    for revision in ("slow-3", "folds-2-1", "main", "2", "v-1"):
        assert revisions.folds(revision) == []


def test_unknown_patients_are_drawn_image_by_image():
    rows = [(*row[:2], None, *row[3:]) for row in ROWS]
    images = comparison.test_images((run(rows), run(rows, "two")), shared=False)
    assert images["unit"].nunique() == 24 and np.issubdtype(images["unit"].dtype, np.integer)
