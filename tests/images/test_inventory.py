"""A row for every file below a source, and what becomes of each file."""

import ast
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

from core.images import decoder, frames, inventory, masks, sources
from core.pipeline import tables
from core.pipeline.errors import PipelineError

import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.data import get_testdata_file

from conftest import TOP, image, put

CASES = TOP.parent / "shared" / "cases" / "make.py"
noise = np.random.default_rng(1)
GOOD = {
    f"{label}/{number}.png": image(noise.integers(0, 255, (16, 16), np.uint8))
    for label in (0, 1)
    for number in range(3)
}
MASK = image(np.repeat(np.repeat(np.eye(4, dtype=np.uint8) * 255, 4, 0), 4, 1))  # 16 x 16 pixels
MAP = image(np.repeat(np.arange(16, dtype=np.uint8)[None] // 4, 16, 0))  # four labels
DICOM = Path(get_testdata_file("MR_small.dcm", download=False)).read_bytes()


@pytest.fixture
def read_source(make_params, tmp_path, monkeypatch):
    """A function that reads a folder, or an archive, with changed parameters."""
    monkeypatch.chdir(tmp_path)

    def run(folder: Path, **changes):
        kind = {"data.source": "folder" if folder.is_dir() else "archive", "data.location": str(folder)}
        cfg = make_params(kind | {f"data.{key}": value for key, value in changes.items()})
        with sources.open_source(cfg.data, cfg.seed, tmp_path) as raw:
            return raw, {file: raw.content(file) for file in raw.labels["file"]}

    return run


@pytest.fixture
def uses(read_source, tmp_path):
    """A function that reads good images and other files, and returns what became of the others."""

    def run(files, **changes):
        table = read_source(put(tmp_path / "source", GOOD | files), **changes)[0].inventory
        return {path: use for path, use in zip(table["path"], table["use"], strict=True) if path not in GOOD}

    return run


def listed(folder: Path) -> list[str]:
    """The files below a folder, as find lists them."""
    command = ["find", ".", "(", "-type", "f", "-o", "-type", "l", ")", "-print0"]
    names = subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout.split(b"\0")[:-1]
    return sorted(os.fsdecode(name).removeprefix("./") for name in names)


def encoded(pictures: list[np.ndarray], kind: str, **options: object) -> bytes:
    written, (first, *others) = io.BytesIO(), [Image.fromarray(pixels) for pixels in pictures]
    first.save(written, kind, save_all=True, append_images=others, **options)
    return written.getvalue()


def test_each_file_has_one_row_whatever_it_is(read_source, tmp_path):
    files = dict.fromkeys((
        ".hidden.png", "__MACOSX/0/._1.png", ".git/config", "notes.txt", "LICENSE", "deep/er/and/deeper/file",
        "Thumbs.db", "0/no_image", "0/spaces in a name.txt", "0/é.txt",
    ), b"x")  # fmt: skip
    folder = put(tmp_path / "source", GOOD | files | {"empty": b"", "labels.csv": "file,label\n", "0/0_mask.png": MASK})
    (folder / "1" / "link.png").symlink_to("2.png")
    (folder / "linked").symlink_to("1")
    (folder / "alone").symlink_to(tmp_path)
    raw, _ = read_source(folder, exclude=["*_mask*", "/alone", "linked"])
    assert list(raw.inventory["path"]) == listed(folder)
    assert set(raw.inventory["use"]) <= set(inventory.Use) and len(raw.labels) == 7
    assert raw.provenance["files"] == len(listed(folder)) == (
        len(GOOD) + 2 + sum(raw.provenance["left_out"].values()) + sum(raw.provenance["other_files"].values())
    )  # fmt: skip


@pytest.mark.skipif(not CASES.exists(), reason="the shared cases are missing")
def test_each_case_of_wrong_input_has_its_row(read_source, tmp_path):
    subprocess.run([sys.executable, CASES, tmp_path / "made"], check=True, capture_output=True)
    names = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert len(names) >= 11
    for name in names:
        folder = put(tmp_path / name, GOOD)
        shutil.copy(tmp_path / "made" / name, folder / "1")
        raw, _ = read_source(folder, on_bad_image="drop", frames="first")
        assert list(raw.inventory["path"]) == listed(folder), name


def test_the_rows_of_an_archive_are_its_members(read_source, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in (GOOD | {".DS_Store": b"x", "read me.txt": b"x"}).items():
            archive.writestr(name, content)
    raw, _ = read_source(tmp_path / "a.zip")
    assert list(raw.inventory["path"]) == sorted([*GOOD, ".DS_Store", "read me.txt"])


def test_the_content_and_not_the_name_says_what_a_file_is(uses):
    files = {"0/x.txt": image(7), "1/y": image(8, kind="JPEG"), "1/z.png": DICOM, "1/w.csv": image(9, kind="TIFF")}
    assert set(uses(files).values()) == {"image"}


RULES = [
    ({"0/.x.png": MASK, ".x/y.png": MASK, "__MACOSX/x.png": MASK}, {}, "hidden"),
    ({"0/x_b.png": MASK, "0/q/x_b2.png": MASK}, {"exclude": ["x_b*"]}, "excluded"),
    ({"0/q/x.png": MASK, "1/q/r/x.png": MASK}, {"exclude": ["q/"]}, "excluded"),
    ({"0/x.png": MASK}, {"exclude": ["/0/x.png"]}, "excluded"),
    ({"0/x.svs": b"II*\0", "0/y.nii": b"\x5c\x01\0\0"}, {"exclude": ["*.svs", "*.nii"]}, "excluded"),
    ({"0/x_seg.png": MASK}, {"exclude": ["!*_seg*"]}, "image"),
    ({"2/x.png": image(1)}, {"negative": "0"}, "class not used"),
    ({"0/x.png": b"", "0/y.jpg": b"text", "1/z.dcm": bytes(9)}, {"on_bad_image": "drop"}, "damaged"),
    ({"0/x.zip": b"PK\x03\x04", "y.npy": b"\x93NUMPY", "z": bytes(9)}, {"on_bad_image": "drop"}, "not supported"),
    ({"0/x": DICOM[:150]}, {"on_bad_image": "drop"}, "unreadable"),
    ({"x.png": image(1)}, {"on_bad_image": "drop"}, "no label"),
    ({"0/b.png": image(1)}, {"on_bad_image": "drop", "patient": "(?P<patient>[0-9])"}, "no patient"),
    ({"0/a.gif": encoded([np.eye(9, dtype=np.uint8)] * 2, "TIFF")}, {"on_bad_image": "drop"}, "several frames"),
    ({"a.txt": "x", "b.json": "{}", "c": "", "Thumbs.db": bytes(9), "d.xlsx": b"PK\x03\x04"}, {}, "other"),
    ({"licence.md": "\nFree\n"}, {}, "licence"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "changes", "use"), RULES, ids=[f"{rule[2]} {next(iter(rule[0]))}" for rule in RULES])
def test_a_rule_decides_these_files_and_no_others(uses, files, changes, use):
    assert uses(files, **changes) == dict.fromkeys(sorted(files), use)


def test_files_outside_of_the_folder_that_is_used_are_counted(read_source, tmp_path):
    folder = put(tmp_path / "source", {f"{top}/{name}": content for top in "ab" for name, content in GOOD.items()})
    raw, _ = read_source(folder, subdir="a", exclude=["/0/2.png"])
    assert raw.provenance["left_out"] == {
        "excluded (data.exclude: /0/2.png)": 1, "outside subdir (data.subdir: a)": 6}  # fmt: skip
    assert sorted(raw.labels["file"]) == sorted(set(GOOD) - {"0/2.png"})


def test_tables_and_lists_that_parameters_name_are_used(uses, tmp_path):
    rows = "file,label,who\n" + "".join(f"{name},{name[0]},{name}\n" for name in GOOD)
    table = {"about/labels.csv": rows, "train.txt": "0/0.png", "val.txt": "0/1.png", "test.txt": "0/2.png", "x.csv": ""}
    lists = {f"lists.{split}": f"{split}.txt" for split in ("train", "val", "test")}
    assert uses(table, labels="labels.csv", **lists) == {
        "about/labels.csv": "table", "train.txt": "list", "val.txt": "list", "test.txt": "list", "x.csv": "other",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["a.zip", "a.7z", "scan.nii.gz", "a.npy", "a.h5", "a.pdf", "a.svs", "a.czi", "a.raw"])
def test_a_kind_that_could_be_images_is_refused_by_name_and_the_pattern_in_the_message_leaves_it_out(uses, name):
    contents = {
        ".zip": b"PK\x03\x04", ".7z": b"7z\xbc\xaf\x27\x1c", ".gz": b"\x1f\x8b", ".npy": b"\x93NUMPY",
        ".pdf": b"%PDF-1.7", ".h5": b"\x89HDF\r\n\x1a\n", ".svs": b"II*\0\x08\0\0\0", ".czi": b"ZISRAWFILE",
    }  # fmt: skip
    file = {f"0/{name}": contents.get(Path(name).suffix, bytes(range(256)))}
    with pytest.raises(PipelineError, match=rf"1 files of the kind .*0/{name}") as caught:
        uses(file)
    patterns = ast.literal_eval(re.search(r"data.exclude: (\[.*?\])", str(caught.value))[1])
    assert uses(file, exclude=patterns) == {f"0/{name}": "excluded"}


MASKS = [
    {"0/0_mask.png": MASK, "1/2_mask_1.png": MASK},
    {"0/0-GT.png": MASK},
    {"0/mask_0.png": MASK},
    {"0/0mask.png": MASK},
    {"masks/0/0.png": MASK, "masks/1/1.png": MASK},
    {"0/masks/1.png": MASK},
    {"segmentation/0.png": MASK},
    {"0/0_overlay.png": image(noise.integers(0, 255, (16, 16), np.uint8))},
    {"0/0_mask.jpg": image(noise.integers(0, 255, (16, 16), np.uint8), kind="JPEG")},
    {"0/0_b.png": MASK},
    {"0/0_b.png": MAP},
    {"other/0.png": MAP},
    {"0/alone.png": MASK, "1/alone2.png": MASK},
    {"0/x.bmp": image(np.asarray(Image.open(io.BytesIO(MASK))), kind="BMP")},
    {"0/x.tif": image(np.asarray(Image.open(io.BytesIO(MASK))), kind="TIFF")},
    {"0/x.gif": image(np.asarray(Image.open(io.BytesIO(MASK))), kind="GIF")},
    {"0/x.jpg": image(np.kron(np.eye(2, dtype=np.uint8) * 255, np.ones((400, 400), np.uint8)), kind="JPEG")},
]


@pytest.mark.parametrize("files", MASKS, ids=[" ".join(files) for files in MASKS])
def test_masks_are_refused_and_the_patterns_in_the_message_leave_them_out_or_keep_them(uses, files):
    with pytest.raises(PipelineError, match=f"{len(files)} files that look like masks or annotation") as caught:
        uses(files, negative="rest")
    leave, keep = (ast.literal_eval(text) for text in re.findall(r"\[.*?\](?=,| *$|\n)", str(caught.value)))
    assert uses(files, negative="rest", exclude=leave) == dict.fromkeys(files, "excluded")
    assert uses(files, negative="rest", exclude=keep, on_bad_image="drop") == {
        file: "image" if "/" in file else "no label" for file in files
    }


@pytest.mark.parametrize(
    "files",
    [
        {"0/0_2.png": image(noise.integers(0, 255, (16, 16), np.uint8))},  # a second view
        {"0/maskless.png": image(noise.integers(0, 255, (16, 16), np.uint8))},
        {"0/a_mask.png": image(noise.integers(0, 255, (16, 16), np.uint8))},  # no image without this word
        {"0/blank.png": image(3)},
        {"0/few.png": MAP},  # few levels, but no other image of this name
        {"label_1/0.png": image(noise.integers(0, 255, (16, 16), np.uint8))},
    ],
    ids=str,
)
def test_an_image_is_no_mask_for_its_name_or_pixels_alone(uses, files):
    assert uses(files, negative="rest") == dict.fromkeys(files, "image")


def test_an_excluded_mask_changes_no_image(read_source, tmp_path):
    first = read_source(put(tmp_path / "a", GOOD))
    second = read_source(put(tmp_path / "b", GOOD | {"0/0_mask.png": MASK}), exclude=["*_mask*"])
    assert first[1] == second[1] and first[0].labels.equals(second[0].labels)


@pytest.mark.parametrize(
    "options", [{}, {"big_tiff": True}, {"compression": "tiff_lzw"}], ids=["plain", "BigTIFF", "LZW"]
)
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
def test_pages_of_a_tiff_are_counted_and_taken_apart(read_source, tmp_path, dtype, options):
    if dtype == ">u2" and options:
        options = {}  # Pillow writes these with this machine's byte order
    pages = [noise.integers(0, 255, (5 + page, 16)).astype(dtype) for page in range(3)]
    content = encoded(pages, "TIFF", **options)
    assert content[:2] == (b"MM" if dtype == ">u2" else b"II")
    folder = put(tmp_path / "source", GOOD | {"1/x.tif": content})
    with pytest.raises(PipelineError, match=r"1 files of several frames or pages .*: 1/x.tif"):
        read_source(folder)
    _, first = read_source(folder, frames="first")
    _, split = read_source(folder, frames="split")
    assert set(split) - set(GOOD) == {f"1/x.tif#{page:04d}" for page in (1, 2, 3)}
    for page, stored in zip(
        [1, 2, 3, 1], [*(split[f"1/x.tif#{page:04d}"] for page in (1, 2, 3)), first["1/x.tif"]], strict=True
    ):
        opened = Image.open(io.BytesIO(stored))
        assert opened.n_frames == 1 and np.array_equal(np.asarray(opened), pages[page - 1])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_frames_of_an_animation_are_images(read_source, tmp_path, kind):
    shown = [np.full((8, 8), shade, np.uint8) + np.arange(8, dtype=np.uint8) * 4 for shade in (10, 200)]
    exif = Image.Exif()
    exif[270] = WORD.decode()
    options = {"GIF": {"comment": WORD}, "PNG": {"exif": exif}, "WEBP": {"lossless": True, "exif": exif, "xmp": WORD}}
    content = encoded(shown, kind, **options[kind])
    assert WORD in content
    _, split = read_source(put(tmp_path / "source", GOOD | {f"1/x.{kind}": content}), frames="split")
    for number in (1, 2):
        stored = split[f"1/x.{kind}#{number:04d}"]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(stored)).convert("L")), shown[number - 1])
        assert WORD not in stored


WORD = b"Planted Person, Anna"
NOISE = noise.integers(0, 65536, (33, 47, 4)).astype(np.uint16)
GREY = NOISE[..., 0].astype(np.uint8)
PAGES = [
    *((NOISE[..., 0], {"photometric": kind, "byteorder": order}) for kind in (0, 1) for order in "<>"),
    *((NOISE[..., 0] >> 16 - bits, {"photometric": 0, "bitspersample": bits}) for bits in (9, 12, 14)),
    *((GREY, {"photometric": kind, "byteorder": ">"}) for kind in (0, 1)),
    *((NOISE[..., 0] > 9999, {"photometric": kind}) for kind in (0, 1)),
    *((NOISE[..., 0], {"photometric": 0, "extratags": [(274, "H", 1, turn, True)]}) for turn in range(1, 9)),
    *((GREY, {"photometric": 1, "extratags": [(274, "H", 1, turn, True)]}) for turn in (3, 6)),
    *((GREY, {"photometric": 1, "compression": name}) for name in ("lzw", "jpeg")),
    *((NOISE[..., :3] >> shift, {"photometric": 2, "byteorder": ">"}) for shift in (0, 4)),
    (np.moveaxis(NOISE[..., :3], -1, 0).copy(), {"photometric": 2, "planarconfig": 2, "tile": (16, 16)}),
    (GREY, {"photometric": 3, "colormap": NOISE[:32, :24, 1].reshape(3, 256)}),
    (NOISE.astype(np.uint8), {"photometric": 5}),
    (NOISE.astype(np.uint8), {"photometric": 2, "extrasamples": [2]}),
    (NOISE[..., :3].astype(np.uint8), {"photometric": 6, "compression": "jpeg"}),
    (NOISE[..., 0].astype(np.int32) - 9, {"photometric": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("page", "options"), PAGES, ids=range(len(PAGES)))
def test_a_stored_page_is_what_it_is_alone_and_has_no_byte_of_another_page(page, options):
    """The label page of a slide can show the name of a patient."""
    label = page.copy()
    label.reshape(-1).view(np.uint8)[: len(WORD)] = np.frombuffer(WORD, np.uint8)
    options = options | {"metadata": None, "description": WORD.decode()}
    alone, several = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(alone, page, **options)
    with tifffile.TiffWriter(several, byteorder=options.pop("byteorder", None)) as file:
        for pixels in (label, page, label):
            file.write(pixels, **options)
    assert WORD in several.getvalue()
    stored = frames.extract(several.getvalue(), "tiff", 2)
    (actual, mode), (expected, mode_alone) = (
        decoder._open_image(file, window=False) for file in (stored, alone.getvalue())
    )
    assert np.array_equal(np.asarray(actual), np.asarray(expected)) and mode == mode_alone
    assert WORD not in stored and len(stored) < page.nbytes + 2000


def test_a_damaged_list_of_pages_ends_the_count(tmp_path):
    content = bytearray(encoded([np.eye(8, dtype=np.uint8)] * 2, "TIFF"))
    offset = at = 4
    for _ in range(2):
        offset = int.from_bytes(content[at : at + 4], "little")
        at = offset + 2 + 12 * int.from_bytes(content[offset : offset + 2], "little")
    content[at : at + 4] = content[4:8]  # a circle
    (tmp_path / "a.tif").write_bytes(content)
    assert frames.count(tmp_path / "a.tif", "tiff") == 2
    (tmp_path / "a.tif").write_bytes(content[:9])
    assert frames.count(tmp_path / "a.tif", "tiff") == 1


@pytest.mark.slow
def test_a_folder_of_100_000_empty_files_is_refused_in_one_line_and_in_seconds(read_source, tmp_path):
    folder = put(tmp_path / "source", {"0/a.png": b""}) / "0"
    for number in range(99_999):
        os.close(os.open(f"{folder}/{number}.png", os.O_CREAT | os.O_WRONLY))
    began = time.process_time()
    with pytest.raises(PipelineError, match=r"100,000 files .*\(empty\): 0/0.png, .* and 99,995 more") as caught:
        read_source(folder.parent)
    assert time.process_time() - began < 20 and len(str(caught.value).splitlines()) == 2


def test_a_huge_tiff_is_refused_without_reading_it(read_source, tmp_path):
    folder = put(tmp_path / "source", GOOD | {"1/x.tif": b"II*\0\x08\0\0\0"})
    os.truncate(folder / "1/x.tif", 1 << 36)  # 64 GB without blocks on the disk
    began = time.process_time()
    with pytest.raises(PipelineError, match=r"1 files of the kind tiff of more than 4 GB.*: 1/x.tif"):
        read_source(folder)
    with pytest.raises(PipelineError, match="x.tif is neither a zip nor a tar"):
        read_source(folder / "1/x.tif")
    assert time.process_time() - began < 5


def test_a_file_that_may_not_be_read_is_named(read_source, tmp_path, monkeypatch):
    folder, ordinary = put(tmp_path / "source", GOOD | {"1/x.png": image(1)}), os.open

    def forbid(path, *arguments):  # tests can run as root, who may read everything
        if str(path).endswith("x.png"):
            raise PermissionError(13, "Permission denied", path)
        return ordinary(path, *arguments)

    monkeypatch.setattr(os, "open", forbid)
    with pytest.raises(PipelineError, match=r"1 files that can't be read \(Permission denied\): 1/x.png"):
        read_source(folder)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_differ_in_case_alone_and_of_255_bytes_are_kept_in_an_archive(read_source, tmp_path, kind):
    names = ["0/a.png", "0/A.png", "0/a.PNG", "1/b.png", "1/" + "n" * 251 + ".png"]
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a", "w") as packed:
            for number, name in enumerate(names):
                packed.writestr(name, image(number))
    else:
        with tarfile.open(tmp_path / "a", "w") as packed:
            for number, name in enumerate(names):
                entry = tarfile.TarInfo(name)
                entry.size = len(image(number))
                packed.addfile(entry, io.BytesIO(image(number)))
    _, content = read_source(tmp_path / "a")
    assert content == {name: image(number) for number, name in enumerate(names)}


def test_files_behind_a_link_inside_the_source_are_listed_once_and_a_circle_is_not_entered(read_source, tmp_path):
    folder = put(tmp_path / "source", GOOD)
    for link, target in (("again", "1"), ("0/circle", ".."), ("0/itself", ".")):
        (folder / link).symlink_to(target)
    raw, content = read_source(folder, exclude=["again/"])
    assert set(content) == set(GOOD) and list(raw.inventory["path"]) == listed(folder)
    assert raw.provenance["other_files"] == {"link": 2}
    assert raw.provenance["left_out"] == {"excluded (data.exclude: again/)": 1}
    (folder / "0/out").symlink_to(tmp_path)
    with pytest.raises(PipelineError, match="0/out is a link out of the source, .* leave it out \\(data.exclude\\)"):
        read_source(folder)
    assert set(read_source(folder, exclude=["out/"])[1]) == set(GOOD)


def test_links_from_subdir_to_other_parts_of_the_source_are_followed_once(read_source, tmp_path):
    folder = put(tmp_path / "source", {f"all/{file}": content for file, content in GOOD.items()})
    (folder / "use").mkdir()
    for link, target in (("0", "../all/0"), ("1", "../all/1"), ("2", "../all/1"), ("3", ".."), ("4", "../use")):
        (folder / "use" / link).symlink_to(target)
    (folder / "all" / "back").symlink_to("../use")
    assert set(read_source(folder, subdir="use", exclude=["3/"])[1]) == set(GOOD)
    (folder / "linked").symlink_to("all")
    assert set(read_source(folder, subdir="linked")[1]) == set(GOOD)


def test_of_files_outside_of_subdir_only_their_number_is_written(read_source, tmp_path):
    others = dict.fromkeys(("Mueller, Anna.pdf", "letters/Mueller, Anna.txt", ".Mueller"), "x")
    folder = put(tmp_path / "source", {f"use/{file}": content for file, content in GOOD.items()} | others)
    raw, content = read_source(put(folder, {"use/.hidden": "x", "t.csv": "x"}), subdir="use")
    assert set(content) == set(GOOD) and "Mueller" not in raw.inventory.to_csv() + str(raw.provenance)
    rows = raw.inventory["path"]
    assert list(rows[rows.str.startswith("use/")]) == [f"use/{file}" for file in listed(folder / "use")]
    assert raw.provenance["left_out"] == {"hidden": 1, "outside subdir (data.subdir: use)": 4}
    assert raw.provenance["files"] == len(listed(folder))


def test_a_table_that_is_a_link_out_of_the_source_is_not_read(read_source, tmp_path):
    put(tmp_path, {"secret.csv": "file,label\n"})
    folder = put(tmp_path / "source", GOOD)
    (folder / "labels.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(PipelineError, match="labels.csv is a link out of the source"):
        read_source(folder, labels="labels.csv")


def test_an_empty_folder_has_no_image(read_source, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(PipelineError, match="none contains no image"):
        read_source(tmp_path / "none")


def test_a_wrong_pattern_is_explained(uses):
    with pytest.raises(PipelineError, match=r"^data.exclude: .*'!'"):
        uses({}, exclude=["!"])


def test_the_table_is_written_and_read_back(read_source, tmp_path):
    table = read_source(put(tmp_path / "source", GOOD | {"a\rb": b"x", ".c": b""}), exclude=["a*b"])[0].inventory
    tables.write(table, tmp_path / "inventory.csv", tables.INVENTORY)
    assert (
        tables.read(tmp_path / "inventory.csv", tables.INVENTORY).fillna("").to_numpy().tolist()
        == table.to_numpy().tolist()
    )
    assert r"a\rb,text,1,excluded,data.exclude: a*b" in (tmp_path / "inventory.csv").read_text()


def test_a_folder_to_predict_gives_its_images_and_what_could_be_some(tmp_path):
    files = {"0/a.png": image(1), "b": DICOM, "c.nii": b"\x5c\x01\0\0", "d.txt": "x", ".e.png": image(1), "f.png": b""}
    folder = put(tmp_path / "new", files)
    assert inventory.expand([folder]) == [f"{folder}/{name}" for name in ("0/a.png", "b", "c.nii", "f.png")]
    with pytest.raises(PipelineError, match="there is no image in "):
        inventory.expand([put(tmp_path / "none", {"d.txt": "x"})])


def test_patterns_match_all_files_and_no_other():
    names = [f"{folder}/{name}" for folder in ("a", "b") for name in ("1_mask.png", "[2]_mask*.png", "3.svs")]
    patterns = inventory.suggest(names, ["a/1.png", "b/2.png"])
    assert patterns == ["*_mask*", "*.svs"]
    assert inventory.suggest(["a/1.png"], ["a/2.png"]) == ["/a/1.png"]


def test_words_for_masks_are_whole_words():
    for name in ("a_mask", "mask a", "amask", "a-gt", "ground truth", "a_seg2"):
        assert masks.WORD.search(name), name
    for name in ("maskara"[4:], "legend", "night", "label_0", "bigtumour", "segment"):
        assert not masks.WORD.search(name), name
