"""Pixels are what the file says: TIFF, PNG, netpbm, JPEG 2000 and DICOM, by the standards and by other programs."""

import io
import re
import shutil
import struct
import subprocess
import zlib

from core.audit import copies, hashes
from core.images import decoder, dicom, kinds, preparation
from core.images.preparation import PADDING, DecodeError, Histogram, Preparation

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)  # 12 bits
COLOUR = np.random.default_rng(1).integers(0, 65536, (37, 41, 3)).astype(np.uint16)


def values_of(content: bytes) -> tuple[np.ndarray, str]:
    """The values before prepare.levels: integers of more than 8 bits, or what is shown in 8 bits."""
    image, mode = decoder._open_image(content, window=False)
    return np.asarray(image), mode


def shown(content: bytes, levels=None) -> np.ndarray:
    return np.asarray(decoder.decode(content, levels)[0])


def tiff(
    values: np.ndarray, bits: int, photometric: int, order: str = "<", tags: dict[int, int] | None = None
) -> bytes:
    """A TIFF of one strip without compression, by TIFF 6.0; below 16 bits, its rows are packed."""
    height, width, *samples = values.shape
    count = samples[0] if samples else 1
    if bits == 16:
        strip = values.astype(f"{order}u2").tobytes()
    else:
        planes = (values.reshape(height, -1, 1) >> np.arange(bits)[::-1]) & 1
        strip = np.packbits(planes.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: count, 278: height}
    entries = dict(sorted((entries | {279: len(strip), 284: 1} | (tags or {})).items()))
    at = 8 + len(strip) + len(strip) % 2
    after = at + 2 + 12 * len(entries) + 4
    table = b""
    for tag, value in entries.items():
        if tag == 258 and count == 3:
            table += struct.pack(f"{order}HHII", tag, 3, 3, after)
        else:
            table += struct.pack(f"{order}HHII", tag, 4, 1, value)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at)
    end = struct.pack(f"{order}H", len(entries)) + table + struct.pack(f"{order}IHHH", 0, bits, bits, bits)
    return start + strip + bytes(len(strip) % 2) + end


def png(values: np.ndarray, colour_type: int, bits: int = 16) -> bytes:
    """A PNG without filters, by its standard; samples of fewer than 8 bits are packed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], len(values), bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def dicom_file(pixels: np.ndarray = RAMP, syntax: str = ExplicitVRLittleEndian, **tags: object) -> bytes:
    """A DICOM file of 12 bits in 16, with other tags."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = pixels.astype(">u2" if syntax == ExplicitVRBigEndian else pixels.dtype).tobytes()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def stored(content: bytes, frame: int | None = None) -> np.ndarray:
    return values_of(dicom.deidentify(content, frame))[0]


def sequence(**tags: object) -> list[Dataset]:
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return [item]


# TIFF


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_whose_zero_is_white_is_the_inverse_of_one_whose_zero_is_black_at_every_depth(bits, order):
    values = (np.arange(64 * 65).reshape(64, 65) * 7919) % (1 << bits)
    most = (1 << bits) - 1
    black, white = (shown(tiff(values, bits, kind, order), (0, most) if bits > 8 else None) for kind in (1, 0))
    assert np.array_equal(black, values * 255 // most)
    assert np.array_equal(white, (most - values) * 255 // most)


TIFFCP = [
    [], ["-c", "lzw:2"], ["-c", "zip:2", "-B"], ["-c", "packbits", "-L"], ["-t", "-w", "16", "-l", "16", "-c", "zip"],
    ["-p", "separate"], ["-p", "separate", "-t", "-w", "16", "-l", "32", "-c", "lzw:2"], ["-r", "5", "-B"], ["-8"],
]  # fmt: skip


@pytest.mark.parametrize("options", TIFFCP, ids=" ".join)
def test_what_libtiff_rewrites_keeps_its_values(options, tmp_path):
    if shutil.which("tiffcp") is None:
        pytest.skip("tiffcp is missing (Debian, Ubuntu: apt install libtiff-tools)")
    # It separates the planes of 8 bits only; those of 16 are separated by ImageMagick, below.
    deep = [(COLOUR, 16, 2), (COLOUR[..., 0], 16, 0), (COLOUR[..., 1], 16, 1)]
    for values, bits, photometric in [(COLOUR >> 8, 8, 2)] if "separate" in options else deep:
        (tmp_path / "a.tif").write_bytes(tiff(values, bits, photometric))
        subprocess.run(["tiffcp", *options, "a.tif", "b.tif"], cwd=tmp_path, check=True)
        actual, mode = values_of((tmp_path / "b.tif").read_bytes())
        name = ("WhiteIsZero", "I", "RGB")[photometric]
        assert np.array_equal(actual, values) and mode == (f"{name};16" if bits == 16 else name)


def test_colour_of_16_bits_goes_through_levels_and_no_channel_loses_bits():
    low = (COLOUR >> 4).astype(np.uint16)  # 12 bits, black in 8 bits of 16
    expected = low.astype(int) * 255 // 4095
    for content in (png(low, 2), tiff(low, 16, 2), b"P6\n41 37\n65535\n" + low.astype(">u2").tobytes()):
        assert np.array_equal(shown(content, (0, 4095)), expected)
        histogram = Histogram()
        histogram.add(decoder.grey_histogram(content, Preparation(8)))
        assert histogram.percentiles(0, 100) == (low.min(), low.max())  # over all channels


def test_equal_channels_of_16_bits_are_grey():
    grey = np.repeat(COLOUR[..., :1], 3, 2)
    for content in (png(grey, 2), tiff(grey, 16, 2)):
        assert np.array_equal(values_of(content)[0], COLOUR[..., 0])


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_tiff_of_16_bits_stands_upright(turn):
    deep = values_of(tiff(COLOUR[..., 0], 16, 1, tags={274: turn}))[0]
    shallow = Image.open(io.BytesIO(tiff(COLOUR[..., 0] >> 8, 8, 1)))
    exif = Image.Exif()
    exif[274] = turn
    buffer = io.BytesIO()
    shallow.save(buffer, "PNG", exif=exif)
    assert np.array_equal(deep >> 8, values_of(buffer.getvalue())[0])  # which Pillow turns


def test_a_tiff_of_several_pages_or_of_no_whole_numbers_is_refused():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "TIFF", save_all=True, append_images=[Image.new("RGB", (64, 64), "red")])
    for content, says in (
        (buffer.getvalue(), "2 frames in one file"),
        (tiff(RAMP, 16, 1, tags={339: 3}), "floating-point pixels"),
        (tiff(RAMP >> 4, 8, 1, tags={254: 1}), "a small copy of an image in another form"),
        (tiff(RAMP, 16, 1, tags={32997: 3}), "a volume of 3 planes"),
        (PPM + PPM, "something follows its pixels"),
        (tiff(RAMP, 16, 5), "colour of 16 bits"),
        (tiff(RAMP, 16, 1)[:4000], None),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", None),
    ):
        with pytest.raises(DecodeError, match=says) as caught:
            decoder.decode(content, (0, 65535))
        assert "\n" not in str(caught.value)


# PNG, netpbm, JPEG 2000


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_a_png_of_16_bits_keeps_its_values_without_its_transparency(colour_type, channels):
    values = np.dstack([COLOUR, COLOUR[..., :1]])[..., :channels]
    actual, mode = values_of(png(values, colour_type))
    assert np.array_equal(actual, values[..., 0] if channels < 3 else values[..., :3])
    assert mode == {1: "I;16", 2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[channels]


def convert(content: bytes, *options: str) -> bytes:
    """What ImageMagick writes."""
    if shutil.which("convert") is None:
        pytest.skip("convert is missing (Debian, Ubuntu: apt install imagemagick)")
    return subprocess.run(["convert", "-", *options], input=content, stdout=subprocess.PIPE, check=True).stdout


PPM = b"P6\n41 37\n65535\n" + COLOUR.astype(">u2").tobytes()


@pytest.mark.parametrize(
    "options",
    [
        ["-interlace", "PNG", "png48:-"], ["png48:-"], ["-colorspace", "Gray", "-depth", "16", "png:-"],
        ["-colors", "200", "png8:-"], ["-colors", "4", "-depth", "2", "png8:-"],
        ["-colorspace", "Gray", "-depth", "4", "-define", "png:bit-depth=4", "-define", "png:color-type=0", "png:-"],
        ["-colorspace", "Gray", "-monochrome", "-define", "png:bit-depth=1", "png:-"],
        ["-depth", "8", "-interlace", "PNG", "png24:-"], ["-depth", "16", "tiff:-"],
        ["-depth", "16", "-endian", "MSB", "-compress", "Zip", "tiff:-"],
        ["-depth", "16", "-interlace", "plane", "-compress", "LZW", "tiff:-"], ["-depth", "8", "ppm:-"],
        ["-depth", "16", "-compress", "none", "ppm:-"], ["-colorspace", "Gray", "-depth", "16", "pgm:-"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_imagemagick_writes_is_what_it_reads(options):
    content = convert(PPM, *options)
    actual, _ = values_of(content)
    depth = 16 if actual.dtype == np.int64 else 8
    actual = actual if depth == 16 else shown(content)
    raw = convert(content, "-depth", str(depth), "rgb:-" if actual.ndim == 3 else "gray:-")
    assert np.array_equal(actual, np.frombuffer(raw, f"<u{depth // 8}").reshape(actual.shape))


def test_netpbm_of_more_than_8_bits_keeps_its_values_with_comments_and_as_text():
    low = RAMP[:8, :8]
    binary = b"P5 # a scanner\n8\n# 8 rows\n8 4095\n" + low.astype(">u2").tobytes()
    text = b"P2\n8 8 4095\n" + b"\n".join(b" ".join(str(v).encode() for v in row) + b" # a row" for row in low)
    for content in (binary, text):
        assert kinds.kind(content) == "netpbm" and np.array_equal(values_of(content)[0], low)
    for content in (binary[:-1], text[:-40], b"P5 20000 20000 4095 "):
        with pytest.raises(DecodeError):
            decoder.decode(content, (0, 4095))


@pytest.mark.parametrize("form", ["jp2", "j2k"])
def test_jpeg_2000_keeps_its_values_at_8_and_16_bits(form):
    import imagecodecs

    for values in (COLOUR, COLOUR[..., 0], RAMP, (COLOUR >> 8).astype(np.uint8), (RAMP >> 4).astype(np.uint8)):
        bits = 12 if values is RAMP else 8 * values.itemsize
        content = imagecodecs.jpeg2k_encode(values, level=0, reversible=True, codecformat=form, bitspersample=bits)
        actual, mode = values_of(content)
        assert kinds.kind(content) == "jpeg2000" and np.array_equal(actual, values)
        assert mode.endswith(f";{bits}") == (bits > 8)


# DICOM


def test_a_slope_below_1_keeps_all_values():
    """Rounded to whole numbers first, 4,096 values of the slope 0.001 became 5."""
    content = dicom_file(RescaleSlope="0.001", RescaleIntercept="0")
    values = stored(content)
    dataset = pydicom.dcmread(io.BytesIO(content))
    assert np.array_equal(values, apply_modality_lut(dataset.pixel_array, dataset)) and values.dtype == np.float64
    histogram = Histogram()
    histogram.add(decoder.grey_histogram(content, Preparation(8)))
    levels = histogram.percentiles(0, 100)
    assert levels == (0, values.max())
    assert np.abs(shown(content, levels).astype(int) - RAMP.astype(int) * 255 // 4095).max() <= 1
    assert isinstance(levels[0], int) and len(np.unique(shown(content, levels))) == 256
    spec = Preparation(64, levels=levels)
    assert Preparation.of(spec.description()) == spec
    hashes = {
        decoder.picture(dicom_file(RescaleSlope=slope, RescaleIntercept="0"), spec).pixels_sha256
        for slope in ("0.001", "0.0010001")
    }
    assert len(hashes) == 2


@pytest.mark.slow
def test_percentiles_of_many_images_with_slopes_of_their_own_are_near_those_of_numpy():
    random, histogram, parts = np.random.default_rng(0), Histogram(), []
    for _ in range(300):
        parts.append(random.permutation(np.arange(4096))[:3000] * random.uniform(0.5, 2))
        histogram.add(preparation.Count.of(parts[-1], "MONOCHROME2 12"))
    assert len(histogram.values) <= preparation.MOST_VALUES
    expected = np.percentile(np.concatenate(parts), (1, 99))
    assert np.allclose(histogram.percentiles(1, 99), expected, rtol=1e-3)


def test_the_slope_of_each_frame_and_of_all_frames_is_applied():
    def groups(slope: str) -> Dataset:
        transform = sequence(RescaleSlope=slope, RescaleIntercept="0", RescaleType="US")
        return sequence(PixelValueTransformationSequence=transform)[0]

    two = np.stack([RAMP, RAMP])
    own = dicom_file(two, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=[groups("1"), groups("4")])
    assert np.array_equal(stored(own, 1), RAMP) and np.array_equal(stored(own, 2), RAMP.astype(int) * 4)
    shared = dicom_file(two, NumberOfFrames=2, SharedFunctionalGroupsSequence=[groups("3")])
    assert np.array_equal(stored(shared, 2), RAMP.astype(int) * 3)
    window = sequence(FrameVOILUTSequence=sequence(WindowCenter="100", WindowWidth="50"))
    content = dicom.deidentify(
        dicom_file(two, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=[Dataset(), *window]), 2
    )
    expected = np.asarray(dicom.decode(dicom_file(WindowCenter="100", WindowWidth="50"), True)[0])
    assert np.array_equal(np.asarray(dicom.decode(content, True)[0]), expected) and 0 < expected.mean() < 255


@pytest.mark.parametrize(
    "tags",
    [
        {"PixelPaddingValue": 4095}, {"PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 4095},
        {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4000}, {"PixelPaddingValue": 65535},
        {"PixelPaddingValue": 65535, "BitsStored": 16, "HighBit": 15},
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_takes_no_part_in_levels(tags, kind):
    breast = RAMP // 4 + 100
    padded = breast.copy()
    padded[:, :12] = tags["PixelPaddingValue"]
    content = dicom.deidentify(dicom_file(padded, PhotometricInterpretation=kind, **tags), None)
    assert (values_of(content)[0][:, :12] == PADDING).all()
    histogram = Histogram()
    histogram.add(decoder.grey_histogram(content, Preparation(8)))
    levels = histogram.percentiles(0, 100)
    assert levels == (breast[:, 12:].min(), breast[:, 12:].max())
    image = shown(content, levels).astype(int)
    low, high = (int(level) for level in levels)
    scaled = (breast.astype(int) - low if kind == "MONOCHROME2" else high - breast.astype(int)) * 255 // (high - low)
    assert (image[:, :12] == 0).all() and np.array_equal(image[:, 12:], scaled[:, 12:])


def test_images_of_equal_padding_are_no_near_copies():
    """Padding of 65,535 was white, and all the rest black: 80 different images were near copies of each other."""
    random, contents = np.random.default_rng(2), []
    for _ in range(12):
        blocks = random.integers(0, 4096, (8, 8)).repeat(8, 0).repeat(8, 1).astype(np.uint16)
        blocks[:, :12] = 65535
        contents.append(dicom_file(blocks, BitsStored=16, HighBit=15, PixelPaddingValue=65535))
    histogram = Histogram()
    for content in contents:
        histogram.add(decoder.grey_histogram(content, Preparation(8)))
    spec = Preparation(64, levels=histogram.percentiles(0, 100))
    grey = decoder.Grey(np.stack([decoder.picture(content, spec).thumbnail for content in contents]))
    phash = hashes.bits(hashes.coefficients(grey[:]))
    near, _ = copies.near_pairs(grey, phash, np.arange(len(grey)))
    assert near.empty and grey[:].std(axis=(1, 2)).min() > 50


def test_padding_of_a_signed_image_is_padding_also_where_its_sign_is_lost():
    values = np.full((8, 8), 50, np.int16)
    values[0] = -2000
    for padding in (-2000, 63536):
        dataset = pydicom.dcmread(io.BytesIO(dicom_file(values, PixelRepresentation=1, BitsStored=16, HighBit=15)))
        dataset.add_new("PixelPaddingValue", "SS" if padding < 0 else "US", padding)
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        assert (stored(buffer.getvalue())[0] == PADDING).all() and (stored(buffer.getvalue())[1:] == 50).all()


def test_an_image_that_is_all_padding_is_black_and_has_no_levels():
    content = dicom_file(np.zeros((8, 8), np.uint16), PixelPaddingValue=0)
    histogram = Histogram()
    histogram.add(decoder.grey_histogram(content, Preparation(8)))
    assert histogram.percentiles(0, 100) is None and not shown(content, (0, 9)).any()


def test_padding_of_8_bits_is_black():
    values = np.full((8, 8), 9, np.uint8)
    values[:, :3] = 255
    content = dicom_file(values, BitsAllocated=8, BitsStored=8, HighBit=7, PixelPaddingValue=255)
    assert np.array_equal(shown(content), np.where(values == 255, 0, 9))


LUT = {"LUTDescriptor": [4096, 0, 16], "LUTData": (65535 - np.arange(4096) * 16).astype("<u2").tobytes()}


@pytest.mark.parametrize(
    "tags",
    [
        {"VOILUTSequence": sequence(**LUT)},
        {"WindowCenter": "2048", "WindowWidth": "1024", "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": "2048", "WindowWidth": "1024", "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": ["700", "9"], "WindowWidth": ["900", "9"], "RescaleSlope": "0.5", "RescaleIntercept": "7"},
        {"WindowCenter": "30000", "WindowWidth": "9000", "ModalityLUTSequence": sequence(**LUT)},
    ],
    ids=["VOI LUT", "SIGMOID", "LINEAR_EXACT", "two windows", "modality LUT"],
)
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_what_a_window_shows_is_what_pydicom_computes(tags, kind):
    content = dicom_file(PhotometricInterpretation=kind, **tags)
    dataset = pydicom.dcmread(io.BytesIO(content))
    expected = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(float)
    low, high = (
        (0, 65535) if "RescaleSlope" not in tags and "WindowWidth" not in tags else (expected.min(), expected.max())
    )
    if "SIGMOID" in tags.values():
        low, high = 0, 4095
    expected = (expected - low) * 255 / (high - low)
    image = np.asarray(dicom.decode(dicom.deidentify(content, None), window=True)[0], float)
    assert np.abs(image - (255 - expected if kind == "MONOCHROME1" else expected)).max() <= 1
    assert len(np.unique(image)) > 30


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_a_modality_lut_of_each_depth_and_a_voi_lut_of_8_bits_are_read(bits):
    table = (np.arange(4096) >> 12 - min(bits, 12)).astype("<u2")
    lut = sequence(LUTDescriptor=[4096, 0, bits], LUTData=table.tobytes(), ModalityLUTType="US")
    assert np.array_equal(stored(dicom_file(ModalityLUTSequence=lut)), table[RAMP])
    if bits == 8:
        image = dicom.decode(dicom.deidentify(dicom_file(VOILUTSequence=lut), None), True)[0]
        assert np.array_equal(np.asarray(image), RAMP >> 4)


@pytest.mark.parametrize("tags", [{"WindowCenter": None, "WindowWidth": None}, {"WindowCenter": "5"}, {}])
def test_an_empty_window_is_no_window(tags):
    for content in (dicom_file(**tags), dicom.deidentify(dicom_file(**tags), None)):
        with pytest.raises(DecodeError, match="it has no VOI window .*set prepare.levels to percentiles"):
            decoder.decode(content, "window")


@pytest.mark.parametrize(("stored_bits", "high"), [(12, 15), (12, 13), (10, 15), (12, 11)])
@pytest.mark.parametrize("signed", [False, True])
def test_bits_are_where_high_bit_says_and_others_are_no_pixels(stored_bits, high, signed):
    least = -(1 << stored_bits - 1) if signed else 0
    values = np.arange(1 << stored_bits).reshape(32, -1) + least
    shift = high + 1 - stored_bits
    cells = (values << shift & (1 << high + 1) - 1).astype(np.uint16)
    noise = np.random.default_rng(0).integers(0, 65536, cells.shape).astype(np.uint16)
    used = ((1 << stored_bits) - 1) << shift
    content = dicom_file(
        cells | noise & ~np.uint16(used), BitsStored=stored_bits, HighBit=high, PixelRepresentation=int(signed)
    )
    assert np.array_equal(stored(content), values)


@pytest.mark.parametrize("tags", [{"BitsStored": 0, "HighBit": 0}, {"HighBit": 31}, {"BitsStored": 17}])
def test_bits_that_can_not_be_are_refused(tags):
    with pytest.raises(DecodeError, match=r"HighBit \(\d+\) do not fit BitsAllocated \(16\)"):
        decoder.decode(dicom_file(**tags), (0, 4095))


def test_the_inverse_is_the_same_for_all_images_of_a_set_whatever_bits_they_fill():
    """One file says that its 12 bits are 16: from 65,535 on, its inverse was white, and that of others black."""
    levels = (0, 4095)
    expected = (4095 - RAMP.astype(int)) * 255 // 4095
    for bits in (12, 14, 16):
        content = dicom_file(PhotometricInterpretation="MONOCHROME1", BitsStored=bits, HighBit=bits - 1)
        assert np.array_equal(shown(dicom.deidentify(content, None), levels), expected)
    assert np.array_equal(shown(dicom_file(4095 - RAMP), levels), expected)


def test_uncompressed_ybr_422_of_several_frames_is_read():
    """Two grey levels of luminance, and neutral chrominance (PS3.3 C.7.6.3.1.2): two pixels take four bytes."""
    frames = [np.tile(np.array([level, level + 1, 128, 128], np.uint8), 8 * 4) for level in (10, 200)]
    content = dicom_file(
        np.concatenate(frames).reshape(2, 8, 16), NumberOfFrames=2, Rows=8, Columns=8, SamplesPerPixel=3,
        BitsAllocated=8, BitsStored=8, HighBit=7, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0,
    )  # fmt: skip
    for frame, level in ((1, 10), (2, 200)):
        image = shown(dicom.deidentify(content, frame))
        assert np.array_equal(image, np.tile([level, level + 1], (8, 4)))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_dicom_is_read_without_its_preamble_or_its_header_whatever_its_name(syntax, tmp_path):
    content = dicom_file(syntax=syntax, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="MG", PatientName="Made^Up")
    dataset = pydicom.dcmread(io.BytesIO(content))
    header = content.index(b"\x08\0\x16\0" if syntax.is_little_endian else b"\0\x08\0\x16")
    assert dataset.PatientName == "Made^Up"
    for part in (content[132:], content[128:], content[header:]):
        assert kinds.kind(part[:4096]) == "dicom without preamble"
        (tmp_path / "x.png").write_bytes(part)
        assert dicom.read_header(tmp_path / "x.png", ["PatientName"]) == (1, {"PatientName": "Made^Up"})
        assert np.array_equal(stored(part), RAMP) and np.array_equal(values_of(part)[0], RAMP)
        assert b"Made" not in dicom.deidentify(part, None)


def test_modality_intent_and_shape_of_pixels_are_in_the_mode():
    tags = {"Modality": "MG", "PresentationIntentType": "FOR PROCESSING", "ImagerPixelSpacing": ["0.1", "0.2"]}
    assert values_of(dicom.deidentify(dicom_file(**tags), None))[1] == "MONOCHROME2 12 MG processing oblong"
    tags = {"PresentationIntentType": "FOR PRESENTATION", "PixelSpacing": ["0.1", "0.1"], "Modality": "Made Up"}
    assert values_of(dicom_file(**tags))[1] == "MONOCHROME2 12 presentation"


# Tags of group 0028 (image presentation) that are not kept, as patterns, and why.
NOT_KEPT = {
    "frames become files of their own": "NumberOfFrames|Frame(Increment|Dimension)Pointer|RWavePointer|"
    "Representative.*|FrameNumbersOf.*|FrameOfInterest.*|ApplicableFrameRange|(Pixel.*|LUT)FrameRange",
    "read from the functional groups of a frame": "PixelMeasures.*|FrameVOI.*|PixelValueTransformation.*",
    "read from the items of the sequences that are kept": "LUTDescriptor|LUTData",
    "free texts, or what an item is for": ".*Explanation|ModalityLUTType|RescaleType|PartialView.*",
    "what was done to the image, or is recommended, and not what its values mean": "UltrasoundColorDataPresent|Zoom.*|"
    "CorrectedImage|QualityControlImage|Recogn.*|Longitudinal.*|PixelSpacingCal.*|PixelIntensityRelationship(Sign)?|"
    "RecommendedViewingMode|BreastImplantPresent|SpatialLocations.*|Lossy.*|TIDOffset|ImageProcessingApplied|"
    "Geometric.*|FramePixelDataProperties.*|.*EquipmentMappingMatrix|EquipmentCoord.*|DisplayFilter.*|(Small|Larg)estP?I?.*",
    "of pixels of floating point, spectra or other data, which are refused": ".*FloatPixelPadding.*|DataPoint.*|"
    "SignalDomain.*|DataRepresentation|PixelDataProviderURL|SamplesPerPixelUsed",
    "colours that are not applied: profiles, transparency, and colours added to grey images": "ICCProfile|ColorSpace|"
    ".*Alpha.*|.*PaletteColorLookupTableUID|ReferencedColorPalette.*|.*StoredValue.*|Data(Frame|Path).*|Bits?Mapped.*|"
    "Blending.*|EnhancedPalette.*|RGBLUT.*",
    "digital subtraction, which no viewer of one frame applies": "Mask.*|Contrast.*|SubtractionItemID|.*PixelShift.*|"
    "VerticesOfTheRegion|MultiFramePresentation.*|LUTFunction|PixelIntensityRelationshipLUT.*",
    "of presentation states, which are other files": "VariableModality.*|SoftcopyVOI.*",
    "of displays and their calibration": "Equipment.*|NumberOf.*|Current.*|Display.*|System.*|Target.*|Lumin.*|"
    "Config.*|Referenced.*|QA.*|Measure.*|Visual.*|DDLValue|CIE.*|GammaValue|White.*|Ambient.*|Test.*",
}  # fmt: skip


def test_all_tags_of_the_standard_that_change_pixels_are_kept():
    """The modules Image Pixel, Modality LUT, VOI LUT, Palette, Frame Pixel Value Transformation and Frame VOI LUT
    (PS3.3 C.7.6.3, C.11.1, C.11.2, C.7.9, C.7.6.16.2.9, C.7.6.16.2.10), as PS3.3 lists them."""
    modules = """SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit
        PixelRepresentation PlanarConfiguration PixelAspectRatio PixelPaddingRangeLimit PixelPaddingValue PixelData
        RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor
        BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData GreenPaletteColorLookupTableData
        BluePaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData
        SegmentedGreenPaletteColorLookupTableData SegmentedBluePaletteColorLookupTableData ModalityLUTSequence
        RescaleIntercept RescaleSlope VOILUTSequence WindowCenter WindowWidth VOILUTFunction"""
    flags = (
        "Modality PresentationIntentType BurnedInAnnotation PixelSpacing ImagerPixelSpacing NominalScannedPixelSpacing"
    )
    assert set(dicom.KEPT) == {*modules.split(), *flags.split()}
    for tag, (*_, retired, keyword) in DicomDictionary.items():
        if tag >> 16 == 0x28 and not retired and keyword not in dicom.KEPT:
            assert any(re.fullmatch(pattern, keyword) for pattern in NOT_KEPT.values()), keyword
