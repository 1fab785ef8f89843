from core.images import grouping, sources
from core.pipeline import tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.data import Group

import pandas as pd
import pytest

from conftest import image, put


def divided(values, edges=None, patients=None, name="age"):
    """The group of each image, each of another patient unless ``patients`` are given."""
    files = [f"{number:03d}.png" for number in range(len(values))]
    whose = pd.array(patients or [f"p{number}" for number in range(len(values))], dtype="string")
    images = pd.DataFrame({"file": files, "patient": whose}).astype({"file": "string"})
    texts = {file: value for file, value in zip(files, values, strict=True) if value}
    table = grouping.table(images, {name: texts}, [Group(name, name, "column", edges)], "fail")
    return table[f"group_{name}"].fillna("-").tolist()


def test_words_stay_as_they_are_also_if_they_are_numbers_of_few_kinds():
    assert divided(["A", "B", "A", "B"]) == ["A", "B", "A", "B"]
    assert divided(["1", "2", "3"] * 4) == ["1", "2", "3"] * 4


def test_white_space_within_a_value_is_one_space():
    assert divided(["north\nwing", "north  wing", "south", "south"]) == ["north wing", "north wing", "south", "south"]


def test_numbers_are_cut_at_thirds_of_the_patients():
    ages = [str(age) for age in range(31, 61)]
    assert pd.Series(divided(ages)).value_counts(sort=False).to_dict() == {
        "under 41": 10, "41 to under 51": 10, "51 and over": 10,
    }  # fmt: skip


def test_a_patient_with_many_images_counts_once_where_numbers_are_cut():
    ages = ["90"] * 60 + [str(age) for age in range(31, 60)]
    whose = ["old"] * 60 + [f"p{number}" for number in range(29)]
    assert set(divided(ages, patients=whose)) == {"under 41", "41 to under 51", "51 and over"}


def test_given_edges_belong_to_the_upper_range():
    assert divided(["49.9", "50", "69", "70", "49", "50"], [50, 70]) == [
        "under 50", "50 to under 70", "50 to under 70", "70 and over", "under 50", "50 to under 70",
    ]  # fmt: skip


def test_ages_of_dicom_are_years():
    ages = ["049Y", "060Y", "011M", "080W"]
    expected = ["1 to under 50", "50 and over", "under 1", "1 to under 50"]
    assert divided(ages * 2, [1, 50]) == expected * 2


def test_an_image_without_a_value_is_in_no_group():
    assert divided(["A", "", "B", "A", "B"]) == ["A", "-", "B", "A", "B"]


def test_one_frequent_number_does_not_hide_the_others():
    assert set(divided(["0"] * 50 + [str(number) for number in range(1, 15)])) == {"under 1", "1 and over"}


@pytest.mark.parametrize(
    ("values", "edges", "says"),
    [
        (["A"] * 4, None, "data.groups: age has one value, 'A'"),
        (["A", "A", "", "A"], None, "data.groups: age has one value, 'A'"),
        (["", "", ""], None, "data.groups: age has no value in any image"),
        (["40", "41", "42"], [50], "data.groups: age has one value, 'under 50'"),
        (["40", "old", "60"], [50], "data.groups: age has edges, but 'old' are no numbers"),
        (
            list("abcdefgh"),
            None,
            "data.groups: age has 8 values for 8 patients, such as a, b and 6 more: a group needs several",
        ),
    ],
)
def test_a_column_that_makes_no_groups_is_said_in_one_line(values, edges, says):
    with pytest.raises(PipelineError) as caught:
        divided(values, edges)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_groups_come_from_columns_and_patterns_and_stay_with_their_images(make_params, tmp_path):
    table = "file,label,who,site\n" + "".join(f"{n}.png,{n % 2},p{n},{'AB'[n // 4]}\n" for n in range(8))
    folder = put(tmp_path / "images", {f"{n}.png": image(n) for n in range(8)} | {"labels.csv": table})
    parameters = {
        "data.source": "folder",
        "data.location": str(folder),
        "data.labels": "labels.csv",
        "data.patient": "who",
    }
    cfg = make_params(parameters | {"data.groups": ["site", "(?P<odd>[13579])?.png"]})
    with sources.open_source(cfg.data, 1, tmp_path) as raw:
        assert list(raw.groups.columns) == ["file", "group_site", "group_odd"]
        assert list(raw.labels.columns) == tables.LABELS
        assert dict(zip(raw.groups["file"], raw.groups["group_site"], strict=True)) == {
            f"{n}.png": "AB"[n // 4] for n in range(8)
        }
        assert raw.groups["group_odd"].fillna("-").tolist() == list("-1-3-5-7")
    with sources.open_source(make_params(parameters).data, 1, tmp_path) as raw:
        assert raw.groups.empty and list(raw.groups.columns) == ["file"]
