"""DICOM files: the pixels as an image, and the file without the tags that say who the patient is.

The pixels are read by pydicom, and compressed ones by pylibjpeg (JPEG, JPEG-LS) and its openjpeg (JPEG 2000). The
modality rescale or LUT is applied (PS3.3 C.11.1), and the first VOI LUT or window only with prepare.levels: window
(PS3.3 C.11.2). What PixelPaddingValue names is no part of the image (PS3.3 C.7.5.1.1.2).
"""

import hashlib
import hmac
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from core.images import messages, preparation
from core.images.preparation import PADDING, DecodeError
from core.pipeline.errors import PipelineError

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # it takes half a second to import
    from pydicom import Dataset

# Why a header can't be read. These texts are in provenance.json, so they are here and not in the messages.
NO_SYNTAX = "DICOM without a transfer syntax"
UNKNOWN_SYNTAX = "DICOM of the unknown transfer syntax"
BURNED_IN = "annotated"  # in the mode of an image whose tag BurnedInAnnotation says so
OBLONG = "oblong"  # in the mode of an image whose pixels are not square
INTENTS = {"FOR PROCESSING": "processing", "FOR PRESENTATION": "presentation"}  # in the mode, after the modality
IN_MODE = {"modality": r" \d+ ([A-Z]\w*)", "intent": f" ({'|'.join(INTENTS.values())})"}  # patterns
SPACINGS = ["PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"]
PALETTES = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
LUTS = ["ModalityLUTSequence", "VOILUTSequence"]
# Of all tags, a stored image has only those that its pixels need, and those that its mode says.
KEPT = [
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope", *LUTS, "WindowCenter",
    "WindowWidth", "VOILUTFunction", "PixelPaddingValue", "PixelPaddingRangeLimit",
    *(palette + part for palette in PALETTES for part in ("Descriptor", "Data")),
    *(f"Segmented{palette}Data" for palette in PALETTES),
    *SPACINGS, "Modality", "PresentationIntentType", "BurnedInAnnotation", "PixelData",
]  # fmt: skip
# Functional groups of frames with such tags (PS3.3 C.7.6.16.2)
GROUPS = ["PixelValueTransformationSequence", "FrameVOILUTSequence", "PixelMeasuresSequence"]


def read_header(path: Path, keywords: list[str]) -> tuple[int, dict[str, str]]:
    """The number of images in a file, and the values of the tags with these keywords. Raises DecodeError."""
    with _decode_errors(), path.open("rb") as file:
        dataset = _read(file, stop_before_pixels=True)
        frames = int(dataset.get("NumberOfFrames") or 1) if "Rows" in dataset and "BitsAllocated" in dataset else 0
        return frames, {name: str(dataset.get(name, "") or "").strip() for name in keywords}


def _read(file: IO[bytes], stop_before_pixels: bool = False) -> "Dataset":
    """A dataset with or without preamble, whose file_meta has its transfer syntax. Raises DecodeError."""
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if file.read(4) == b"DICM":  # pydicom expects this only after a preamble
        file = io.BytesIO(file.read())
    file.seek(0)
    dataset = pydicom.dcmread(file, force=True, stop_before_pixels=stop_before_pixels)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None and not len(dataset):
        raise DecodeError(NO_SYNTAX)
    if syntax is None:
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    if not syntax.is_transfer_syntax:
        raise DecodeError(f"{UNKNOWN_SYNTAX} {syntax}")
    return dataset


def is_keyword(keyword: str) -> bool:
    """Whether DICOM has a tag with this keyword."""
    from pydicom.datadict import tag_for_keyword

    return tag_for_keyword(keyword) is not None


def deidentify(content: bytes, frame: int | None) -> bytes:
    """Remove all tags except those in KEPT, and all frames except ``frame``, numbered from 1 (None: the file has one).

    Equal files give equal bytes. Raises DecodeError.
    """
    with _decode_errors():
        import pydicom

        dataset = _read(io.BytesIO(content))
        reduced = _reduce(dataset, frame or 1)
        if "PixelData" in reduced and (frame is not None or not reduced.file_meta.TransferSyntaxUID.is_encapsulated):
            reduced.PixelData = _frame(dataset, frame or 1)  # without what follows the pixels
        reduced.preamble = bytes(128)
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, reduced)
        return buffer.getvalue()


def _reduce(dataset: "Dataset", frame: int) -> "Dataset":
    """The tags in KEPT that have a value, at the top: those of the frame come before those of the file."""
    from pydicom.dataset import Dataset, FileMetaDataset

    sources = [dataset]
    for keyword, number in (("SharedFunctionalGroupsSequence", 1), ("PerFrameFunctionalGroupsSequence", frame)):
        for groups in (dataset.get(keyword) or [])[number - 1 : number]:
            sources += [item for name in GROUPS for item in groups.get(name) or []]
    reduced = Dataset()
    for source in sources:
        reduced.update(_only(source, KEPT))
    for keyword in LUTS:
        if keyword in reduced:  # without its explanation, a free text
            setattr(reduced, keyword, [_only(item, ["LUTDescriptor", "LUTData"]) for item in reduced[keyword].value])
    reduced.file_meta = FileMetaDataset()
    reduced.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    return reduced


def _frame(dataset: "Dataset", frame: int) -> bytes:
    from pydicom.encaps import encapsulate, generate_frames
    from pydicom.pixels.utils import get_expected_length

    count = int(dataset.get("NumberOfFrames") or 1)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        frames = list(generate_frames(dataset.PixelData, number_of_frames=count))
        return encapsulate([frames[frame - 1]])
    if count > 1 and dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated % 8:
        raise DecodeError(messages.FRAMES_NOT_AT_BYTES)
    size = get_expected_length(dataset) // count
    size += size % 2 if count == 1 else 0  # in words of big endian, the last pixel comes after the padding byte
    content: bytes = dataset.PixelData[(frame - 1) * size : frame * size]
    return content + b"\0" * (len(content) % 2)


def decode(content: bytes, window: bool) -> tuple[Image.Image | np.ndarray, str]:
    """Decode a file of one frame.

    Parameters
    ----------
    window : apply the first VOI LUT or window, which gives 8 bits

    Returns
    -------
    image : Pillow image, grey or RGB, if it has 8 bits, otherwise (H, W) or (H, W, 3), int64 or float64
        The latter are its values after the modality LUT, and PADDING.
    mode : str
        The photometric interpretation, the bits, and, if they are known, the modality, the intent, and whether it is
        oblong or annotated.

    Raises
    ------
    DecodeError
        If the file can't be decoded, or has several frames, no pixels or no window.
    """
    with _decode_errors():
        from pydicom.pixels import processing, utils

        dataset = _read(io.BytesIO(content))
        if "PixelData" not in dataset:
            raise DecodeError(messages.NO_PIXELS)
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            raise DecodeError(messages.SEVERAL_FRAMES.format(frames=dataset.NumberOfFrames))
        preparation.check_size(dataset.Columns, dataset.Rows)
        dataset = _reduce(dataset, 1)
        kind, mode = str(dataset.PhotometricInterpretation), _mode(dataset)
        if kind.startswith("MONOCHROME"):
            return _grey(dataset, window), mode
        array = utils.pixel_array(dataset)
        if kind == "PALETTE COLOR":
            bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
            if not dataset.file_meta.TransferSyntaxUID.is_little_endian:  # pydicom would read its words as such
                for name in [f"{palette}Data" for palette in PALETTES if f"{palette}Data" in dataset]:
                    dataset[name].value = np.frombuffer(dataset[name].value, ">u2").astype("<u2").tobytes()
            array = (processing.apply_color_lut(array, dataset) >> bits - 8).astype(np.uint8)
        if array.ndim == 2 and dataset.BitsStored == 1:
            array = (array * 255).astype(np.uint8)
        return Image.fromarray(array) if array.dtype == np.uint8 else array.astype(np.int64), mode


def _mode(dataset: "Dataset") -> str:
    modality = str(dataset.get("Modality", ""))
    words = [str(dataset.PhotometricInterpretation), str(dataset.BitsStored)]
    words += [modality if modality.isalnum() else "", INTENTS.get(str(dataset.get("PresentationIntentType")), "")]
    rows, columns = next((map(float, dataset[name].value) for name in SPACINGS if name in dataset), (1.0, 1.0))
    words += [OBLONG if max(rows, columns) > 1.01 * min(rows, columns) else ""]
    words += [BURNED_IN if dataset.get("BurnedInAnnotation") == "YES" else ""]
    return " ".join(filter(None, words))


def encoding(content: bytes) -> tuple[str, float | None, float | None]:
    """The transfer syntax of a file that ``decode`` could read, and the center and the width of its first VOI window,
    None without one."""
    with _decode_errors():
        dataset = _read(io.BytesIO(content), stop_before_pixels=True)
        center, width = _first_number(dataset, "WindowCenter"), _first_number(dataset, "WindowWidth")
        return str(dataset.file_meta.TransferSyntaxUID), center, width


def _first_number(dataset: "Dataset", keyword: str) -> float | None:
    try:
        values = np.atleast_1d(np.asarray(dataset.get(keyword), dtype=np.float64))
    except (TypeError, ValueError):  # no tag, or no number in it
        return None
    return float(values[0]) if len(values) and np.isfinite(values[0]) else None


def _grey(dataset: "Dataset", window: bool) -> Image.Image | np.ndarray:
    from pydicom.pixels import utils

    bits, size = int(dataset.BitsStored), int(dataset.BitsAllocated)
    high_bit = max(int(dataset.get("HighBit", 0)), bits - 1)
    if not 1 <= bits <= high_bit + 1 <= size:
        raise DecodeError(messages.WRONG_BITS.format(stored=bits, high=high_bit, size=size))
    if size > 1 and not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.BitsStored = size  # all bits: padding can be outside of those that are stored
        cells = utils.pixel_array(dataset)
        array = cells << size - 1 - high_bit >> size - bits
        dataset.BitsStored = bits
    else:
        array = cells = utils.pixel_array(dataset)
    padding = _is_padding(dataset, cells, size)
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    values = _modality(dataset, array)
    if window and ("VOILUTSequence" in dataset or ("WindowCenter" in dataset and "WindowWidth" in dataset)):
        levels = _windowed(dataset, values)
        return Image.fromarray(np.where(padding, 0, 255 - levels if inverted else levels).astype(np.uint8))
    if bits <= 8 and values is array and not dataset.PixelRepresentation:
        grey = values.astype(np.int64) * 255 // ((1 << bits) - 1)
        return Image.fromarray(np.where(padding, 0, 255 - grey if inverted else grey).astype(np.uint8))
    if window:
        raise DecodeError(messages.NO_VOI_WINDOW)
    if values.dtype.kind != "f" or (values == np.rint(values)).all():
        values = values.astype(np.int64)
    return np.where(padding, PADDING, values) if "PixelPaddingValue" in dataset else values


def _modality(dataset: "Dataset", array: np.ndarray) -> np.ndarray:
    """``array`` itself if no modality LUT or rescale changes it."""
    from pydicom.pixels import processing

    if "ModalityLUTSequence" in dataset:
        _deepen(dataset.ModalityLUTSequence[0])
        array = array.astype(np.int64)
    elif (dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)) == (1, 0):
        return array
    return np.asarray(processing.apply_modality_lut(array, dataset))


def _windowed(dataset: "Dataset", values: np.ndarray) -> np.ndarray:
    """Values after the VOI LUT or window, as whole numbers from 0 to 255."""
    from pydicom.pixels import processing

    if "VOILUTSequence" in dataset:
        bits = _deepen(dataset.VOILUTSequence[0])
        table = processing.apply_voi(np.rint(values).astype(np.int64), dataset).astype(np.int64)
        return np.minimum(table * 255 // ((1 << bits) - 1), 255)
    extremes = np.array([-1e15, 1e15])  # gives the lowest and the highest value after the window
    with np.errstate(over="ignore"):  # of SIGMOID
        windowed = processing.apply_windowing(np.append(values, extremes), dataset, index=0)
    levels = (windowed[:-2] - windowed[-2]) * 255 / (windowed[-1] - windowed[-2])
    if dataset.get("VOILUTFunction") == "SIGMOID":
        levels = levels.round(6)  # the last digits of an exponential are not the same on all machines
    return np.floor(levels).reshape(values.shape)


def _deepen(lut: "Dataset") -> int:
    """The bits of a LUT, which become 16: pydicom reads 8, 10 to 16, and would index a LUT of 8 bits by 8 bits."""
    *first, bits = lut.LUTDescriptor
    lut.LUTDescriptor = [*first, 16]
    return int(bits)


def _only(item: "Dataset", keywords: list[str]) -> "Dataset":
    from pydicom.dataset import Dataset

    reduced = Dataset()
    for keyword in keywords:
        if keyword in item and not item[keyword].is_empty:
            reduced[keyword] = item[keyword]
    return reduced


def _is_padding(dataset: "Dataset", cells: np.ndarray, size: int) -> np.ndarray | bool:
    """Where stored values are from PixelPaddingValue to PixelPaddingRangeLimit. Their sign may be written wrongly."""
    if "PixelPaddingValue" not in dataset:
        return False
    ends = int(dataset.PixelPaddingValue), int(dataset.get("PixelPaddingRangeLimit", dataset.PixelPaddingValue))
    return (cells.astype(np.int64) - min(ends)) % (1 << size) <= max(ends) - min(ends)


@contextmanager
def _decode_errors() -> Iterator[None]:
    """Turn the errors of pydicom and its decoders into DecodeError."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # the DecodeError says it once
    warnings.filterwarnings("ignore", module="pydicom")
    try:
        yield
    except (DecodeError, OSError, MemoryError):
        raise
    except Exception as error:  # pydicom and each decoder raise errors of their own
        reason = " ".join(str(error).replace("'", "").split())
        raise DecodeError(f"DICOM: {reason[:200] or type(error).__name__}") from None


def pseudonyms(key: str | None, check: str | None, patients: dict[str, str], root: Path) -> dict[str, str]:
    """A keyed hash instead of each patient: HMAC-SHA256, 16 hexadecimal digits. Raises PipelineError.

    ``key`` is the path of a file with a secret, ``check`` the first 8 digits of the SHA-256 of its content.
    """
    if key is None:
        raise PipelineError(messages.NO_KEY)
    path = root / Path(key).expanduser()
    if not path.is_file() or not (secret := path.read_bytes().strip()):
        raise PipelineError(messages.EMPTY_KEY.format(path=path))
    actual = hashlib.sha256(secret).hexdigest()[:8]
    if check != actual:
        message = messages.NO_KEY_CHECK if check is None else messages.WRONG_KEY
        raise PipelineError(message.format(expected=check, actual=actual))
    return {file: hmac.digest(secret, patient.encode(), "sha256").hex()[:16] for file, patient in patients.items()}
