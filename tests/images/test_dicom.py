"""DICOM files of pydicom's makers, of many transfer syntaxes, and some of them changed."""

import hashlib
import io
import zipfile
from pathlib import Path

from core.images import decoder, dicom, sources
from core.images.preparation import DecodeError, Preparation
from core.pipeline.errors import PipelineError

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from conftest import put

MR = [  # the same 64 x 64 pixels of 16 bits, written in these ways
    "MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm",
]  # fmt: skip


def read(name: str) -> bytes:
    return Path(get_testdata_file(name, download=False)).read_bytes()


def changed(name: str, **tags: object) -> bytes:
    """One of the files with other tags; a value of None removes the tag."""
    dataset = pydicom.dcmread(io.BytesIO(read(name)))
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    return buffer.getvalue()


@pytest.mark.parametrize("name", MR)
@pytest.mark.parametrize("stored", [False, True], ids=["as it came", "without tags"])
def test_one_image_in_seven_ways_of_writing_has_the_same_grey_values(name, stored):
    content = dicom.deidentify(read(name), None) if stored else read(name)
    values, mode = dicom.decode(content, window=False)
    assert mode == "MONOCHROME2 16 MR" and values.shape == (64, 64) and (values.min(), values.max()) == (127, 2145)
    # Of the pixels as little-endian int16, from the uncompressed file itself: its last 8,192 bytes before the padding
    raw = np.frombuffer(pydicom.dcmread(io.BytesIO(read("MR_small.dcm"))).PixelData, "<i2").reshape(64, 64)
    assert np.array_equal(values, raw)


@pytest.mark.parametrize(
    ("name", "size", "mode"),
    [
        ("JPGExtended.dcm", (256, 1024), "MONOCHROME2 12 NM"),  # JPEG of 12 bits
        ("693_J2KI.dcm", (512, 512), "MONOCHROME2 14 CT"),  # JPEG 2000, irreversible
        ("JPEGLSNearLossless_16.dcm", (10, 50), "MONOCHROME2 16"),
        ("examples_overlay.dcm", (484, 300), "MONOCHROME2 12 MR"),
        ("SC_rgb_jpeg_gdcm.dcm", (100, 100), "RGB 8 OT"),  # JPEG, lossless
        ("SC_rgb_jpeg_dcmtk.dcm", (100, 100), "YBR_FULL 8 OT"),  # JPEG baseline
        ("SC_ybr_full_422_uncompressed.dcm", (100, 100), "YBR_FULL_422 8 OT"),
        ("examples_palette.dcm", (800, 350), "PALETTE COLOR 8 US"),
        ("image_dfl.dcm", (512, 512), "MONOCHROME2 8 OT"),  # deflated
        ("liver_1frame.dcm", (512, 512), "MONOCHROME2 1 SEG"),
    ],
)
def test_each_transfer_syntax_and_colour_is_read(name, size, mode):
    deep = not any(bits in f"{mode} " for bits in (" 8 ", " 1 "))
    spec = Preparation(32, levels=(-3000, 3000) if deep else None)
    picture = decoder.picture(dicom.deidentify(read(name), None), spec)
    assert ((picture.width, picture.height), picture.mode) == (size, mode)
    assert picture.pixels.shape[-1] == (3 if mode.split()[0] in ("RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE") else 1)
    assert len(np.unique(picture.pixels)) > 2


def test_colours_are_those_that_the_files_makers_say():
    """The rows of SC_rgb_*: stripes of red, green, blue, black, grey and white (pydicom's tests list them)."""
    for name in ("SC_rgb_rle.dcm", "SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_jpeg_gdcm.dcm"):
        image, _ = dicom.decode(read(name), window=False)
        pixels = np.asarray(image)
        for row, colour in ((5, (255, 0, 0)), (25, (0, 255, 0)), (45, (0, 0, 255)), (65, (0, 0, 0)), (95, (255,) * 3)):
            assert np.abs(pixels[row, 50].astype(int) - colour).max() <= 2, (name, row)


def test_rescale_is_applied_and_monochrome1_is_turned():
    plain, _ = dicom.decode(read("CT_small.dcm"), window=False)
    stored = pydicom.dcmread(io.BytesIO(read("CT_small.dcm"))).pixel_array
    assert np.array_equal(plain, stored.astype(int) - 1024)  # Hounsfield units: the intercept is -1024
    turned, mode = dicom.decode(changed("CT_small.dcm", PhotometricInterpretation="MONOCHROME1"), window=False)
    assert mode == "MONOCHROME1 16 CT" and np.array_equal(turned, plain)  # turned when it is scaled
    levels = int(plain.min()), int(plain.max())
    scaled = decoder.decode(changed("CT_small.dcm", PhotometricInterpretation="MONOCHROME1"), levels)[0]
    assert np.array_equal(np.asarray(scaled), (levels[1] - plain) * 255 // (levels[1] - levels[0]))
    eight = changed("image_dfl.dcm", PhotometricInterpretation="MONOCHROME1")
    images = [np.asarray(dicom.decode(content, window=False)[0]) for content in (read("image_dfl.dcm"), eight)]
    assert np.array_equal(images[1], 255 - images[0])


def test_the_window_is_the_formula_of_the_standard():
    """PS3.3 C.11.2.1.2.1, with the window 600 +- 800 of the file."""
    values = np.asarray(dicom.decode(read("MR_small.dcm"), window=False)[0], float)
    by_hand = np.clip((values - 599.5) / 1599 + 0.5, 0, 1) * 255
    for photometric, expected in (("MONOCHROME2", by_hand), ("MONOCHROME1", 255 - by_hand)):
        content = changed("MR_small.dcm", PhotometricInterpretation=photometric)
        image, _ = dicom.decode(content, window=True)
        assert image.mode == "L" and np.abs(np.asarray(image, float) - expected).max() <= 1
    assert np.array_equal(  # of several windows, the first
        np.asarray(dicom.decode(changed("MR_small.dcm", WindowCenter=[600, 9], WindowWidth=[1600, 9]), True)[0]),
        np.asarray(dicom.decode(read("MR_small.dcm"), True)[0]),
    )


def test_a_stored_file_has_no_tag_that_its_pixels_do_not_need():
    content = read("CT_small.dcm")
    dataset, reduced = (pydicom.dcmread(io.BytesIO(file)) for file in (content, dicom.deidentify(content, None)))
    assert dataset.PatientName == "CompressedSamples^CT1" and len(dataset) > 60
    assert {element.keyword for element in reduced} <= set(dicom.KEPT) and "PatientID" not in reduced
    secret = {str(dataset.PatientName), str(dataset.PatientID), str(dataset.StudyInstanceUID), str(dataset.StationName)}
    assert all(word and word.encode() not in dicom.deidentify(content, None) for word in secret)
    assert dicom.deidentify(content, None) == dicom.deidentify(content, None)


@pytest.mark.parametrize("name", ["SC_rgb_rle_2frame.dcm", "examples_ybr_color.dcm", "rtdose.dcm"])
def test_frames_are_taken_apart_and_are_those_that_pydicom_reads(name):
    dataset = pydicom.dcmread(io.BytesIO(read(name)))
    with pytest.raises(DecodeError, match=r"\d+ frames in one file \(data.frames: first or split\)"):
        dicom.decode(read(name), window=False)
    expected = pydicom.pixels.pixel_array(dataset)
    for frame in (1, 2):
        reduced = dicom.deidentify(read(name), frame)
        assert "NumberOfFrames" not in pydicom.dcmread(io.BytesIO(reduced))
        assert np.array_equal(pydicom.pixels.pixel_array(pydicom.dcmread(io.BytesIO(reduced))), expected[frame - 1])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (read("MR_small.dcm")[:5000], "DICOM: "),
        (read("MR_truncated.dcm"), "DICOM: The number of bytes of pixel data is less than expected"),
        (read("MR_small.dcm")[:140], "DICOM"),
        (changed("MR_small.dcm", PixelData=None), "a DICOM file without pixels"),
        (changed("MR_small.dcm", Rows=0), "an image of 64 x 0 pixels"),
        (changed("MR_small_RLE.dcm", Rows=65535, Columns=65535), "an image of 65535 x 65535 pixels is too large"),
        (read("rtdose_1frame.dcm"), "grey values from 795000 to 1254000 are outside of"),
        (read("JPEG2000-embedded-sequence-delimiter.dcm"), "DICOM: Unable to decode"),
    ],
    ids=["cut off", "truncated", "a header alone", "no pixels", "0 by 0", "huge", "32 bits", "damaged"],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_why_in_a_line(content, says):
    with pytest.raises(DecodeError, match=says) as caught:
        decoder.decode(content)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_an_unknown_transfer_syntax_is_named():
    content = read("MR_small_RLE.dcm").replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.9\0")
    with pytest.raises(DecodeError, match="DICOM of the unknown transfer syntax 1.2.840.10008.1.2.9"):
        dicom.decode(content, window=False)


def test_an_image_without_a_window_says_what_to_set():
    with pytest.raises(DecodeError, match="no VOI window .*set prepare.levels to percentiles"):
        dicom.decode(read("CT_small.dcm"), window=True)


def test_burned_in_annotation_is_in_the_mode():
    assert dicom.decode(changed("MR_small.dcm", BurnedInAnnotation="YES"), False)[1] == "MONOCHROME2 16 MR annotated"
    assert dicom.decode(changed("MR_small.dcm", BurnedInAnnotation="NO"), False)[1] == "MONOCHROME2 16 MR"


def test_a_patient_is_a_keyed_hash_and_another_key_is_noticed(tmp_path):
    (tmp_path / "key").write_text("secret\n")
    check = hashlib.sha256(b"secret").hexdigest()[:8]
    pseudonyms = dicom.pseudonyms("key", check, {"a": "Ann", "b": "Ben", "c": "Ann"}, tmp_path)
    # echo -n Ann | openssl dgst -sha256 -hmac secret | cut -d " " -f 2 | cut -c -16
    assert pseudonyms["a"] == pseudonyms["c"] == "e8c374fb91da5109" != pseudonyms["b"]
    (tmp_path / "key").write_text("another")
    for key, key_check, says in (
        ("key", check, f"data.dicom.key_check is {check}, but the key there now has .*another name"),
        ("key", None, "data.dicom.key_check is not set: set it to [0-9a-f]{8}"),
        ("gone", check, "gone is missing or empty"),
        (None, None, "openssl rand .*data.dicom.patient: plain"),
    ):
        with pytest.raises(PipelineError, match=says):
            dicom.pseudonyms(key, key_check, {"a": "Ann"}, tmp_path)


def test_a_folder_of_dicom_is_read_with_patients_and_classes_from_its_tags(tmp_path, make_params, monkeypatch):
    """Files with and without ending, as a hospital's archive writes them, and files that are no image."""
    files = {
        "DICOMDIR": read("dicomdirtests/DICOMDIR"),
        "study/1.2.840.113619": changed("MR_small.dcm", PatientID="Ann", ImageLaterality="L"),
        "study/IM0002": changed("CT_small.dcm", PatientID="Ann", ImageLaterality="R"),
        "study/3.dcm": changed("JPGExtended.dcm", PatientID="Ben", ImageLaterality="R"),
        "study/4.DCM": changed("MR_small_RLE.dcm", PatientID="Cleo", ImageLaterality="L"),
        "study/5.dcm": changed("examples_ybr_color.dcm", PatientID="Dan", ImageLaterality="L"),
        "study/notes.txt": "none",
    }
    folder = put(tmp_path / "images", files)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    (tmp_path / "key").write_text("secret")
    parameters = {
        "data.labels": "dicom:ImageLaterality", "data.positive": "R", "data.patient": "dicom:PatientID",
        "data.frames": "split", "data.dicom.key": "key",
        "data.dicom.key_check": hashlib.sha256(b"secret").hexdigest()[:8],
    }  # fmt: skip

    def read_folder(**changes):
        cfg = make_params(parameters | {"data.source": "folder", "data.location": str(folder)} | changes)
        with sources.open_source(cfg.data, 1, tmp_path) as raw:
            return (
                raw.labels.set_index("file"),
                raw.provenance,
                {file: raw.content(file) for file in raw.labels["file"]},
            )

    table, provenance, content = read_folder()
    assert len(table) == 34 and provenance["images"] == 34
    assert provenance["positives"] == 2 and provenance["other_files"] == {"dicomdir": 1, "text": 1}
    assert provenance["patients"] == 4 and table.loc["study/IM0002", "patient"] == "e8c374fb91da5109"
    assert {file for file in table.index if "#" in file} == {f"study/5.dcm#{frame:04d}" for frame in range(1, 31)}
    assert all(b"Ann" not in image and b"Cleo" not in image for image in content.values())
    laterality = {"data.groups": ["dicom:ImageLaterality"], "data.breast": "dicom:ImageLaterality"}
    cfg = make_params(parameters | {"data.source": "folder", "data.location": str(folder)} | laterality)
    with sources.open_source(cfg.data, 1, tmp_path) as raw:
        laterality = dict(zip(raw.groups["file"], raw.groups["group_ImageLaterality"], strict=True))
        assert list(raw.groups["breast"]) == list(raw.groups["group_ImageLaterality"])
    assert len(laterality) == 34 and laterality["study/IM0002"] == "R" and laterality["study/5.dcm#0007"] == "L"
    assert decoder.decode(content["study/5.dcm#0007"])[0].size == (320, 240)
    monkeypatch.chdir(tmp_path)
    packed = read_folder(**{"data.source": "archive", "data.location": str(tmp_path / "images.zip")})
    assert packed[0].equals(table) and packed[2] == content
    assert set(read_folder(**{"data.dicom.patient": "plain"})[0]["patient"]) == {"Ann", "Ben", "Cleo", "Dan"}
    with pytest.raises(PipelineError, match=r"1 files of several frames or pages \(data.frames: .*\): study/5.dcm"):
        read_folder(**{"data.frames": "fail"})
    with pytest.raises(PipelineError, match="no tag with the keyword 'PatientNumber'"):
        read_folder(**{"data.patient": "dicom:PatientNumber"})
    put(folder, {"study/report": read("test-SR.dcm"), "study/bad": read("MR_small.dcm")[:150]})
    with pytest.raises(PipelineError, match="1 DICOM files without an image: study/report") as caught:
        read_folder()
    assert "1 files that can't be read (DICOM without a transfer syntax): study/bad" in str(caught.value)
    assert len(read_folder(**{"data.on_bad_image": "drop"})[0]) == 34
