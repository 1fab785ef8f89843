"""Unpack a zip or tar into a folder, refusing whatever could reach beyond it.

Only regular files come out, and hard links between members. A path that leaves the target, a symbolic
link, a device, an encrypted member, too many members or too many bytes end the stage before anything
of that archive is used.
"""

import errno
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from io import BufferedWriter
from pathlib import Path, PurePosixPath
from typing import Self

from core.pipeline.errors import Mistake

MOST_FILES = 20_000_000
MOST_BYTES = 1 << 40

_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    NotImplementedError,
)
_NAMES_AT_FAULT = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def unpack(archive: str | Path, target: str | Path) -> None:
    """Unpack ``archive`` (zip, or tar with gz, xz, bz2 or none) below the folder ``target``.

    Raises Mistake that names the archive, the member and what is wrong with it.
    """
    archive, target = Path(archive), Path(target)
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, target)
        elif tarfile.is_tarfile(archive):
            _untar(archive, target)
        else:
            raise Mistake(f"{archive} is neither a zip nor a tar (gz, xz)")
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, *_NAMES_AT_FAULT):
            raise  # of this machine (no space, no permission), not of the archive
        raise Mistake(f"{archive} is damaged: {error}") from None


def _unzip(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        allowance = _Allowance(archive, target)
        for member in source.infolist():
            path = allowance.place(member.filename)
            if member.is_dir():
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                raise Mistake(f"{archive}: {member.filename} is a symbolic link, which is not followed")
            if member.flag_bits & 1:
                raise Mistake(f"{archive}: {member.filename} is encrypted: give an archive without a password")
            allowance.take(member.file_size)
            with source.open(member) as content, _create(path, archive) as file:
                shutil.copyfileobj(content, file, 1 << 20)


def _untar(archive: Path, target: Path) -> None:
    with tarfile.open(archive, errorlevel=2, tarinfo=_Header) as source:
        allowance = _Allowance(archive, target)
        for member in source:
            path = allowance.place(member.name)
            if member.isdir():
                continue
            allowance.take(member.size)
            if member.islnk():
                original = allowance.place(member.linkname)
                if not original.is_file():
                    raise Mistake(
                        f"{archive}: {member.name} links to {member.linkname}, which does not stand before it"
                    )
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(original, path)
            elif member.isreg():
                content = source.extractfile(member)
                assert content is not None  # of a regular member it never is
                with content, _create(path, archive) as file:
                    shutil.copyfileobj(content, file, 1 << 20)
            else:
                raise Mistake(f"{archive}: {member.name} is a symbolic link or a device, which is not followed")
        assert source.fileobj is not None
        while source.fileobj.read(1 << 20):  # to the end, where gzip and xz check what they gave
            pass


class _Header(tarfile.TarInfo):
    """Tarfile takes a damaged or missing header behind the first for the end of the archive: here it is an error."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the zeros that do end it
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"a member's {error}, or the archive was cut there") from None


def _create(path: Path, archive: Path) -> BufferedWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return open(path, "xb")
    except FileExistsError:
        raise Mistake(f"{archive}: {path.name} stands in it twice") from None


class _Allowance:
    """Where members may go, and how many files and bytes are left to write."""

    def __init__(self, archive: Path, target: Path) -> None:
        self.archive, self.target = archive, target
        self.files = MOST_FILES
        self.bytes = min(MOST_BYTES, shutil.disk_usage(target).free)

    def place(self, name: str) -> Path:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise Mistake(f"{self.archive}: the path {name!r} leaves the archive, so nothing of it is used")
        return self.target / path

    def take(self, size: int) -> None:
        self.files -= 1
        self.bytes -= size
        if self.files < 0:
            raise Mistake(f"{self.archive} holds more than {MOST_FILES:,} files")
        if self.bytes < 0:
            raise Mistake(f"{self.archive} unpacks to more than this disk has free, or to more than 1 TiB")
