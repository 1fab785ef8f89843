"""The breast as a level between image and patient."""

from core.images import sources
from core.pipeline import tables
from core.pipeline.errors import PipelineError

import pytest

from conftest import image, put


@pytest.fixture
def read_breasts(make_params, tmp_path):
    """The breast of each image: two patients, each with a benign and a malignant breast."""
    rows = [("p1_L.png", "0", "L"), ("p1_R.png", "1", "R"), ("p2_L.png", "1", "L"), ("p2_R.png", "0", "R")]

    def run(breast, spelling="L"):
        text = "file,label,side\n" + "".join(f"{name},{label},{side}\n" for name, label, side in rows)
        table = {"labels.csv": text.replace("0,L", f"0,{spelling}")}
        folder = put(tmp_path / "images", {name: image(n) for n, (name, *_) in enumerate(rows)} | table)
        source = {"data.source": "folder", "data.location": str(folder), "data.labels": "labels.csv"}
        cfg = make_params(source | {"data.patient": "(?P<patient>p.)_", "data.breast": breast})
        with sources.open_source(cfg.data, 1, tmp_path) as raw:
            assert list(raw.labels["patient"]) == ["p1", "p1", "p2", "p2"] and list(raw.labels["label"]) == [0, 1, 1, 0]
            return list(raw.groups[tables.BREAST])

    return run


def test_a_breast_is_a_column_or_a_pattern_and_one_may_be_benign_and_the_other_malignant(read_breasts):
    assert read_breasts("side") == read_breasts("_(?P<breast>[LR])[.]") == ["L", "R", "L", "R"]


@pytest.mark.parametrize(
    ("breast", "spelling", "says"),
    [
        ("sides", "L", "no column 'sides' (data.breast)"),
        ("side", "", "1 images without a breast (data.breast: side, a column of labels.csv): p1_L.png"),
        ("side", "l", "data.breast: 1 names are spelled in several ways: 'l' / 'L'"),
        ("dicom:ImageLaterality", "L", "4 images without a breast (data.breast: dicom:ImageLaterality)"),
    ],
)
def test_an_image_without_a_breast_or_with_one_in_two_spellings_is_refused(read_breasts, breast, spelling, says):
    with pytest.raises(PipelineError) as caught:
        read_breasts(breast, spelling)
    assert says in str(caught.value)
