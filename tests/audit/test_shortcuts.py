"""Properties of the files that predict the label without the picture."""

from core.audit import messages, shortcuts
from core.pipeline import queries, tables

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import shortcuts as benchmark

SETS = 4  # benchmarks/shortcuts.py has 40


def frame(labels, units=None, **properties):
    units = np.arange(len(labels)) if units is None else units
    return pd.DataFrame({"label": np.asarray(labels), "unit": np.asarray(units)} | properties)


def assess(images):
    return shortcuts.assess(images, [name for name in images.columns if name not in ("label", "unit")])


HALF = np.repeat([0, 1], 30)


@pytest.mark.parametrize("kind", benchmark.EXPECTED)
def test_a_planted_shortcut_is_found_and_its_auc_is_above_the_limit(kind):
    expected = benchmark.EXPECTED[kind]
    for number in range(2):
        figures = benchmark.find(benchmark.draw(1000 + number, 100, kind))
        assert expected & set(figures["shortcuts"]), number


@pytest.mark.parametrize("kind", benchmark.CLEAN)
def test_hardly_any_set_without_a_shortcut_has_one(kind):
    assert sum(bool(benchmark.find_in_clean_set(1000 + number, 60, kind)["shortcuts"]) for number in range(SETS)) <= 1


@pytest.mark.parametrize(("negatives", "positives"), [(6, 6), (40, 1), (4, 9), (1, 1)])
def test_few_patients_are_said_to_be_too_few_and_nothing_is_named(negatives, positives):
    labels = np.repeat([0, 1], [negatives, positives])
    figures = assess(
        frame(labels, brightness=labels + 0.0, **{f"p{n}": np.arange(len(labels)) % 3 + n for n in range(5)})
    )
    assert figures["reason"] == "too few" and figures["shortcuts"] == []
    assert figures["properties"]["brightness"] == {
        "auc": 1.0, "p": None, "relation": "higher", "reason": "too few",
        "medians": {"positive": 1.0, "negative": 0.0},
    }  # fmt: skip
    text = messages.shortcuts({"unit": "patient"} | figures, None)
    assert f"not testable with {negatives + positives} patients, {positives} of them positive" in text


def test_as_few_patients_as_can_be_tested_are_tested():
    labels = np.repeat([0, 1], [7, 7])
    assert assess(frame(labels, brightness=labels + 0.0))["shortcuts"] == ["brightness"]


def test_the_auc_of_numbers_of_one_image_each_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    values = np.round(random.normal(size=60) + HALF, 1)  # with ties
    entry = assess(frame(HALF, value=values))["properties"]["value"]
    assert entry["auc"] == pytest.approx(roc_auc_score(HALF, values), abs=1e-6) and entry["relation"] == "higher"
    entry = assess(frame(HALF, value=-values))["properties"]["value"]
    assert entry["auc"] == pytest.approx(roc_auc_score(HALF, values), abs=1e-6) and entry["relation"] == "lower"


def test_patients_and_not_images_are_counted():
    random = np.random.default_rng(0)
    times = random.integers(1, 30, 60)
    values = random.normal(size=60) + HALF
    once = assess(frame(HALF, value=values))
    images = frame(np.repeat(HALF, times), np.repeat(np.arange(60), times), value=np.repeat(values, times))
    often = assess(images)
    medians = "medians"  # of images
    assert {key: value for key, value in often["properties"]["value"].items() if key != medians} == {
        key: value for key, value in once["properties"]["value"].items() if key != medians
    }
    assert often["units"] == 60


def test_copies_of_one_image_are_no_evidence():
    """Thirty bright positive copies, with one bright and many dark patients beside them."""
    labels = np.array([1] * 30 + [1, 0] * 20)
    units = np.array([0] * 30 + list(range(1, 41)))
    brightness = np.where(np.arange(70) < 30, 200.0, np.random.default_rng(0).normal(100, 5, 70))
    assert assess(frame(labels, units, brightness=brightness))["shortcuts"] == []
    assert assess(frame(labels, brightness=brightness))["shortcuts"] == ["brightness"]


def test_a_difference_within_patients_of_both_classes_is_found():
    random = np.random.default_rng(0)
    units, labels = np.repeat(np.arange(20), 4), np.tile([0, 0, 1, 1], 20)
    quality = 70 + 20.0 * labels + random.integers(-3, 4, 80)
    figures = assess(frame(labels, units, jpeg_quality=quality, width=np.repeat(random.normal(size=20), 4)))
    assert figures["shortcuts"] == ["jpeg_quality"] and figures["mixed_units"] == 20
    assert figures["properties"]["width"]["auc"] == pytest.approx(0.5, abs=1e-6)  # equal in both classes


def test_a_difference_between_patients_needs_many_patients_and_not_many_images():
    """Images of a patient are equal: with the image as the unit, every clean set would have a shortcut."""
    alarms = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        labels = np.repeat(random.permutation(np.repeat([0, 1], 10)), 50)
        alarms += bool(
            assess(frame(labels, np.repeat(np.arange(20), 50), value=np.repeat(random.normal(size=20), 50)))[
                "shortcuts"
            ]
        )
    assert alarms <= 1


@pytest.mark.slow
def test_p_is_corrected_for_all_properties():
    alarms = 0
    for seed in range(15):
        noise = np.random.default_rng(seed).normal(size=(60, 40))
        alarms += bool(assess(frame(HALF, **{f"p{column}": noise[:, column] for column in range(40)}))["shortcuts"])
    assert alarms <= 1  # at 1 % for each of 40 properties, a third of the sets would have one


def test_a_property_that_neither_rises_nor_falls_is_found():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    size = np.where(labels == 1, random.normal(0, 0.3, 200), random.choice([-1, 1], 200) + random.normal(0, 0.3, 200))
    entry = assess(frame(labels, size=size))
    assert entry["shortcuts"] == ["size"] and entry["properties"]["size"]["relation"] == "levels"
    assert entry["properties"]["size"]["auc"] > 0.85


def test_the_auc_of_words_is_that_of_other_patients():
    """A level of its own for each patient says nothing of another one; equal words say what their shares say."""
    own = assess(frame(HALF, name=[f"n{number}" for number in range(60)], pair=[f"{n // 2}" for n in range(60)]))
    assert own["properties"]["name"]["auc"] is None and own["properties"]["pair"]["auc"] is None
    few = assess(frame(np.tile([0, 1], 8), name=[f"n{number}" for number in range(16)]))
    assert few["properties"]["name"]["auc"] == 0.5
    ending = np.where(np.arange(60) % 5 == 0, 1 - HALF, HALF)  # wrong for 6 of each 30
    entry = assess(frame(HALF, ending=np.array([".png", ".jpg"], dtype=object)[ending]))["properties"]["ending"]
    assert entry["auc"] == pytest.approx(0.8, abs=1e-6)
    assert {level["level"]: level["positive_share"] for level in entry["levels"]} == {
        ".png": pytest.approx(0.2), ".jpg": pytest.approx(0.8)
    }  # fmt: skip


def test_missing_values_are_left_out_and_what_does_not_vary_is_said():
    values = np.where(np.arange(60) % 2 == 0, np.nan, HALF * 20.0 + np.arange(60))
    names = np.array([None, "a"], dtype=object)[np.arange(60) % 2]
    figures = assess(frame(HALF, value=values, constant=3.0, name=names, empty=np.nan))
    assert figures["shortcuts"] == ["value"] and figures["compared"] == 1
    for name in ("constant", "name", "empty"):
        assert figures["properties"][name]["auc"] is None and "does not vary" in figures["properties"][name]["reason"]


def test_a_small_effect_in_thousands_of_patients_is_shown_but_not_named():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 3000)
    entry = assess(frame(labels, value=random.normal(size=6000) + 0.2 * labels))
    assert entry["properties"]["value"]["p"] < 0.01 and entry["properties"]["value"]["auc"] < 0.6
    assert entry["shortcuts"] == []


def test_one_class_alone_is_said_to_be_too_few():
    figures = assess(frame(np.ones(50, dtype=int), value=np.arange(50.0)))
    assert figures["reason"] == "too few" and figures["shortcuts"] == []


def in_database(folder, index, properties, clusters, groups=None):
    with queries.open_database(folder) as database:
        for name, table in (("index", index), ("properties", properties)):
            tables.write(table, folder / f"{name}.csv", list(table.columns))
        database.add("groups", index[["file"]] if groups is None else groups)
        database.add_file("images", folder / "index.csv", tables.INDEX[:7])
        database.add_file("properties", folder / "properties.csv", tables.PROPERTIES)
        database.add("clusters", clusters)
        return shortcuts.find(database, clusters), shortcuts.collect(database, clusters)


def files(names, patients, labels, brightness):
    index = [(row, *rest, 40, 30, "L") for row, rest in enumerate(zip(names, labels, patients, strict=True))]
    measured = [(row, "PNG", 100, value, 0.0, None, None, None) for row, value in enumerate(brightness)]
    return tables.frame(index, tables.INDEX[:7]), tables.frame(measured, tables.PROPERTIES)


def test_units_are_patients_with_copies_and_unknown_patients_images_with_copies(tmp_path):
    names = ["a.png", "b.png", "c.PNG", "d", "scan.dcm#0002", "x.y/f"]
    patients = ["p", "p", "q", None, None, None]
    index, measured = files(names, patients, [1, 1, 0, 0, 1, 0], [1.0, 2, 3, 4, 5, 6])
    clusters = tables.frame([("c.PNG", 0, "exact", 0, 1.0), ("d", 0, "exact", 0, 1.0)], tables.CLUSTERS)
    groups = pd.DataFrame({"file": names, "group_site": ["A", "A", None, "B", "B", "B"]}).astype("string")
    (figures, shown), images = in_database(tmp_path, index, measured, clusters, groups)
    of_row = dict(zip(images["row"], images["unit"], strict=True))
    assert of_row[0] == of_row[1] and of_row[2] == of_row[3]
    assert len(set(of_row.values())) == figures["units"] == 4 and figures["unit"] == "patient"
    assert list(images["file_name_ending"]) == [".png", ".png", ".PNG", "none", ".dcm", "none"]
    assert list(images["group_site"].astype(object).fillna("")) == ["A", "A", "", "B", "B", "B"]
    assert list(images["aspect_ratio"]) == [40 / 30] * 6 and list(images["bit_depth"]) == [8.0] * 6
    assert figures["reason"] == "too few" and len(shown) == 0


@pytest.mark.parametrize(
    ("mode", "bits"), [("1", 1), ("I;16", 16), ("RGB;16", 16), ("I;12", 12), ("RGB", 8), ("MONOCHROME1 12 MG", 12)]
)
def test_the_bit_depth_is_read_from_the_mode(tmp_path, mode, bits):
    index, measured = files(["a", "b"], [None, None], [0, 1], [1.0, 2])
    _, images = in_database(tmp_path, index.assign(mode=mode), measured, tables.frame([], tables.CLUSTERS))
    assert list(images["bit_depth"]) == [bits, bits]


def test_of_a_large_set_a_sample_of_units_and_images_is_tested(tmp_path, monkeypatch):
    monkeypatch.setattr(shortcuts, "MAX_UNITS", 50)
    monkeypatch.setattr(shortcuts, "MAX_IMAGES", 2000)
    labels = [0] * 3000 + [1] * 40 + [0] * 5000
    patients = [None] * 3040 + ["large"] * 5000
    index, measured = files([f"{n}" for n in range(8040)], patients, labels, np.arange(8040.0))
    (figures, _), images = in_database(tmp_path, index, measured, tables.frame([], tables.CLUSTERS))
    assert figures["positive_units"] == 40
    assert 20 <= figures["units"] - 40 <= 80  # about 50 of 3,001
    assert len(images) < 200
    again = in_database(tmp_path, index, measured, tables.frame([], tables.CLUSTERS))[1]
    assert again.equals(images)


def test_the_sheet_shows_the_most_telling_images_of_different_patients(tmp_path):
    labels = [1] * 30 + [0] * 30
    patients = [f"p{n // 2}" for n in range(60)]
    brightness = [200.0 - n for n in range(30)] + [100.0 - n for n in range(30)]
    index, measured = files([f"d/{n}.png" for n in range(60)], patients, labels, brightness)
    (figures, shown), _ = in_database(tmp_path, index, measured, tables.frame([], tables.CLUSTERS))
    assert figures["shortcuts"] == ["mean_brightness"]
    assert list(shown.loc[shown["label"] == 1, "row"]) == [0, 2, 4, 6, 8, 10, 12, 14]  # the brightest of each patient
    assert list(shown.loc[shown["label"] == 0, "row"]) == [59, 57, 55, 53, 51, 49, 47, 45]
    thumbnails = np.zeros((60, 64, 64, 1), np.uint8)
    shortcuts.draw(figures, shown, thumbnails, True, str(tmp_path / "sheet.png"))
    shortcuts.draw(figures | {"shortcuts": []}, shown[:0], thumbnails, True, str(tmp_path / "empty.png"))
    with Image.open(tmp_path / "sheet.png") as sheet, Image.open(tmp_path / "empty.png") as empty:
        assert sheet.width >= 8 * 128 and sheet.height > 2 * 128 > empty.height
    assert "mean brightness (ROC AUC 1.000, p < 0.001)" in messages.shortcuts(figures, len(figures["shortcuts"]))
