"""Find images in folders."""

import os
from pathlib import Path
from typing import NamedTuple

from core.images import kinds, messages
from core.pipeline.errors import PipelineError

# A file of another name is an image if it is DICOM.
IMAGES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"}


def walk(base: Path) -> tuple[list[str], list[str]]:
    """Images and other files below ``base``, as sorted paths relative to it, with /."""
    images: list[str] = []
    others: list[str] = []
    resolved = base.resolve()
    for at, folders, names in os.walk(base):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for name in folders + names:
            path = Path(at, name)
            if path.is_symlink() and not path.resolve().is_relative_to(resolved):
                raise PipelineError(messages.LINK_OUTSIDE.format(path=path, base=base))
        for name in names:
            if not name.startswith("."):
                file = Path(at, name).relative_to(base).as_posix()
                if not file.isprintable():  # bytes that are not UTF-8 become surrogates, which are not printable
                    raise PipelineError(messages.UNPRINTABLE_NAME.format(base=base, file=file))
                if not Path(at, name).is_file():
                    raise PipelineError(messages.NOT_A_REGULAR_FILE.format(path=Path(at, name)))
                (images if _is_image(Path(at, name)) else others).append(file)
    return sorted(images), sorted(others)


class Content(NamedTuple):
    """The number of the files below a folder (or 1), their size in bytes, and the time of the last change in ns."""

    files: int
    size: int
    mtime_ns: int


def content(path: Path) -> Content:
    paths = [Path(at, name) for at, _, names in os.walk(path) for name in names] if path.is_dir() else [path]
    stats = [file.lstat() for file in paths]
    mtime_ns = max((stat.st_mtime_ns for stat in stats), default=0)
    return Content(len(stats), sum(stat.st_size for stat in stats), mtime_ns)


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in IMAGES:
        return True
    if path.name == "DICOMDIR":  # an index of the other files
        return False
    with path.open("rb") as file:
        return kinds.kind(file.read(4096)) in {*kinds.DICOM, "jpeg2000", "netpbm"}


def expand(paths: list[Path]) -> list[str]:
    """The files in ``paths``, and the images below its folders. Raises PipelineError if there are none."""
    files: list[str] = []
    for path in paths:
        if path.is_dir():
            files += [(path / file).as_posix() for file in walk(path)[0]]
        elif path.is_file():
            files.append(path.as_posix())
        else:
            raise PipelineError(messages.NO_IMAGE_OR_FOLDER.format(path=path))
    if not files:
        raise PipelineError(messages.no_images_in(paths, IMAGES))
    return files
