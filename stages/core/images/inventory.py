"""One table with a row for every file below a source: what its content is, and what became of it.

Each rule is a method that decides rows which no rule before it has decided. No file is left out in another way.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from core.images import dicom, frames, kinds, masks, messages
from core.images.preparation import DecodeError
from core.pipeline import tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.data import Data

import numpy as np
import pandas as pd
from pathspec import GitIgnoreSpec


class Use(StrEnum):
    """What became of a file."""

    IMAGE = "image"
    TABLE = "table"
    LIST = "list"
    LICENCE = "licence"
    OTHER = "other"  # no image: text, and what programs leave behind
    HIDDEN = "hidden"
    OUTSIDE = "outside subdir"
    EXCLUDED = "excluded"
    CLASS = "class not used"
    # Faults: refused, or left out with data.on_bad_image: drop; a mask is always refused
    MASK = "mask"
    UNSUPPORTED = "not supported"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"
    FRAMES = "several frames"
    NO_IMAGE = "no image"
    TWICE = "named twice"
    CONTRADICTING = "contradicting labels"
    NO_LABEL = "no label"
    NO_PATIENT = "no patient"
    NO_BREAST = "no breast"


_USES = list(Use)
USED = _USES[: _USES.index(Use.OTHER)]
FAULTS = _USES[_USES.index(Use.MASK) :]
IMAGES = ("png", "jpeg", "tiff", "bmp", "webp", "gif", "jpeg2000", "netpbm", *kinds.DICOM)
IMAGE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".j2k", ".pgm", ".ppm", ".pnm", ".pbm",
    ".dcm", ".dicom",
)  # fmt: skip
SLIDES = (".svs", ".ndpi", ".mrxs", ".czi", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".tmap", ".zvi", ".isyntax")
# zip, ole, or of no known kind
DOCUMENTS = (".xlsx", ".xls", ".ods", ".docx", ".doc", ".odt", ".pptx", ".ppt", "thumbs.db")
FOLDER, LINK = "folder", "link"  # to a folder whose files have rows of their own
HARMLESS = ("text", "empty", "dicomdir", LINK)
LINK_OUT, SPECIAL = "link out of the source", "special"  # special: a pipe, or a broken link
MOST_BYTES = (1 << 32) - 1  # of a file in the archive of images
HIDDEN = re.compile(r"(?:^|/)(?:\.|__MACOSX/)")
LICENCE = re.compile(r"licen[cs]e(?:\.(?:txt|md))?", re.IGNORECASE)


class _Row(NamedTuple):
    path: str  # below the source, with /; escaped where it is not printable
    odd: bool  # whether it is not printable
    kind: str
    bytes: int
    pixels: int = 0  # of a PNG or JPEG, by its header
    several: bool = False  # whether it can have several frames
    use: str = ""  # a Use
    why: str = ""


def scan(folder: Path, subdir: str = "") -> list[_Row]:
    """A row for each file and link below ``folder``. Raises OSError for a folder that can't be listed.

    A link to a folder is followed from ``subdir`` to another part of ``folder``, if no link before it has led there.
    Otherwise it is only a row, so that no file is listed twice, and no circle of links is entered.
    """
    source = str(folder.resolve())
    rows, folders, start = [], [source], len(source.rstrip("/")) + 1
    base, followed = Path(source, subdir), set[Path]()

    def is_new(path: str) -> bool:
        real = Path(os.path.realpath(path))
        if str(real) == path:
            return True
        new = Path(path).is_relative_to(base) and not real.is_relative_to(base) and real not in followed
        followed.update([real] if new else [])
        return new

    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                special = _no_file(entry, source)
                if special in (FOLDER, LINK) and is_new(entry.path):
                    folders.append(entry.path)
                elif special != FOLDER:
                    rows.append(_look(entry, entry.path[start:], special))
    return sorted(rows)


def _no_file(entry: "os.DirEntry[str]", source: str) -> str:
    """FOLDER, LINK, LINK_OUT or SPECIAL; "" for a file, and for a link to one."""
    if entry.is_symlink() and (target := Path(os.path.realpath(entry.path))).exists():
        if not target.is_relative_to(source):
            return LINK_OUT
        return LINK if target.is_dir() else "" if target.is_file() else SPECIAL
    return FOLDER if entry.is_dir(follow_symlinks=False) else "" if entry.is_file(follow_symlinks=False) else SPECIAL


def _look(entry: "os.DirEntry[str]", path: str, special: str) -> _Row:
    odd = not path.isprintable()  # bytes that are not UTF-8 become surrogates, which are not printable
    path = ascii(path)[1:-1] if odd else path
    if special:
        return _Row(path, odd, special, 0)
    try:
        file = os.open(entry.path, os.O_RDONLY)
        try:
            content, size = os.read(file, kinds.START), os.fstat(file).st_size
        finally:
            os.close(file)
    except OSError as error:
        return _Row(path, odd, "unknown", 0, use=Use.UNREADABLE, why=str(error.strerror))
    kind = kinds.kind(content)
    if kind not in HARMLESS and path.lower().endswith(SLIDES):
        kind = "slide"
    return _Row(path, odd, kind, size, masks.pixels(kind, content), frames.several(kind, content))


def expand(paths: list[Path]) -> list[str]:
    """The files in ``paths``, and the files below its folders that are, or could be, images. Raises PipelineError if
    there are none."""
    files: list[str] = []
    for path in paths:
        if path.is_dir():
            stock = Inventory(path)
            stock.leave_out(None, [])
            stock.refuse_odd()
            stock.by_kind()
            names = stock.paths("", Use.UNREADABLE, Use.UNSUPPORTED, Use.DAMAGED)
            files += [(path / file).as_posix() for file in names]
        elif path.is_file():
            files.append(path.as_posix())
        else:
            raise PipelineError(messages.NO_IMAGE_OR_FOLDER.format(path=path))
    if not files:
        raise PipelineError(messages.no_images_in(paths, IMAGES))
    return files


class Inventory:
    """The files below ``folder``. Images are named by their path below ``base``: the folder, or data.subdir in it."""

    def __init__(self, folder: Path, subdir: str | None = None) -> None:
        self.folder, self.base = folder, folder / (subdir or "")
        self.prefix = f"{Path(subdir).as_posix()}/" if subdir and Path(subdir) != Path() else ""
        self.rows = pd.DataFrame(scan(folder, self.prefix), columns=_Row._fields).set_index("path", drop=False)
        self.details: dict[str, str] = {}  # of a file, for people: texts of other libraries, which are in no output
        self.kept: set[str] = set()  # files that data.exclude keeps, by a pattern that begins with !

    def paths(self, *uses: str) -> list[str]:
        """The files of these uses, "" for those that no rule has decided."""
        rows = self.rows.index[self.rows["use"].isin(uses)]
        return [path.removeprefix(self.prefix) for path in rows]

    def undecided(self) -> dict[str, _Row]:
        """The rows of the files that no rule has decided."""
        rows = self.rows[self.rows["use"] == ""]
        return dict(zip(self.paths(""), map(_Row._make, rows.itertuples(index=False)), strict=True))

    def mark(self, files: Collection[str] | Mapping[str, str], use: Use, why: str = "") -> None:
        """Decide ``files``; a mapping has a reason for each."""
        reasons = files if isinstance(files, Mapping) else dict.fromkeys(files, why)
        for reason in sorted(set(reasons.values())):
            names = [self.prefix + file for file, text in reasons.items() if text == reason]
            self._decide(self.rows.index.isin(names), use, reason)

    def _decide(self, where: "np.ndarray | pd.Series[bool]", use: Use, why: str = "") -> None:
        self.rows.loc[where & (self.rows["use"] == ""), ["use", "why"]] = [use.value, why]

    def find_table(self, name: str, key: str, root: Path) -> Path:
        """The path of a table: inside the source, where the end of its path is enough, or elsewhere on this machine."""
        index = self.rows.index
        for prefix in dict.fromkeys((self.prefix, "")):
            matches = [prefix + name] if prefix + name in index else [
                path for path in index[index.str.endswith(f"/{name}") & index.str.startswith(prefix)]
                if not HIDDEN.search(path)
            ]  # fmt: skip
            if len(matches) > 1:
                raise PipelineError(messages.listing(messages.AMBIGUOUS_TABLE, matches, key=key, name=name))
            if matches:
                self._decide(index == matches[0], Use.TABLE if key == "data.labels" else Use.LIST, key)
                return self.folder / matches[0]
        if (root / name).is_file():
            return root / name
        csv_files = [path for path in index if path.lower().endswith((".csv", ".txt")) and not HIDDEN.search(path)]
        raise PipelineError(messages.no_table(key, name, (root / name).resolve(), csv_files))

    def find_licence(self) -> str | None:
        """The first line of the licence at the top of ``base``."""
        for file in self.paths(""):
            if LICENCE.fullmatch(file):
                self.mark([file], Use.LICENCE)
                lines = (self.base / file).read_text(encoding="utf-8", errors="replace").split("\n")
                return next((line.strip() for line in lines if line.strip()), None)
        return None

    def leave_out(self, subdir: str | None, patterns: list[str]) -> None:
        """Files that are hidden, outside of data.subdir, or matched by data.exclude, as git reads a .gitignore."""
        index = self.rows.index
        self._decide(~index.str.startswith(self.prefix), Use.OUTSIDE, f"data.subdir: {subdir}")
        self._decide(index.str.contains(HIDDEN.pattern), Use.HIDDEN)
        try:
            spec = GitIgnoreSpec.from_lines(patterns)
        except ValueError as error:
            raise PipelineError(messages.WRONG_EXCLUDE.format(error=error)) from None
        results = {
            file: spec.check_file(f"{file}/" if row.kind in (LINK, LINK_OUT) else file)
            for file, row in (self.undecided() if patterns else {}).items()
        }
        self.kept = {file for file, result in results.items() if result.include is False}
        excluded = {file: patterns[result.index or 0] for file, result in results.items() if result.include}
        self.mark({file: f"data.exclude: {pattern}" for file, pattern in excluded.items()}, Use.EXCLUDED)

    def refuse_odd(self) -> None:
        """Raise PipelineError for a link out of the source, a name that is not printable, or what is no file."""
        rows = self.rows[self.rows["use"].isin(["", Use.TABLE, Use.LIST])]
        for template, where in (
            (messages.LINK_OUTSIDE, rows["kind"] == LINK_OUT),
            (messages.UNPRINTABLE_NAME, rows["odd"]),
            (messages.NOT_A_REGULAR_FILE, rows["kind"] == SPECIAL),
        ):
            for path in rows.index[where]:
                raise PipelineError(template.format(path=self.folder / path, base=self.base, file=path))

    def by_kind(self) -> None:
        """Files that are no image by their content. Those that could be images, and can't be read, are faults."""
        kind, size = self.rows["kind"], self.rows["bytes"]
        image = self.rows.index.str.lower().str.endswith(IMAGE_ENDINGS)
        documents = self.rows.index.str.lower().str.endswith(DOCUMENTS) & kind.isin(["zip", "ole", "unknown"])
        self._decide((kind == "empty") & image, Use.DAMAGED, "empty")
        self._decide((kind == "text") & image, Use.DAMAGED, "text")
        self._decide((kind == "unknown") & image, Use.DAMAGED, "its content is of no known kind")
        self._decide(kind.isin(HARMLESS) | documents, Use.OTHER)
        for name in sorted(set(kind)):
            self._decide((kind == name) & (name not in IMAGES), Use.UNSUPPORTED, name)
            self._decide((kind == name) & (size > MOST_BYTES), Use.UNSUPPORTED, f"{name} of more than 4 GB")

    def read_headers(
        self, data: Data, unreadable: Mapping[str, str]
    ) -> tuple[dict[str, int], dict[str, dict[str, str]]]:
        """The number of frames of each image that has several, and of each DICOM file its tags: those that ``data``
        names, and those of masks. Files without an image, of several frames, or ``unreadable`` become faults."""
        for name in data.tags():
            if not dicom.is_keyword(name):
                raise PipelineError(messages.UNKNOWN_TAG.format(keyword=name))
        self.mark(list(unreadable), Use.UNREADABLE)
        counts: dict[str, int] = {}
        tags: dict[str, dict[str, str]] = {}
        for file, row in self.undecided().items():
            if row.kind in kinds.DICOM:
                try:
                    counts[file], tags[file] = dicom.read_header(self.base / file, [*data.tags(), *masks.TAGS])
                except DecodeError as reason:
                    self.details[file] = str(reason)
            elif row.several:
                counts[file] = frames.count(self.base / file, row.kind)
        self.mark({file: reason.partition(":")[0] for file, reason in self.details.items()}, Use.UNREADABLE)
        self.details |= unreadable
        self.mark([file for file, count in counts.items() if not count], Use.NO_IMAGE)
        counts = {file: count for file, count in counts.items() if count > 1}
        if data.frames == "fail":
            self.mark(list(counts), Use.FRAMES, "data.frames: fail")
        return counts, tags

    def find_masks(self, tags: dict[str, dict[str, str]]) -> None:
        """Masks and annotation, but for files that data.exclude keeps."""
        rows = self.undecided()
        named = masks.by_tags(tags) | masks.by_name(list(rows))
        flat = [
            file
            for file, row in rows.items()
            if file not in named and masks.is_flat(self.base / file, row.kind, row.bytes, row.pixels)
        ]
        reasons = named | masks.by_pixels(self.base, list(rows), flat)
        self.mark({file: why for file, why in reasons.items() if file not in self.kept}, Use.MASK)

    def mark_images(self) -> None:
        self._decide(self.rows["kind"].isin(IMAGES), Use.IMAGE)

    def refuse(self, data: Data, missing: list[str]) -> None:
        """Raise PipelineError for faults, unless data.on_bad_image is drop; ``missing``: labels without an image."""
        drop = data.on_bad_image == "drop"
        faults = self.rows[self.rows["use"].isin([Use.MASK] if drop else FAULTS)]
        groups: dict[tuple[str, str], list[str]] = {}
        for path, use, why in zip(faults.index, faults["use"], faults["why"], strict=True):
            file = path.removeprefix(self.prefix)
            groups.setdefault((use, self.details.get(file, why)), []).append(file)
        keep = self.paths("", Use.IMAGE)
        patterns = {key: suggest(files, keep) for key, files in groups.items() if key[0] in (Use.MASK, Use.UNSUPPORTED)}
        missing = [] if drop else missing
        if groups or missing:
            stems = {Path(file).stem: Path(file).suffix for file in self.paths(Use.NO_LABEL)}
            endings = sorted(stems[name] for name in missing if name in stems)
            raise PipelineError(messages.bad_images(data, groups, patterns, missing, endings[0] if endings else None))

    def table(self) -> pd.DataFrame:
        """inventory.csv: of files outside of data.subdir, which may be others' data, only their number."""
        rows = self.rows[tables.INVENTORY].copy()
        outside = rows["use"] == Use.OUTSIDE
        rows.loc[outside, ["path", "kind"]] = f"({outside.sum()} files)", ""
        rows.loc[outside, "bytes"] = rows.loc[outside, "bytes"].sum()
        return rows.drop_duplicates(ignore_index=True)


def suggest(files: list[str], keep: Iterable[str]) -> list[str]:
    """Patterns for data.exclude that match all ``files`` and none of ``keep``, at most five."""
    patterns: list[str] = []
    keep, rest = list(keep), list(files)
    while rest and len(patterns) < 5:
        counts = Counter(pattern for file in rest for pattern in dict.fromkeys(_patterns(file)))
        for pattern, _ in counts.most_common():
            spec = GitIgnoreSpec.from_lines([pattern])
            if not any(spec.match_file(file) for file in keep):
                break
        patterns.append(pattern)
        rest = [file for file in rest if not spec.match_file(file)]
    return patterns


def _patterns(file: str) -> Iterable[str]:
    """Patterns that match a file, the more general ones first."""
    file = re.sub(r"([][*?\\])", r"\\\1", file)
    *folders, name = file.split("/")
    stem, dot, ending = name.partition(".") if name.endswith(".gz") else name.rpartition(".")
    if word := masks.WORD.search((stem or ending).casefold()):
        at, end = word.span()
        before = re.search(r"[\W_]?$", stem[:at])
        yield f"*{before[0] if before else ''}{stem[at:end]}*"
    yield from (f"{folder}/" for folder in folders if masks.WORD.search(folder.casefold()))
    if dot:
        yield f"*.{ending}"
        if suffix := re.search(r"[\W_]+[^\W_]+$", stem):
            yield f"*{suffix[0]}.{ending}"
    yield from (f"{folder}/" for folder in folders)
    yield f"/{file}"


def left_out(table: pd.DataFrame) -> dict[str, int]:
    """How many files are not used, by reason."""
    rows = table[~table["use"].isin([*USED, Use.OTHER])]
    reasons = [f"{use} ({why})" if why else use for use, why in zip(rows["use"], rows["why"], strict=True)]
    return dict(sorted(Counter(reasons).items()))


def others(table: pd.DataFrame) -> Mapping[str, int]:
    """How many files are neither images nor used otherwise, by kind."""
    return dict(sorted(Counter(table.loc[table["use"] == Use.OTHER, "kind"]).items()))


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
