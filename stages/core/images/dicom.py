"""DICOM files: the pixels as an image, and the file without the tags that say who the patient is.

The pixels are read by pydicom, and compressed ones by pylibjpeg (JPEG, JPEG-LS) and its openjpeg (JPEG 2000). The
modality rescale is applied (PS3.3 C.11.1), MONOCHROME1 is turned so that high values are bright, and the VOI window is
applied only with prepare.levels: window (PS3.3 C.11.2).
"""

import hashlib
import hmac
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from core.images import messages
from core.images.preparation import LEVELS, LOWEST, DecodeError
from core.pipeline.errors import PipelineError

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # it takes half a second to import
    from pydicom import Dataset

# Why a header can't be read. These texts are in provenance.json, so they are here and not in the messages.
NO_SYNTAX = "DICOM without a transfer syntax"
UNKNOWN_SYNTAX = "DICOM of the unknown transfer syntax"
BURNED_IN = "annotated"  # in the mode of an image whose tag BurnedInAnnotation says so
MAX_PIXELS = 179_000_000  # pixels, as Pillow allows
HEADER = 132  # bytes, the last four of which are "DICM"
# Of all tags, a stored image has only those that its pixels need, and BurnedInAnnotation.
KEPT = [
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "BurnedInAnnotation", "PixelData",
]  # fmt: skip


def is_dicom(start: bytes) -> bool:
    """Whether a file that starts like this is DICOM. A DICOMDIR, an index of other files, is too."""
    return start[HEADER - 4 : HEADER] == b"DICM"


def read_header(path: Path, keywords: list[str]) -> tuple[int, dict[str, str]]:
    """The number of images in a file, and the values of the tags with these keywords. Raises DecodeError."""
    with _decode_errors():
        import pydicom

        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        if syntax is None:
            raise DecodeError(NO_SYNTAX)
        if not syntax.is_transfer_syntax:
            raise DecodeError(f"{UNKNOWN_SYNTAX} {syntax}")
        frames = int(dataset.get("NumberOfFrames") or 1) if "Rows" in dataset and "BitsAllocated" in dataset else 0
        return frames, {name: str(dataset.get(name, "") or "").strip() for name in keywords}


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
        from pydicom.dataset import Dataset, FileMetaDataset

        dataset = pydicom.dcmread(io.BytesIO(content))
        reduced = Dataset()
        for keyword in KEPT:
            if keyword in dataset:
                reduced[keyword] = dataset[keyword]
        if frame is not None:
            reduced.PixelData = _frame(dataset, frame)
        reduced.file_meta = FileMetaDataset()
        reduced.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
        reduced.preamble = bytes(128)
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, reduced)
        return buffer.getvalue()


def _frame(dataset: "Dataset", frame: int) -> bytes:
    from pydicom.encaps import encapsulate, generate_frames

    count = int(dataset.NumberOfFrames)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        frames = list(generate_frames(dataset.PixelData, number_of_frames=count))
        return encapsulate([frames[frame - 1]])
    bits = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated
    if bits % 8:
        raise DecodeError(messages.FRAMES_NOT_AT_BYTES)
    content: bytes = dataset.PixelData[(frame - 1) * bits // 8 : frame * bits // 8]
    return content + b"\0" * (len(content) % 2)


def decode(content: bytes, window: bool) -> tuple[Image.Image | np.ndarray, str]:
    """Decode a file of one frame; ``window``: apply the first VOI window, which gives 8 bits.

    Returns a Pillow image, grey or RGB, if it has 8 bits, otherwise its grey values, int64 (H, W); and its mode: the
    photometric interpretation, the bits, and whether it is annotated. Raises DecodeError if the file can't be decoded,
    or has several frames, no pixels or no window.
    """
    with _decode_errors():
        import pydicom
        from pydicom.pixels import processing, utils

        dataset = pydicom.dcmread(io.BytesIO(content))
        if "PixelData" not in dataset:
            raise DecodeError(messages.NO_PIXELS)
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            raise DecodeError(messages.SEVERAL_FRAMES.format(frames=dataset.NumberOfFrames))
        height, width = dataset.Rows, dataset.Columns
        if not (height and width):
            raise DecodeError(messages.EMPTY_IMAGE.format(width=width, height=height))
        if height * width > MAX_PIXELS:
            raise DecodeError(messages.TOO_MANY_PIXELS.format(width=width, height=height))
        kind, bits = str(dataset.PhotometricInterpretation), int(dataset.BitsStored)
        mode = f"{kind} {bits}" + (f" {BURNED_IN}" if dataset.get("BurnedInAnnotation") == "YES" else "")
        array = utils.pixel_array(dataset)
        if kind == "PALETTE COLOR":
            array = processing.apply_color_lut(array, dataset)
            array = (array >> 8 if array.dtype == np.uint16 else array).astype(np.uint8)
        if array.ndim == 3:
            if array.dtype != np.uint8:
                raise DecodeError(messages.DEEP_COLOUR.format(bits=bits))
            return Image.fromarray(array), mode
        return _grey(dataset, array, window), mode


def encoding(content: bytes) -> tuple[str, float | None, float | None]:
    """The transfer syntax of a file that ``decode`` could read, and the center and the width of its first VOI window,
    None without one."""
    with _decode_errors():
        import pydicom

        dataset = pydicom.dcmread(
            io.BytesIO(content), stop_before_pixels=True, specific_tags=["WindowCenter", "WindowWidth"]
        )
        center, width = _first_number(dataset, "WindowCenter"), _first_number(dataset, "WindowWidth")
        return str(dataset.file_meta.TransferSyntaxUID), center, width


def _first_number(dataset: "Dataset", keyword: str) -> float | None:
    try:
        values = np.atleast_1d(np.asarray(dataset.get(keyword), dtype=np.float64))
    except (TypeError, ValueError):  # no tag, or no number in it
        return None
    return float(values[0]) if len(values) and np.isfinite(values[0]) else None


def _grey(dataset: "Dataset", array: np.ndarray, window: bool) -> Image.Image | np.ndarray:
    from pydicom.pixels import processing

    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    ends = np.array([-(1 << bits - 1), (1 << bits - 1) - 1] if signed else [0, (1 << bits) - 1])
    values = np.asarray(processing.apply_modality_lut(array, dataset), dtype=np.float64)
    ends = np.asarray(processing.apply_rescale(ends, dataset), dtype=np.float64)
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    if window and "WindowCenter" in dataset:
        extremes = np.array([-1e15, 1e15])  # gives the lowest and the highest value after the window
        windowed = processing.apply_windowing(np.append(values, extremes), dataset, index=0)
        levels = np.floor((windowed[:-2] - windowed[-2]) * 255 / (windowed[-1] - windowed[-2])).reshape(values.shape)
        return Image.fromarray((255 - levels if inverted else levels).astype(np.uint8))
    grey = np.rint(ends.sum() - values if inverted else values).astype(np.int64)
    low, high = int(grey.min()), int(grey.max())
    if bits == 1:
        return Image.fromarray((grey * 255).astype(np.uint8))
    if bits <= 8 and low >= 0 and high <= 255:
        return Image.fromarray(grey.astype(np.uint8))
    if window:
        raise DecodeError(messages.NO_VOI_WINDOW)
    if low < LOWEST or high >= LOWEST + LEVELS:
        limits = {"lowest": LOWEST, "highest": LOWEST + LEVELS - 1}
        raise DecodeError(messages.OUT_OF_RANGE.format(low=low, high=high, **limits))
    return grey


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
