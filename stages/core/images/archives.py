"""Unpack a zip or tar into a folder, and refuse members that could write outside of it.

Only regular files and hard links between members are unpacked. If the archive has a path that leaves the target, a
symbolic link, a device, an encrypted member, too many members or too many bytes, the stage fails and uses none of its
files.
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

from core.images import messages
from core.pipeline.errors import PipelineError

MAX_FILES = 20_000_000
MAX_BYTES = 1 << 40

_FORMAT_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    NotImplementedError,
)
_NAME_ERRORS = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def unpack(archive: str | Path, target: str | Path) -> None:
    """Unpack ``archive`` (zip, or tar compressed with gz, xz, bz2 or not at all) to the folder ``target``.

    Raises PipelineError, which names the archive, the member and the problem.
    """
    archive, target = Path(archive), Path(target)
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, target)
        elif tarfile.is_tarfile(archive):
            _untar(archive, target)
        else:
            raise PipelineError(messages.not_an_archive(archive))
    except (*_FORMAT_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, *_NAME_ERRORS):
            raise  # a problem of this machine (disk space, permission), not of the archive
        raise PipelineError(messages.damaged_archive(archive, error)) from None


def _unzip(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        allowance = _Allowance(archive, target)
        for member in source.infolist():
            path = allowance.resolve(member.filename)
            if member.is_dir():
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                raise PipelineError(messages.symbolic_link(archive, member.filename))
            if member.flag_bits & 1:
                raise PipelineError(messages.encrypted_member(archive, member.filename))
            allowance.take(member.file_size)
            with source.open(member) as content, _create(path, archive) as file:
                shutil.copyfileobj(content, file, 1 << 20)


def _untar(archive: Path, target: Path) -> None:
    with tarfile.open(archive, errorlevel=2, tarinfo=_Header) as source:
        allowance = _Allowance(archive, target)
        for member in source:
            path = allowance.resolve(member.name)
            if member.isdir():
                continue
            allowance.take(member.size)
            if member.islnk():
                original = allowance.resolve(member.linkname)
                if not original.is_file():
                    raise PipelineError(messages.link_to_missing_member(archive, member.name, member.linkname))
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(original, path)
            elif member.isreg():
                content = source.extractfile(member)
                assert content is not None  # it is not None for a regular member
                with content, _create(path, archive) as file:
                    shutil.copyfileobj(content, file, 1 << 20)
            else:
                raise PipelineError(messages.special_member(archive, member.name))
        assert source.fileobj is not None
        while source.fileobj.read(1 << 20):  # read to the end, where gzip and xz verify their checksum
            pass


class _Header(tarfile.TarInfo):
    """tarfile treats a damaged or missing header after the first one as the end of the archive. Here it is an error."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the blocks of zeros at the real end
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(messages.damaged_header(error)) from None


def _create(path: Path, archive: Path) -> BufferedWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return open(path, "xb")
    except FileExistsError:
        raise PipelineError(messages.duplicate_member(archive, path.name)) from None


class _Allowance:
    """Checks the path of each member, and counts how many more files and bytes may be written."""

    def __init__(self, archive: Path, target: Path) -> None:
        self.archive, self.target = archive, target
        self.files = MAX_FILES
        self.bytes = min(MAX_BYTES, shutil.disk_usage(target).free)

    def resolve(self, name: str) -> Path:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise PipelineError(messages.unsafe_path(self.archive, name))
        return self.target / path

    def take(self, size: int) -> None:
        self.files -= 1
        self.bytes -= size
        if self.files < 0:
            raise PipelineError(messages.too_many_files(self.archive, MAX_FILES))
        if self.bytes < 0:
            raise PipelineError(messages.too_many_bytes(self.archive))
