"""The pixels of DICOM files are those that DCMTK reads: all files of pydicom's own tests and of pydicom-data."""

import shutil
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

from core.images import dicom, kinds
from core.images.preparation import PADDING, DecodeError

import data_store
import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image

FOLDERS = [Path(pydicom.data.__file__).parent / "test_files", Path(data_store.__path__[0])]
FILES = sorted(
    path
    for folder in FOLDERS
    for path in folder.rglob("*")
    if path.is_file() and kinds.kind(path.read_bytes()[:4096]) in kinds.DICOM
)
# How far the grey levels of a lossy codec, or of the conversion from YBR, may differ (of 255), and why.
LOSSY = {
    "JPGExtended.dcm": (1, "its JPEG of 12 bits: another inverse cosine transform"),
    "SC_jpeg_no_color_transform.dcm": (1, "JPEG: another inverse cosine transform"),
    "SC_jpeg_no_color_transform_2.dcm": (1, "JPEG: another inverse cosine transform"),
    "SC_rgb_jpeg_app14_dcmd.dcm": (1, "JPEG: another inverse cosine transform"),
    "SC_rgb_dcmtk_+eb+cr.dcm": (1, "JPEG: another inverse cosine transform"),
    "SC_rgb_dcmtk_+eb+cy+n1.dcm": (2, "JPEG and YBR"),
    "SC_rgb_dcmtk_+eb+cy+np.dcm": (2, "JPEG and YBR"),
    "SC_rgb_jpeg_lossy_gdcm.dcm": (2, "JPEG and YBR"),
    "SC_ybr_full_uncompressed.dcm": (2, "YBR: DCMTK rounds its coefficients"),
    "SC_ybr_full_422_uncompressed.dcm": (2, "YBR: DCMTK rounds its coefficients"),
    "examples_ybr_color.dcm": (3, "YBR: DCMTK rounds its coefficients"),
    "color3d_jpeg_baseline.dcm": (5, "JPEG: chroma is interpolated by libjpeg-turbo, and repeated by DCMTK"),
}
EXPLAINED = {
    "rtdose_expb.dcm": "DCMTK swaps the two words of 32 bits in big endian; ours are those of rtdose.dcm",
    "rtdose_expb_1frame.dcm": "the same",
}
REFUSED = {  # by us only: files that DCMTK reads
    "JPEG-lossy.dcm": "its JPEG of 12 bits has a wrong marker",
}


def dcmtk(path: Path, folder: Path, *options: str) -> np.ndarray | None:
    """The picture that DCMTK makes of a file, 16 bits a channel; None if it can't read it."""
    picture = folder / "picture.png"
    picture.unlink(missing_ok=True)
    for tool in ("dcm2pnm", "dcmj2pnm", "dcml2pnm"):
        subprocess.run([tool, "-O", "+on2", "-il", *options, path, picture], capture_output=True, check=False)
        if picture.exists() and picture.stat().st_size:
            return imagecodecs.png_decode(picture.read_bytes())
    return None


def ours(path: Path, frame: int, count: int, window: bool = False) -> tuple[np.ndarray, str]:
    """Values as floats, and the mode."""
    image, mode = dicom.decode(dicom.deidentify(path.read_bytes(), frame if count > 1 else None), window)
    return np.asarray(image, np.float64), f"{mode}{' shallow' if isinstance(image, Image.Image) else ''}"


def difference(path: Path, frame: int, count: int, folder: Path) -> tuple[float, float] | str:
    """The largest difference from DCMTK's picture, and what rounding explains, both in 65,535ths of its range; or who
    can't read the file."""
    options, rounding = ["+F", str(frame)], 1.0
    try:
        values, mode = ours(path, frame, count)
    except DecodeError:
        return "neither" if dcmtk(path, folder, *options) is None else "DCMTK alone"
    visible, scaled = values != PADDING, values * 257
    if not mode.startswith("MONOCHROME"):
        rounding = 256 if mode.startswith("PALETTE") else 1  # we show palettes in 8 bits
        scaled = scaled if mode.endswith("shallow") else values / 2.0 ** (int(mode.split()[1]) - 16)
    else:
        low, high = 0, (1 << int(mode.split()[1])) - 1
        if not mode.endswith("shallow"):
            low, high = np.floor(values[visible].min()), np.ceil(values[visible].max())
            high = max(high, low + 1)
            scaled = (values - low) * 65535 / (high - low)
            scaled = 65535 - scaled if mode.startswith("MONOCHROME1") else scaled
            rounding += 65535 / (high - low) if (values != np.rint(values)).any() else 0  # DCMTK has whole numbers
        # The window that makes low black and high white (PS3.3 C.11.2.1.2.1)
        options += ["+Ww", str((low + high + 1) / 2), str(high - low + 1)]
    theirs = dcmtk(path, folder, *options)
    if theirs is None:
        return "we alone"
    return float(np.abs(scaled - theirs)[visible].max()), rounding


@pytest.mark.long
def test_the_pixels_of_all_files_of_pydicom_are_those_that_dcmtk_reads(tmp_path):
    if shutil.which("dcm2pnm") is None:
        pytest.skip("dcm2pnm is missing (Debian, Ubuntu: apt install dcmtk)")
    results: dict[str, list[str]] = defaultdict(list)
    for path in FILES:
        try:
            count, _ = dicom.read_header(path, [])
        except DecodeError:
            results["no header"].append(path.name)
            continue
        for frame in sorted({1, count} if count else ()):
            result = difference(path, frame, count, tmp_path)
            if isinstance(result, str):
                results[result].append(path.name)
            elif result[0] <= result[1]:
                results["equal"].append(path.name)
            elif result[0] <= LOSSY.get(path.name, (0, ""))[0] * 257 * 1.01:
                results["lossy"].append(path.name)
            else:
                results["different"].append(path.name)
                results["by"].append(f"{path.name} {frame}: {result}")
    assert set(results["different"]) <= set(EXPLAINED), results["by"]
    assert set(results["DCMTK alone"]) == set(REFUSED)
    # Images, the first and the last frame of files of several
    assert {name: len(results[name]) for name in ("equal", "lossy", "different", "we alone")} == {
        "equal": 136, "lossy": 14, "different": 3, "we alone": 28,
    }  # fmt: skip


@pytest.mark.long
def test_windows_and_luts_give_what_dcmtk_shows(tmp_path):
    if shutil.which("dcm2pnm") is None:
        pytest.skip("dcm2pnm is missing (Debian, Ubuntu: apt install dcmtk)")
    wrong, compared = {}, Counter()
    for path in FILES:
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        option = "+Wl" if "VOILUTSequence" in dataset else "+Wi"
        if not str(dataset.get("PhotometricInterpretation")).startswith("MONO"):
            continue
        try:
            values, _ = ours(path, 1, dicom.read_header(path, [])[0], window=True)
        except DecodeError:
            continue
        theirs = dcmtk(path, tmp_path, option, "1")
        if theirs is None or not ("WindowWidth" in dataset or option == "+Wl"):
            continue
        # Ours are rounded down to 8 bits; DCMTK rounds rescaled values to whole numbers, within the window.
        compared[option] += 1
        if (largest := np.abs(values - theirs / 257).max()) > 1.01:
            wrong[path.name] = (option, float(largest), dataset.get("WindowWidth"), dataset.get("RescaleSlope"))
    assert not wrong and compared == {"+Wi": 50, "+Wl": 1}
