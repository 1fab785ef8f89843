"""What prepare writes for images of more than 8 bits, and that new images are decoded in the same way."""

import io

from core.images import decoder
from core.images.preparation import Preparation
from core.pipeline import files, tables
from core.pipeline.errors import PipelineError

import numpy as np
import pytest
from PIL import Image

import download
import prepare
from conftest import change_parameters, put


def grey(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def twelve_bits(tmp_path, monkeypatch):
    """Eight images of 12 bits, as of a mammogram: mostly black, grey values to 3,000, and one spot above."""
    random = np.random.default_rng(1)
    breast = np.where(np.hypot(*np.mgrid[-32:32, 0:64]) < 40, 1, 0)
    images = [breast * random.integers(900, 3001, (64, 64)) for _ in range(8)]
    images[5][10, 10] = 4095
    put(tmp_path / "images", {f"{number % 2}/{number}.png": grey(values) for number, values in enumerate(images)})
    monkeypatch.chdir(tmp_path)

    def run(changes):
        parameters = {"data.source": "folder", "data.location": "images", "data.positive": "1"} | changes
        change_parameters(tmp_path / "params.yaml", parameters)
        download.main()
        prepare.main()
        return images

    return run


@pytest.mark.parametrize(("percents", "expected"), [([0.0, 100.0], [0, 4095]), ([0.0, 99.9], [0, 2999])])
def test_images_of_12_bits_are_scaled_by_the_whole_set_and_new_ones_likewise(twelve_bits, percents, expected):
    images = twelve_bits({"prepare.levels": percents, "prepare.fit": "crop"})
    description = files.read_json(prepare.PREPARATION)
    levels = np.percentile(np.stack(images), percents, method="inverted_cdf").tolist()
    assert description == {"image_size": 64, "fit": "crop", "levels": levels}
    assert abs(levels[1] - expected[1]) <= 3 and levels[0] == expected[0]
    array = np.load(prepare.IMAGES)
    assert array.max() == 255 and len(np.unique(array)) > 100  # not the sixteen grey levels of 12 bits over 65,535
    index = tables.read(prepare.INDEX, tables.INDEX)
    for row, file in zip(index["row"], index["file"], strict=True):
        values = images[int(file[2])].astype(float)
        by_hand = np.clip(np.floor((values - levels[0]) * 255 / (levels[1] - levels[0])), 0, 255)
        assert np.array_equal(array[row, ..., 0], by_hand)
        new = decoder.pixels(grey(images[int(file[2])]), Preparation.of(description))
        assert np.array_equal(new, array[row])


def test_an_archive_that_the_table_does_not_list_is_refused_and_nothing_is_written(twelve_bits, tmp_path):
    twelve_bits({})
    before = {path.name: path.read_bytes() for path in (tmp_path / "data/prepared").iterdir()}
    table = (tmp_path / "data/raw/labels.csv").read_text().splitlines(keepends=True)
    for changed in (table[:-1], [*table, "1/9.png,1,,1\n"], [*table[:2], *table[3:]]):
        (tmp_path / "data/raw/labels.csv").write_text("".join(changed))
        with pytest.raises(PipelineError, match="dvc repro --force download"):
            prepare.main()
        assert {path.name: path.read_bytes() for path in (tmp_path / "data/prepared").iterdir()} == before
