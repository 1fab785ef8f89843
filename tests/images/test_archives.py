import gzip
import io
import lzma
import stat
import tarfile
import zipfile

from core.images import archives
from core.pipeline.errors import PipelineError

import pytest


def tar(path, members, mode="w"):
    """A tar of (name, content) and of ready TarInfos."""
    with tarfile.open(path, mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                name, content = member
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "inner" / "target"
    folder.mkdir(parents=True)
    return folder


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_tars_of_every_kind_come_out_as_they_went_in(tmp_path, target, mode):
    archives.unpack(tar(tmp_path / "a", [("one/ä b.png", b"1"), ("two.csv", b"2")], mode), target)
    assert files(target) == {"one/ä b.png": b"1", "two.csv": b"2"}


def test_zips_come_out_as_they_went_in(tmp_path, target):
    archives.unpack(zipped(tmp_path / "a", [("one/", b""), ("one/ä b.png", b"1")]), target)
    assert files(target) == {"one/ä b.png": b"1"}


def test_a_hard_link_between_members_is_the_file_it_links_to(tmp_path, target):
    archives.unpack(tar(tmp_path / "a", [("one.png", b"1"), link("two.png", "one.png", tarfile.LNKTYPE)]), target)
    assert files(target) == {"one.png": b"1", "two.png": b"1"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../out.png", b"1")], "'../out.png' leaves the archive"),
        ([("a/../../out.png", b"1")], "leaves the archive"),
        ([("/tmp/out.png", b"1")], "'/tmp/out.png' leaves the archive"),
        ([link("a.png", "/etc/passwd", tarfile.SYMTYPE)], "a.png is a symbolic link"),
        ([link("a", "..", tarfile.SYMTYPE), ("a/out.png", b"1")], "a is a symbolic link"),
        ([link("a.png", "/etc/passwd", tarfile.LNKTYPE)], "'/etc/passwd' leaves the archive"),
        ([link("a.png", "b.png", tarfile.LNKTYPE)], "links to b.png, which is not in the archive before it"),
        ([link("a", "", tarfile.FIFOTYPE)], "a symbolic link or a device"),
        ([("a.png", b"1"), ("a.png", b"2")], "contains a.png twice"),
    ],
)
def test_a_tar_that_reaches_out_is_refused_and_leaves_nothing_outside(tmp_path, target, members, message):
    with pytest.raises(PipelineError, match=message):
        archives.unpack(tar(tmp_path / "a.tar", members), target)
    assert set(files(tmp_path)) <= {"a.tar", "inner/target/a.png"}


@pytest.mark.parametrize("name", ["../out.png", "/tmp/out.png", "..\\out.png"])
def test_a_zip_that_reaches_out_is_refused(tmp_path, target, name):
    with pytest.raises(PipelineError, match="leaves the archive"):
        archives.unpack(zipped(tmp_path / "a.zip", [(name, b"1")]), target)
    assert files(target) == {}


def test_a_link_in_a_zip_is_refused(tmp_path, target):
    info = zipfile.ZipInfo("a.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(PipelineError, match=r"a\.png is a symbolic link"):
        archives.unpack(zipped(tmp_path / "a.zip", [(info, "/etc/passwd")]), target)


def test_an_encrypted_zip_is_refused(tmp_path, target):
    path = zipped(tmp_path / "a.zip", [("a.png", b"1")])
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    path.write_bytes(content)
    with pytest.raises(PipelineError, match="encrypted"):
        archives.unpack(path, target)


def test_more_files_or_bytes_than_allowed_are_refused(tmp_path, target, monkeypatch):
    path = zipped(tmp_path / "a.zip", [("a.png", b"1" * 100), ("b.png", b"1" * 100)])
    monkeypatch.setattr(archives, "MAX_BYTES", 150)
    with pytest.raises(PipelineError, match="unpacks to more than"):
        archives.unpack(path, target)
    monkeypatch.setattr(archives, "MAX_FILES", 1)
    with pytest.raises(PipelineError, match="more than 1 files"):
        archives.unpack(path, target / "..")


@pytest.mark.parametrize("mode", ["w", "w:gz", "zip"])
def test_a_damaged_archive_is_named(tmp_path, target, mode):
    path = tmp_path / "a"
    zipped(path, [("a.png", b"1" * 9999)]) if mode == "zip" else tar(path, [("a.png", b"1" * 9999)], mode)
    path.write_bytes(path.read_bytes()[:-50] if mode == "zip" else path.read_bytes()[: len(path.read_bytes()) // 2])
    with pytest.raises(PipelineError, match=rf"{path} is (damaged|neither a zip nor a tar)"):
        archives.unpack(path, target)


def test_what_is_no_archive_is_named(tmp_path, target):
    (tmp_path / "a").write_text("hello")
    with pytest.raises(PipelineError, match="neither a zip nor a tar"):
        archives.unpack(tmp_path / "a", target)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("harm", ["header", "cut at a member", "middle"])
def test_a_tar_that_is_cut_or_damaged_behind_its_first_member_is_never_taken_for_whole(tmp_path, target, mode, harm):
    """Tarfile itself takes such a place for the end, and would lose the images behind it without a word."""
    path = tar(tmp_path / "plain", [(f"{n}.png", bytes([n]) * 600) for n in range(9)])
    content = bytearray(path.read_bytes())
    if harm == "header":
        content[4 * 1536 + 5] ^= 0xFF
    elif harm == "cut at a member":
        content = content[: 4 * 1536]
    packed = {"w": bytes, "w:gz": gzip.compress, "w:xz": lzma.compress}[mode](bytes(content))
    if harm == "middle":
        packed = packed[: len(packed) // 2] if mode == "w" else packed[:-6] + b"xxxxxx"
    path.write_bytes(packed)
    with pytest.raises(PipelineError, match="is damaged|neither a zip nor a tar"):
        archives.unpack(path, target)


@pytest.mark.parametrize("members", [[("0", b"1"), ("0/a.png", b"2")], [("a" * 300 + ".png", b"1")]])
def test_names_that_no_disk_can_hold_are_the_archives_fault(tmp_path, target, members):
    with pytest.raises(PipelineError, match="is damaged|contains .* twice"):
        archives.unpack(zipped(tmp_path / "a.zip", members), target)


def test_a_zip_with_a_damaged_member_is_named(tmp_path, target):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(range(256)) * 40)
    content = bytearray(path.read_bytes())
    content[45:60] = b"x" * 15
    path.write_bytes(content)
    with pytest.raises(PipelineError, match="is damaged"):
        archives.unpack(path, target)
