"""Section data: where images, labels and patients come from."""

import re
from typing import Annotated, Literal, NamedTuple

from core.pipeline import addresses
from core.pipeline.schemas import messages
from core.pipeline.schemas.base import SPLITS, OnBadImage, Section, Seed, Word

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

TAG = "dicom:"  # before the keyword of a DICOM tag, in data.labels, data.patient, data.breast and data.groups
UNWATCHED = "stages/download.py"  # for data.watch: a dependency of download anyway, so it adds none
REST = "rest"  # for data.negative: every class that is not positive; for data.lists.test: images on no other list

Words = Annotated[list[Word], Field(min_length=1)]
Edges = Annotated[list[float], Field(min_length=1)]


class Phantom(Section):
    images: Annotated[int, Field(ge=16, le=20_000_000)]
    patients: Annotated[int, Field(ge=3)]
    side: Annotated[int, Field(ge=32, le=1024)]
    seed: Seed | None

    @model_validator(mode="after")
    def _enough_images(self) -> "Phantom":
        if self.images < 4 * self.patients:
            raise ValueError(messages.PHANTOM_TOO_FEW.format(images=self.images, patients=self.patients))
        return self


class Lists(Section):
    train: str | None
    val: str | None
    test: str | None

    @model_validator(mode="after")
    def _train_and_test_or_none(self) -> "Lists":
        missing = [split for split in ("train", "test") if getattr(self, split) is None]
        if missing and (self.train or self.val or self.test):
            raise ValueError(messages.LISTS_MISSING.format(lists=" and ".join(missing)))
        if REST in (self.train, self.val):
            raise ValueError(messages.REST_OF_LISTS)
        return self

    def paths(self) -> dict[str, str]:
        """The file of each split's list; empty if there are no lists."""
        files = {split: getattr(self, split) for split in SPLITS}
        return {split: file for split, file in files.items() if file not in (None, REST)}


class Dicom(Section):
    patient: Literal["hash", "plain"]
    key: str | None
    key_check: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")] | None


def _keyword(name: str | None) -> str | None:
    """The keyword of the DICOM tag that ``name`` is, or None."""
    return name.removeprefix(TAG) if name is not None and name.startswith(TAG) else None


class Group(NamedTuple):
    """A way to group images."""

    name: str
    source: str  # the name of a column, the keyword of a tag, or a pattern
    kind: Literal["column", "tag", "pattern"]
    edges: list[float] | None  # where numbers are cut; None: at thirds


def _group(entry: str | dict[str, list[float]]) -> Group:
    edges = None
    if isinstance(entry, dict):
        if len(entry) != 1:
            raise ValueError(messages.EDGES_OF_SEVERAL.format(entry=entry))
        entry, edges = next(iter(entry.items()))
        if sorted(set(edges)) != edges:
            raise ValueError(messages.EDGES_FALL.format(edges=edges))
    keyword = _keyword(entry)
    if keyword is not None:
        return Group(keyword, keyword, "tag", edges)
    if "(?P<" not in entry:
        return Group(entry, entry, "column", edges)
    try:
        return Group(next(iter(re.compile(entry).groupindex)), entry, "pattern", edges)
    except re.error as error:
        raise ValueError(messages.WRONG_PATTERN.format(pattern=entry, error=error)) from None


def _unique_names(groups: list[str | dict[str, list[float]]]) -> list[str | dict[str, list[float]]]:
    names = [_group(entry).name for entry in groups]
    if len(set(names)) < len(names):
        raise ValueError(messages.GROUP_TWICE.format(names=", ".join(names)))
    return groups


class Data(Section):
    source: Literal["phantom", "kaggle", "archive", "folder"]
    location: str | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    watch: Annotated[str, Field(min_length=1)]
    subdir: str | None
    exclude: list[Word]
    labels: str | None
    file_column: str
    label_column: str | None
    positive: Word | Words
    negative: Word | Words | None
    patient: str | None
    breast: str | None
    groups: Annotated[list[Word | dict[Word, Edges]], AfterValidator(_unique_names)]
    lists: Lists
    on_bad_image: OnBadImage
    frames: Literal["fail", "first", "split"]
    alike: Literal["fail", "join", "keep"]
    missing: list[Word]
    dicom: Dicom
    phantom: Phantom

    @field_validator("patient", "breast", "labels")
    @classmethod
    def _a_pattern_or_a_tag(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and "(?P<" in text:
            group = str(info.field_name).rstrip("s")
            otherwise = "a CSV file" if group == "label" else "a column"
            try:
                names = re.compile(text).groupindex
            except re.error as error:
                raise ValueError(messages.NOT_A_PATTERN.format(error=error)) from None
            if group not in names:
                raise ValueError(messages.PATTERN_WITHOUT_GROUP.format(group=group, otherwise=otherwise))
        keyword = _keyword(text)
        if keyword is not None and not re.fullmatch(r"[A-Z]\w*", keyword):
            raise ValueError(messages.NOT_A_KEYWORD.format(tag=TAG))
        return text

    @field_validator("watch")
    @classmethod
    def _as_dvc_reads_it(cls, watch: str) -> str:
        if watch.startswith("~"):
            raise ValueError(messages.HOME_FOLDER)
        return watch

    @field_validator("subdir")
    @classmethod
    def _inside_the_source(cls, subdir: str | None) -> str | None:
        if subdir is not None and (subdir.startswith("/") or ".." in subdir.split("/")):
            raise ValueError(messages.OUTSIDE_THE_SOURCE)
        return subdir

    @model_validator(mode="after")
    def _what_the_source_needs(self) -> "Data":
        common = sorted(set(self.positives) & set(self.negatives or []))
        phantom, archive, location = self.source == "phantom", self.source == "archive", self.location or ""
        https, kaggle = location.startswith("https://"), r"[\w-]+/[\w-]+(/versions/\d+)?"
        columns = [(level, name, level) for level, name in self.levels().items() if self.kind(level) == "column"]
        columns += [("groups", group.name, group.name) for group in self.grouping if group.kind == "column"]
        key, column, group_name = next(iter(columns), ("", "", ""))
        has_table = "data.labels" in self.tables()
        for wrong, message in (
            (common, messages.CLASSES_ON_BOTH_SIDES),
            (addresses.has_credential(location), messages.CREDENTIALS),
            (phantom and self.location is not None, messages.PHANTOM_LOCATION),
            (phantom and self.lists.paths(), messages.PHANTOM_LISTS),
            (phantom and self.groups, messages.PHANTOM_GROUPS),
            (self.breast is not None and self.patient is None, messages.BREAST_WITHOUT_PATIENT),
            (not phantom and self.location is None, messages.NO_LOCATION),
            (self.source == "kaggle" and not re.fullmatch(kaggle, location), messages.NOT_ON_KAGGLE),
            ("://" in location and not https, messages.NOT_HTTPS),
            (archive and https and self.sha256 is None, messages.NO_SHA256),
            (not phantom and not archive and self.sha256 is not None, messages.SHA256_OF_NO_ARCHIVE),
            (not phantom and columns and not has_table, messages.COLUMN_WITHOUT_TABLE),
        ):
            if wrong:
                values = {"key": key, "column": column, "group": group_name, "classes": ", ".join(common)}
                raise ValueError(message.format(source=self.source, location=location, **values))
        return self

    @property
    def local(self) -> bool:
        """Whether location is a path on this machine."""
        return self.source == "folder" or (self.source == "archive" and "://" not in str(self.location))

    def tables(self) -> dict[str, str]:
        """The name of each table by its key: that of labels, and the lists."""
        lists = {f"data.lists.{split}": name for split, name in self.lists.paths().items()}
        if self.labels is None or self.labels_are_pattern or self.label_tag:
            return lists
        return {"data.labels": self.labels} | lists

    def tags(self) -> list[str]:
        """The keywords of the DICOM tags that labels, patient, breast and groups name."""
        keywords = [keyword for name in (self.labels, *self.levels().values()) if (keyword := _keyword(name))]
        return keywords + [group.source for group in self.grouping if group.kind == "tag"]

    @property
    def grouping(self) -> list[Group]:
        return [_group(entry) for entry in self.groups]

    @property
    def label_tag(self) -> str | None:
        return _keyword(self.labels)

    @property
    def patient_tag(self) -> str | None:
        return _keyword(self.patient)

    def levels(self) -> dict[str, str]:
        """What names the patient, and the breast, of an image, if it is known."""
        return {level: name for level in ("patient", "breast") if (name := getattr(self, level)) is not None}

    def kind(self, level: str) -> Literal["column", "tag", "pattern"]:
        """What ``levels`` has for a level."""
        return "pattern" if "(?P<" in (name := self.levels()[level]) else "tag" if _keyword(name) else "column"

    @property
    def labels_are_pattern(self) -> bool:
        return "(?P<label>" in (self.labels or "")

    @property
    def labels_are_folders(self) -> bool:
        return self.labels is None or ("data.labels" in self.tables() and self.label_column is None)

    @property
    def positives(self) -> list[str]:
        return [self.positive] if isinstance(self.positive, str) else self.positive

    @property
    def negatives(self) -> list[str] | None:
        """The classes that are named as negative, or None for the only other class, or the rest."""
        if self.negative is None or self.negative == REST:
            return None
        return [self.negative] if isinstance(self.negative, str) else self.negative

    @property
    def named(self) -> list[str]:
        """The classes that positive and negative name."""
        return self.positives + (self.negatives or [])

    def takes(self, name: str) -> bool:
        """Whether images of this class are used."""
        return self.negatives is None or name in self.named
