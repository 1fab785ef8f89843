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
from pathlib import Path, PurePosixPath
from typing import IO, Self, cast

from core.images import messages
from core.pipeline.errors import PipelineError

MAX_FILES = 20_000_000
MAX_BYTES = 1 << 40

_FORMAT_ERRORS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
_NAME_ERRORS = (None, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def check(archive: Path) -> None:
    """Raise PipelineError if the file is no archive; a large one is not read."""
    if not (zipfile.is_zipfile(archive) or tarfile.is_tarfile(archive)):
        raise PipelineError(messages.NOT_AN_ARCHIVE.format(archive=archive))


def unpack(archive: str | Path, target: str | Path) -> None:
    """Unpack a zip, or a tar compressed with gz, xz, bz2 or not at all, to the folder ``target``.

    Raises PipelineError, which names the archive, the member and the problem.
    """
    archive, target = Path(archive), Path(target)
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, _Target(archive, target))
        elif tarfile.is_tarfile(archive):
            _untar(archive, _Target(archive, target))
        else:
            raise PipelineError(messages.NOT_AN_ARCHIVE.format(archive=archive))
    except (*_FORMAT_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NAME_ERRORS:
            raise  # a problem of this machine (disk space, permission), not of the archive
        raise PipelineError(messages.DAMAGED_ARCHIVE.format(archive=archive, error=error)) from None


class _Target:
    """The folder where the members of an archive are written, with how many more files and bytes it may take."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive, self.folder = archive, folder
        self.files, self.bytes = MAX_FILES, min(MAX_BYTES, shutil.disk_usage(folder).free)

    def path(self, name: str) -> Path:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise PipelineError(messages.UNSAFE_PATH.format(archive=self.archive, name=name))
        return self.folder / path

    def reserve(self, path: Path, size: int) -> None:
        """Count a file of ``size`` bytes, and make its folder."""
        self.files, self.bytes = self.files - 1, self.bytes - size
        if self.files < 0:
            raise PipelineError(messages.TOO_MANY_FILES.format(archive=self.archive, limit=MAX_FILES))
        if self.bytes < 0:
            raise PipelineError(messages.TOO_MANY_BYTES.format(archive=self.archive))
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, content: IO[bytes]) -> None:
        try:
            with content, path.open("xb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
        except FileExistsError:
            raise PipelineError(messages.DUPLICATE_MEMBER.format(archive=self.archive, name=path.name)) from None


def _unzip(archive: Path, target: _Target) -> None:
    with zipfile.ZipFile(archive) as source:
        for member in source.infolist():
            path = target.path(member.filename)
            if member.is_dir():
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                raise PipelineError(messages.SYMBOLIC_LINK.format(archive=archive, name=member.filename))
            if member.flag_bits & 1:
                raise PipelineError(messages.ENCRYPTED_MEMBER.format(archive=archive, name=member.filename))
            target.reserve(path, member.file_size)
            target.write(path, source.open(member))


def _untar(archive: Path, target: _Target) -> None:
    with tarfile.open(archive, errorlevel=2, tarinfo=_Header) as source:
        for member in source:
            path, name = target.path(member.name), member.name
            if member.isdir():
                continue
            target.reserve(path, member.size)
            if member.islnk():
                original, link = target.path(member.linkname), member.linkname
                if not original.is_file():
                    raise PipelineError(messages.LINK_TO_MISSING_MEMBER.format(archive=archive, name=name, target=link))
                os.link(original, path)
            elif member.isreg():
                target.write(path, cast(IO[bytes], source.extractfile(member)))  # None only for other members
            else:
                raise PipelineError(messages.SPECIAL_MEMBER.format(archive=archive, name=name))
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
            raise tarfile.ReadError(messages.DAMAGED_HEADER.format(error=error)) from None
