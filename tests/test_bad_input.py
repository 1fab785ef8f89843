"""Every bad input that we could think of: what is given, what the user sees, what is left on disk.

``python tests/test_bad_input.py`` prints the table with each message in full.
"""

import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))  # for the call above

from core.pipeline import entrypoint, tables

import audit
import download
import prepare
import split
from conftest import TOP, change_parameters, huge_image, image, put

PREPARED = [
    f"data/prepared/{name}"
    for name in ("crops.npy", "images.npy", "index.csv", "preparation.json", "properties.csv", "thumbnails.npy")
]
RAW = [
    "data/raw/groups.csv",
    "data/raw/images.zip",
    "data/raw/inventory.csv",
    "data/raw/labels.csv",
    "data/raw/lists.csv",
    "data/raw/provenance.json",
]
WATCHED = "stages: {download: {deps: [{path: given, nfiles: 11}]}}"
GOOD = {f"{label}/{label}{number}.png": image(90 * label + 5 * number) for label in (0, 1) for number in range(4)}
FOLDER = {"data.source": "folder", "data.location": "given"}
TABLE = FOLDER | {"data.labels": "labels.csv"}
ARCHIVE = {"data.source": "archive", "data.location": "given/a"}


class Case(NamedTuple):
    """``source`` is put into the folder given/; ``says`` is what the message must match, or empty where the
    input is fine; ``left`` the files below data/ afterwards."""

    what: str
    source: dict[str, bytes | str]
    params: dict[str, object]
    says: str
    left: list[str]


def read(name: str) -> bytes:
    """A DICOM file that comes with pydicom."""
    return Path(get_testdata_file(name, download=False)).read_bytes()


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    written = io.BytesIO()
    picture.save(written, kind, **options)
    return written.getvalue()


def odd(what: str, name: str, content: bytes, says: str = "") -> Case:
    """One odd image among eight good ones."""
    left = RAW if says else sorted(RAW + PREPARED)
    return Case(what, GOOD | {f"1/{name}": content}, FOLDER, says and rf"1 of 9 images .*1/{name} \({says}", left)


def source(what: str, images: dict[str, bytes], says: str, **params: object) -> Case:
    """Files among eight good images that are refused before anything is written."""
    return Case(what, GOOD | images, FOLDER | {f"data.{key}": value for key, value in params.items()}, says, [])


def labels(what: str, content: bytes | str, says: str = "", **params: object) -> Case:
    pictures = {f"{number}.png": image(20 * number) for number in range(4)}
    changes = TABLE | {f"data.{key}": value for key, value in params.items()}
    return Case(what, pictures | {"labels.csv": content}, changes, says, [] if says else RAW)


def named(what: str, name: str, says: str = "") -> Case:
    return Case(what, GOOD | {name: image(7)}, FOLDER, says, [] if says else RAW)


def archive(what: str, content: bytes, says: str) -> Case:
    return Case(what, {"a": content}, ARCHIVE, says, [])


def zipped(members: dict[str, bytes], **changes: int) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive_file:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name)
            for key, value in changes.items():
                setattr(entry, key, value)
            archive_file.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return written.getvalue()


def tarred(kind: bytes, name: str = "1/a.png", link: str = "", compression: str = "", size: int = 0) -> bytes:
    """A tar with one member, which may claim to be larger than it is."""
    written = io.BytesIO()
    if size:
        entry = tarfile.TarInfo(name)
        entry.size = size
        return entry.tobuf() + bytes(5000)
    with tarfile.open(fileobj=written, mode=f"w:{compression}") as archive_file:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, link
        content = np.random.default_rng(1).bytes(5000) if kind == tarfile.REGTYPE else b""
        entry.size = len(content)
        archive_file.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def encrypted() -> bytes:
    """Bit 0 of the flags says so, in the member's own header and in the directory."""
    content = bytearray(zipped(GOOD))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := content.find(mark, at + 1)) >= 0:
            content[at + place] |= 1
    return bytes(content)


deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
DEEP = {f"{number % 2}/{number}.png": encoded(Image.fromarray(deep + np.uint16(number)), "PNG") for number in range(4)}
DICOM = {f"{number % 2}/{number}": read(name) for number, name in enumerate(["MR_small.dcm", "MR_small_RLE.dcm"] * 2)}
turned = Image.new("L", (8, 4)).getexif()
turned[0x0112] = 6
frames = [Image.new("L", (8, 8), shade) for shade in (10, 200)]
CUT_OFF = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])[:-20]
rows = "0.png,0\n1.png,0\n2.png,1\n3.png,1\n"

CASES = [
    odd("an image cut off", "x.png", image(np.random.default_rng(1).integers(0, 255, (64, 64), np.uint8))[:-900], "image file is truncated"),
    source("a text under an image's name", {"1/x.png": b"no image"}, r"1 files whose name is that of an image, but not their content \(text\): 1/x.png"),
    source("an image of zero bytes", {"1/x.png": b""}, r"1 files whose name is that of an image, but not their content \(empty\): 1/x.png"),
    source("other bytes under an image's name", {"1/x.png": bytes(9)}, r"1 files whose name is that of an image, but not their content \(its content is of no known kind\): 1/x.png"),
    odd("a JPEG named .png", "x.png", image(9, kind="JPEG")),
    odd("grey of 16 bits among 8", "x.png", encoded(Image.fromarray(deep), "PNG"), r"more than 8 bits a pixel \(I;16\), where 8 are expected"),
    Case("grey of 16 bits", DEEP, FOLDER, "", sorted(RAW + PREPARED)),
    Case("grey of 8 bits among 16", DEEP | {"1/x.png": image(9)}, FOLDER, r"1 of 5 images .*1/x.png \(8 bits a pixel \(L\), where more are expected", RAW),
    Case("grey of 32 bits beyond 16", DEEP | {"1/x.tif": encoded(Image.fromarray(deep.astype(np.int32) * 9), "TIFF")}, FOLDER, r"1 of 5 images .*1/x.tif \(grey values from 0 to 567000 are outside of -32768 to 98303", RAW),
    odd("floating-point grey", "x.tif", encoded(Image.fromarray(deep.astype(np.float32)), "TIFF"), "floating-point pixels have no known range"),
    odd("CMYK", "x.jpg", image(9, kind="JPEG", mode="CMYK")),
    odd("a palette", "x.png", image(9, mode="P")),
    odd("an alpha channel", "x.png", image(9, mode="RGBA")),
    odd("turned by EXIF", "x.jpg", encoded(Image.new("L", (8, 4)), "JPEG", exif=turned)),
    odd("1 x 1 pixel", "x.png", image(9, size=(1, 1))),
    odd("30,000 x 30,000 pixels", "x.png", huge_image(), r"Image size \(900000000 pixels\) exceeds limit"),
    *[source(f"an animated {kind}", {f"1/x.{kind}": encoded(frames[0], kind, save_all=True, append_images=frames[1:])}, rf"1 files of several frames or pages \(data.frames: .*\): 1/x.{kind}") for kind in ("GIF", "PNG", "WEBP", "TIFF")],
    source("a page cut off", {"1/x.tif": CUT_OFF}, r"1 files that can't be read \(image file is truncated.*\): 1/x.tif", frames="split"),
    named("a name with spaces", "1/my image (1).png"),
    named("a name in Unicode", "1/Brust-Präparat 乳腺 é.png"),
    named("names that differ in case alone", "1/10.PNG"),
    named("a path of 300 characters", "1/" + "d" * 150 + "/1/" + "n" * 140 + ".png"),
    named("a line break in a name", "1/a\nb.png", r"contains a file whose name is not printable: 1/a\\nb.png. Rename it"),
    named("a carriage return in a name", "1/a\rb.png", r"contains a file whose name is not printable: 1/a\\rb.png. Rename it"),
    named("a name of 255 bytes", "1/" + "é" * 125 + "n.png"),
    named("a third folder of images", "2/x.png", r"must contain two classes, .*found .*'0' \(4 images\).*'2' \(1 image\)"),
    Case("one class alone", {"1/a.png": image(1)}, FOLDER, r"must contain two classes, .*found '1' \(1 image\)", []),
    Case("a folder without images", {"a.txt": "x"}, FOLDER, "contains no image", []),
    Case("a folder that is not there", {}, FOLDER | {"data.location": "gone"}, "data.location: there is no folder", []),
    labels("labels with BOM", b"\xef\xbb\xbffile,label\n" + rows.encode()),
    labels("labels with CRLF", ("file,label\n" + rows).replace("\n", "\r\n")),
    labels("labels without a column", "name,label\n" + rows, r"labels.csv has no column 'file' \(data.file_column\); it has 'name', 'label'"),
    labels("labels with semicolons", ("file,label\n" + rows).replace(",", ";")),
    labels("an empty label", "file,label\n" + rows.replace("1.png,0", "1.png,"), "1 images without a label: 1.png"),
    labels("a label nan", "file,label\n" + rows.replace("1.png,0", "1.png,nan"), "1 images without a label: 1.png"),
    labels("three classes", "file,label\n" + rows.replace("1.png,0", "1.png,2"), r"must contain two classes, .*'2' \(1 image\); '2': 1.png"),
    labels("a class on both lists", "file,label\n" + rows, "data: positive and negative both name 1", negative=["0", "1"]),
    labels("a negative class without an image", "file,label\n" + rows, r"must contain each class that data.positive = '1' and data.negative = 'normal' name; found '0' \(2 images\)", negative="normal"),
    labels("one class in a table", "file,label\n" + rows.replace(",1", ",0"), r"must contain two classes, .*found '0' \(4 images\)"),
    labels("a table with a header alone", "file,label\n", "labels.csv can't be read as a CSV: it has no row below a header"),
    labels("an empty table", "", "labels.csv can't be read as a CSV"),
    labels("a table in Latin-1", ("file,label,é\n" + rows).encode("latin-1"), "labels.csv is not UTF-8: line 1 has letters in another encoding"),
    labels("a file named twice", "file,label\n" + rows + "3.png,0\n", r"labels.csv contradicts itself in 1 images: 3.png \('1' / '0'\)"),
    labels("a name that leaves the source", "file,label\n" + rows.replace("3.png", "../3.png"), r"1 labels without an image: \.\./3.png"),
    labels("an absolute name", "file,label\n" + rows.replace("3.png", "/etc/3.png"), "1 labels without an image: /etc/3.png"),
    labels("no such positive class", "file,label\n" + rows, "one of them data.positive = 'malignant'", positive="malignant"),
    labels("a positive class in other capitals", "file,label\n" + rows.replace(",1", ",bad").replace(",0", ",good"), r"data.labels: 1 names are spelled in several ways: 'Bad' / 'bad'.*data.alike", positive="Bad"),
    labels("names without their ending", "file,label\n" + rows.replace(".png", ""), "gives file names without their extension: add .png to them"),
    labels("a pattern without a group", "file,label\n" + rows, r"labels.csv has no column '\^\(\.\)' \(data.patient\); .*A pattern needs a group \(\?P<patient>...\)", patient="^(.)"),
    labels("a table of another name", "file,label\n" + rows, "label.csv is neither in the source nor at .*; the source contains labels.csv", labels="label.csv"),
    labels("a group of one value", "file,label,site\n" + rows.replace("\n", ",A\n"), "data.groups: site has one value, 'A': there is nothing to compare", groups=["site"]),
    labels("a group of a value an image", "file,label,site\n0.png,0,a\n1.png,0,b\n2.png,1,c\n3.png,1,d\n", "data.groups: site has 4 values for 4 images, such as a, b and 2 more: a group needs several", groups=["site"]),
    labels("a group with missing cells", "file,label,site\n0.png,0,a\n1.png,0,a\n2.png,1,b\n3.png,1,\n", "", groups=["site"]),
    labels("a group that has no column", "file,label\n" + rows, r"labels.csv has no column 'site' \(data.groups\); it has 'file', 'label'", groups=["site"]),
    labels("a group with edges and words", "file,label,age\n0.png,0,40\n1.png,0,old\n2.png,1,60\n3.png,1,50\n", "data.groups: age has edges, but 'old' are no numbers", groups=[{"age": [50]}]),
    Case("a file where a folder should be", {"a.zip": zipped(GOOD)}, FOLDER | {"data.location": "given/a.zip"}, "there is no folder .*a.zip: it is a file; name its folder, or for an archive set data.source: archive", []),
    Case("DICOM without endings", DICOM, FOLDER, "", sorted(RAW + PREPARED)),
    Case("a DICOM cut off", DICOM | {"1/x": read("MR_small_RLE.dcm")[:5000]}, FOLDER, r"1 of 5 images .*1/x \(a DICOM file without pixels", RAW),
    Case("a DICOM with too few pixels", DICOM | {"1/x": read("MR_truncated.dcm")}, FOLDER, r"1 of 5 images .*1/x \(DICOM: The number of bytes of pixel data is less", RAW),
    Case("a DICOM without an image", DICOM | {"1/x": read("test-SR.dcm")}, FOLDER, "1 DICOM files without an image: 1/x", []),
    Case("a DICOM of an unknown transfer syntax", DICOM | {"1/x": read("MR_small_RLE.dcm").replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.9\0")}, FOLDER, r"1 files that can't be read \(DICOM of the unknown transfer syntax 1.2.840.10008.1.2.9\): 1/x", []),
    Case("a DICOM of several frames", DICOM | {"1/x": read("examples_ybr_color.dcm")}, FOLDER, r"1 files of several frames or pages \(data.frames: first .* split", []),
    Case("a DICOM of 8 bits among 16", DICOM | {"1/x": read("SC_rgb_rle.dcm")}, FOLDER, r"1 of 5 images .*1/x \(8 bits a pixel \(RGB 8 OT\), where more are expected", RAW),
    Case("a DICOM without a window", DICOM | {"1/x": read("CT_small.dcm")}, FOLDER | {"prepare.levels": "window"}, r"1 of 5 images .*1/x \(it has no VOI window", RAW),
    Case("patients of DICOM without a key", DICOM, FOLDER | {"data.patient": "dicom:PatientID"}, "set data.dicom.key to its path, or write patients as they are: data.dicom.patient: plain", []),
    Case("another key", DICOM | {"key": "secret"}, FOLDER | {"data.patient": "dicom:PatientID", "data.dicom.key": "given/key", "data.dicom.key_check": "00000000"}, "data.dicom.key_check is 00000000, but the key there now has 2bb80d53", []),
    Case("a tag that DICOM has not", DICOM, FOLDER | {"data.patient": "dicom:PatientNumber"}, "no tag with the keyword 'PatientNumber'", []),
    archive("an archive that leaves its folder", zipped({"../../1/a.png": b"x"}), r"the path '\.\./\.\./1/a.png' leaves the archive"),
    archive("an archive with an absolute path", zipped({"/etc/a.png": b"x"}), "the path '/etc/a.png' leaves the archive"),
    archive("an archive with a name of 300 characters", zipped({"n" * 300: b"x"}), "is damaged: .*File name too long"),
    archive("a zip with a symbolic link", zipped({"1/a.png": b"/etc/passwd"}, external_attr=0o120777 << 16, create_system=3), "1/a.png is a symbolic link"),
    archive("a tar with a symbolic link", tarred(tarfile.SYMTYPE, link="/etc/passwd"), "1/a.png is a symbolic link or a device"),
    archive("a tar with a hard link out of it", tarred(tarfile.LNKTYPE, link="../../../etc/passwd"), "leaves the archive"),
    archive("a tar with a device", tarred(tarfile.CHRTYPE), "1/a.png is a symbolic link or a device"),
    archive("an archive bomb", tarred(tarfile.REGTYPE, size=1 << 43), "unpacks to more than the free disk space, or to more than 1 TiB"),
    archive("an archive in an archive", zipped({"inner.zip": zipped(GOOD)}), "1 files of the kind zip, .* can't be read: inner.zip. Unpack them, or leave them out"),
    archive("an archive in an archive in an archive", zipped({"a.zip": zipped({"b.zip": zipped(GOOD)})}), "1 files of the kind zip, .* can't be read: a.zip. Unpack them"),
    archive("an encrypted archive", encrypted(), r"0/00.png is encrypted: use an archive without a password"),
    archive("a zip cut off", zipped(GOOD)[:-30], "is neither a zip nor a tar|is damaged"),
    archive("a tar.gz cut off", tarred(tarfile.REGTYPE, compression="gz")[:-50], "is damaged"),
    archive("no archive", b"something else", "is neither a zip nor a tar"),
    Case("a source that shrank", GOOD | {"../dvc.lock": WATCHED}, FOLDER | {"data.watch": "given"}, "given has 8 files of any kind, 3 fewer than when it was last read .dvc.lock.*dvc repro --force download", []),
    Case("a source with as many files as before", GOOD | {"../dvc.lock": WATCHED.replace("11", "8")}, FOLDER | {"data.watch": "given"}, "", RAW),
    Case("a damaged dvc.lock", GOOD | {"../dvc.lock": "<<<<<<< HEAD"}, FOLDER | {"data.watch": "given"}, "", RAW),
    Case("nothing to watch", GOOD, FOLDER | {"data.watch": "gven"}, "data.watch: there is no file or folder .*gven", []),
    Case("a watched path that DVC can't read", GOOD, FOLDER | {"data.watch": "~/given"}, "data.watch = '~/given': write the whole path", []),
    Case("no archive there", {}, ARCHIVE, "data.location: there is no archive", []),
    Case("another archive than expected", {"a": zipped(GOOD)}, ARCHIVE | {"data.sha256": "0" * 64}, "given/a has the sha256 .*, but data.sha256 is 000", []),
    Case("a password in an address", {}, ARCHIVE | {"data.location": "https://me:pw@example.org/a.zip"}, "data: location contains a user, a password or a token", []),
]  # fmt: skip


@contextmanager
def within(folder: Path):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run(case: Case, folder: Path, *stages: Callable[[], None]) -> tuple[str, list[str]]:
    """The message, and the files below data/."""
    put(folder / "given", case.source)
    change_parameters(folder / "params.yaml", case.params)
    message = ""
    with within(folder):
        try:
            for stage in stages:
                entrypoint.script(stage)
        except SystemExit as ended:
            message = str(ended)
        return message, sorted(str(path) for path in Path("data").rglob("*") if path.is_file())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_the_user_sees_what_is_wrong_and_nothing_half_written_is_left(case, tmp_path):
    decodes = "data/prepared/index.csv" in case.left or re.search("of . images", case.says)
    message, left = run(case, tmp_path, *([download.main, prepare.main] if decodes else [download.main]))
    assert re.search(case.says, message) if case.says else message == ""
    assert left == case.left


@pytest.mark.parametrize("case", [case for case in CASES if "of 9 images" in case.says], ids=lambda case: case.what)
def test_what_cannot_be_decoded_is_left_out_where_that_is_asked_for(case, tmp_path):
    dropped = case._replace(params=case.params | {"data.on_bad_image": "drop"})
    message, _ = run(dropped, tmp_path, download.main, prepare.main)
    assert message == "" and len(tables.read(tmp_path / "data/prepared/index.csv", tables.INDEX)) == 8


def test_a_file_with_a_page_that_cannot_be_decoded_is_left_out_and_counted(tmp_path):
    params = FOLDER | {"data.frames": "split", "data.on_bad_image": "drop"}
    assert run(Case("", GOOD | {"1/x.tif": CUT_OFF}, params, "", []), tmp_path, download.main, prepare.main)[0] == ""
    inventory = tables.read(tmp_path / "data/raw/inventory.csv", tables.INVENTORY).set_index("path")
    assert inventory["use"].to_dict() == dict.fromkeys(GOOD, "image") | {"1/x.tif": "unreadable"}
    assert set(tables.read(tmp_path / "data/prepared/index.csv", tables.INDEX)["file"]) == set(GOOD)
    assert '"unreadable": 1' in (tmp_path / "data/raw/provenance.json").read_text()


@pytest.mark.slow
def test_a_huge_image_is_refused_in_bounded_memory(tmp_path):
    """Decoded it would take 900 MB; the limit on memory is 500 MB above what the stages need without it."""
    put(tmp_path / "given", GOOD | {"1/x.png": huge_image()})
    change_parameters(tmp_path / "params.yaml", FOLDER)
    code = (
        "import resource, download, prepare\n"
        "download.main()\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000,) * 2)\n"
        "prepare.main()\n"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                           env=os.environ | {"PYTHONPATH": str(TOP / "stages")})  # fmt: skip
    assert process.returncode == 1 and "x.png (Image size (900000000 pixels) exceeds limit" in process.stderr


def patients(positive: int) -> dict[str, bytes]:
    """Ten patients of four images, so many of whom are positive."""
    random = np.random.default_rng(1)
    return {
        f"{int(number < positive)}/p{number}_{view}.png": image(random.integers(0, 255, (16, 16), np.uint8))
        for number in range(10)
        for view in range(4)
    }


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (patients(1), "1 component with a positive image, but 3 splits.*Only images of more patients help"),
        (patients(2), "val has one class only, so most measures are not defined on it"),
        ({name: image(5) for name in patients(5)}, "the split val would get no image.*If these images are blank, remove them"),
    ],
    ids=["one positive patient", "two positive patients", "all images equal"],
)  # fmt: skip
def test_a_split_that_leaves_a_part_without_positives_says_so(source, says, tmp_path, capsys):
    case = Case("", source, FOLDER | {"data.patient": "(?P<patient>p.)_"}, says, [])
    message, left = run(case, tmp_path, download.main, prepare.main, audit.main, split.main)
    assert re.search(says, message + capsys.readouterr().out, re.DOTALL)
    assert ("data/split.csv" in left) is (message == "")


def test_a_list_whose_images_are_all_dropped_is_not_replaced_by_patients_drawn_for_it(tmp_path):
    source = patients(5)
    names = sorted(source)
    source |= {names[0]: b"\x89PNG\r\n\x1a\n and then nothing"}
    source |= {"train.txt": "\n".join(names[1::2]), "val.txt": names[0], "test.txt": "\n".join(names[2::2])}
    changes = {f"data.lists.{name}": f"{name}.txt" for name in ("train", "val", "test")}
    changes |= {"split.strategy": "predefined", "split.on_leak": "report", "data.on_bad_image": "drop"}
    case = Case("", source, FOLDER | changes, "the split val would get no image", [])
    message, left = run(case, tmp_path, download.main, prepare.main, audit.main, split.main)
    assert case.says in message
    assert "data/split.csv" not in left


if __name__ == "__main__":
    print("| given | what the user sees | left below data/ |\n|---|---|---|")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            stages = [download.main, prepare.main]
            standing, sys.stdout = sys.stdout, io.StringIO()
            message, left = run(case, Path(folder), *stages)
            sys.stdout = standing
            message = " ".join(message.replace(folder, "").split()).replace("|", "\\|")
            kept = {0: "nothing", len(RAW): "data/raw/"}.get(len(left), "data/raw/, data/prepared/")
            print(f"| {case.what} | {message or '(read)'} | {kept} |")
