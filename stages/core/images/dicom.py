"""DICOM files: the pixels as an image, and the file without the tags that say who the patient is.

The pixels are read by pydicom, and compressed ones by pylibjpeg (JPEG, JPEG-LS) and its openjpeg (JPEG 2000). The
modality rescale is applied (PS3.3 C.11.1), MONOCHROME1 is turned so that high values are bright, and the VOI window is
applied only if it is asked for (PS3.3 C.11.2).
"""

import hashlib
import hmac
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from core.images import messages
from core.images.preparation import LEVELS, LOWEST, Unreadable
from core.pipeline.errors import PipelineError

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # it takes half a second to import
    from pydicom import Dataset

# Why a header can't be read. These texts are in provenance.json, so they are here and not in the messages.
NO_SYNTAX = "DICOM without a transfer syntax"
UNKNOWN_SYNTAX = "DICOM of the unknown transfer syntax"
BURNED_IN = "annotated"  # in the mode of an image whose tag BurnedInAnnotation says so
MOST = 179_000_000  # pixels, as Pillow allows
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


class Header(NamedTuple):
    """``frames`` is the number of images in a file, 0 if it has none; ``tags`` the values of the tags asked for."""

    frames: int
    tags: dict[str, str]


def found(start: bytes) -> bool:
    """Whether a file that starts like this is DICOM. A DICOMDIR, an index of other files, is too."""
    return start[HEADER - 4 : HEADER] == b"DICM"


def header(path: Path, wanted: list[str]) -> Header:
    """Read a file up to its pixels. Raises Unreadable."""
    with _explained():
        import pydicom

        read = pydicom.dcmread(path, stop_before_pixels=True)
        syntax = read.file_meta.get("TransferSyntaxUID")
        if syntax is None:
            raise Unreadable(NO_SYNTAX)
        if not syntax.is_transfer_syntax:
            raise Unreadable(f"{UNKNOWN_SYNTAX} {syntax}")
        frames = int(read.get("NumberOfFrames") or 1) if "Rows" in read and "BitsAllocated" in read else 0
        return Header(frames, {name: str(read.get(name, "") or "").strip() for name in wanted})


def known(keyword: str) -> bool:
    """Whether DICOM has a tag with this keyword."""
    from pydicom.datadict import tag_for_keyword

    return tag_for_keyword(keyword) is not None


def stripped(content: bytes, frame: int | None) -> bytes:
    """The file with the tags of KEPT alone and, if it has several frames, only one of them, numbered from 1. Equal
    files give equal bytes. Raises Unreadable."""
    with _explained():
        import pydicom
        from pydicom.dataset import Dataset, FileMetaDataset

        read = pydicom.dcmread(io.BytesIO(content))
        small = Dataset()
        for keyword in KEPT:
            if keyword in read:
                small[keyword] = read[keyword]
        if frame is not None:
            small.PixelData = _frame(read, frame)
        small.file_meta = FileMetaDataset()
        small.file_meta.TransferSyntaxUID = read.file_meta.TransferSyntaxUID
        small.preamble = bytes(128)
        written = io.BytesIO()
        pydicom.dcmwrite(written, small)
        return written.getvalue()


def _frame(read: "Dataset", frame: int) -> bytes:
    from pydicom.encaps import encapsulate, generate_frames

    count = int(read.NumberOfFrames)
    if read.file_meta.TransferSyntaxUID.is_encapsulated:
        frames = list(generate_frames(read.PixelData, number_of_frames=count))
        return encapsulate([frames[frame - 1]])
    bits = read.Rows * read.Columns * read.SamplesPerPixel * read.BitsAllocated
    if bits % 8:
        raise Unreadable(messages.frames_not_at_bytes())
    content: bytes = read.PixelData[(frame - 1) * bits // 8 : frame * bits // 8]
    return content + b"\0" * (len(content) % 2)


def opened(content: bytes, window: bool) -> tuple[Image.Image | np.ndarray, str]:
    """The image, grey or RGB of 8 bits, or the grey values int64 (H, W) if it has more; and its mode: photometric
    interpretation, bits, and whether it is annotated. With ``window``, the first VOI window gives 8 bits.

    Raises Unreadable.
    """
    with _explained():
        import pydicom
        from pydicom.pixels import processing, utils

        read = pydicom.dcmread(io.BytesIO(content))
        if "PixelData" not in read:
            raise Unreadable(messages.no_pixels())
        if int(read.get("NumberOfFrames") or 1) > 1:
            raise Unreadable(messages.several_frames(read.NumberOfFrames))
        if not (read.Rows and read.Columns):
            raise Unreadable(messages.empty_image(read.Columns, read.Rows))
        if read.Rows * read.Columns > MOST:
            raise Unreadable(messages.too_many_pixels(read.Columns, read.Rows))
        kind, bits = str(read.PhotometricInterpretation), int(read.BitsStored)
        mode = f"{kind} {bits}" + (f" {BURNED_IN}" if read.get("BurnedInAnnotation") == "YES" else "")
        array = utils.pixel_array(read)
        if kind == "PALETTE COLOR":
            array = processing.apply_color_lut(array, read)
            array = (array >> 8 if array.dtype == np.uint16 else array).astype(np.uint8)
        if array.ndim == 3:
            if array.dtype != np.uint8:
                raise Unreadable(messages.deep_colour(bits))
            return Image.fromarray(array), mode
        return _grey(read, array, window), mode


def _grey(read: "Dataset", array: np.ndarray, window: bool) -> Image.Image | np.ndarray:
    from pydicom.pixels import processing

    bits, signed = int(read.BitsStored), bool(read.PixelRepresentation)
    ends = np.array([-(1 << bits - 1), (1 << bits - 1) - 1] if signed else [0, (1 << bits) - 1])
    values = np.asarray(processing.apply_modality_lut(array, read), dtype=np.float64)
    ends = np.asarray(processing.apply_rescale(ends, read), dtype=np.float64)
    turned = read.PhotometricInterpretation == "MONOCHROME1"
    if window and "WindowCenter" in read:
        far = np.array([-1e15, 1e15])  # gives the lowest and the highest value after the window
        shown = processing.apply_windowing(np.append(values, far), read, index=0)
        levels = np.floor((shown[:-2] - shown[-2]) * 255 / (shown[-1] - shown[-2])).reshape(values.shape)
        return Image.fromarray((255 - levels if turned else levels).astype(np.uint8))
    whole = np.rint(ends.sum() - values if turned else values).astype(np.int64)
    low, high = int(whole.min()), int(whole.max())
    if bits == 1:
        return Image.fromarray((whole * 255).astype(np.uint8))
    if bits <= 8 and low >= 0 and high <= 255:
        return Image.fromarray(whole.astype(np.uint8))
    if window:
        raise Unreadable(messages.no_voi_window())
    if low < LOWEST or high >= LOWEST + LEVELS:
        raise Unreadable(messages.out_of_range(low, high, LOWEST, LOWEST + LEVELS - 1))
    return whole


@contextmanager
def _explained() -> Iterator[None]:
    """Turn the errors of pydicom and its decoders into Unreadable."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # what is wrong is said once, by us
    warnings.filterwarnings("ignore", module="pydicom")
    try:
        yield
    except (Unreadable, OSError, MemoryError):
        raise
    except Exception as error:  # pydicom and each decoder raise errors of their own
        reason = " ".join(str(error).replace("'", "").split())
        raise Unreadable(f"DICOM: {reason[:200] or type(error).__name__}") from None


def pseudonyms(key: str | None, check: str | None, patients: dict[str, str], root: Path) -> dict[str, str]:
    """A keyed hash instead of each patient: HMAC-SHA256, 16 hexadecimal digits.

    ``key`` is the path of a file with a secret, ``check`` the first 8 digits of the SHA-256 of its content. Raises
    PipelineError if the file is missing, empty, or another one.
    """
    if key is None:
        raise PipelineError(messages.no_key())
    path = root / Path(key).expanduser()
    if not path.is_file() or not (secret := path.read_bytes().strip()):
        raise PipelineError(messages.empty_key(path))
    here = hashlib.sha256(secret).hexdigest()[:8]
    if check != here:
        raise PipelineError(messages.wrong_key(check, here))
    return {file: hmac.digest(secret, patient.encode(), "sha256").hex()[:16] for file, patient in patients.items()}
