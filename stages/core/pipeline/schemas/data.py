"""Section data: where images, labels and patients come from."""

import re
from typing import Annotated, Literal, NamedTuple

from core.pipeline import addresses
from core.pipeline.schemas import messages
from core.pipeline.schemas.base import SPLITS, OnBadImage, Section, Seed, Word

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

TAG = "dicom:"  # before the keyword of a DICOM tag, in data.labels, data.patient and data.groups
UNWATCHED = "stages/download.py"  # for data.watch: a dependency of download anyway, so it adds none
REST = "rest"  # for data.negative: every class that is not positive

Words = Annotated[list[Word], Field(min_length=1)]
Edges = Annotated[list[float], Field(min_length=1)]


class Phantom(Section):
    images: Annotated[int, Field(ge=16, le=20_000_000)]
    patients: Annotated[int, Field(ge=3)]
    side: Annotated[int, Field(ge=32, le=1024)]
    seed: Seed | None

    @model_validator(mode="after")
    def _enough_each(self) -> "Phantom":
        if self.images < 4 * self.patients:
            raise ValueError(messages.phantom_too_few(self.images, self.patients))
        return self


class Lists(Section):
    train: str | None
    val: str | None
    test: str | None

    @model_validator(mode="after")
    def _all_or_none(self) -> "Lists":
        missing = [name for name in SPLITS if getattr(self, name) is None]
        if 0 < len(missing) < len(SPLITS):
            raise ValueError(messages.lists_missing(missing))
        return self

    def paths(self) -> dict[str, str]:
        """The file of each split's list; empty if there are no lists."""
        files = {split: getattr(self, split) for split in SPLITS}
        return {split: file for split, file in files.items() if file is not None}


class Dicom(Section):
    frames: Literal["fail", "split"]
    patient: Literal["hash", "plain"]
    key: str | None
    key_check: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")] | None


def _keyword(name: str | None) -> str | None:
    """The keyword of the DICOM tag that ``name`` is, or None."""
    return name.removeprefix(TAG) if name is not None and name.startswith(TAG) else None


class Group(NamedTuple):
    """A way to group images: by a column, by a DICOM tag, or by a pattern.

    ``source`` is the name of the column, the keyword of the tag, or the pattern. ``edges``: where its numbers are cut;
    None: at thirds.
    """

    name: str
    source: str
    kind: Literal["column", "tag", "pattern"]
    edges: list[float] | None


def _group(entry: str | dict[str, list[float]]) -> Group:
    edges = None
    if isinstance(entry, dict):
        if len(entry) != 1:
            raise ValueError(messages.edges_of_several(entry))
        entry, edges = next(iter(entry.items()))
        if sorted(set(edges)) != edges:
            raise ValueError(messages.edges_fall(edges))
    keyword = _keyword(entry)
    if keyword is not None:
        return Group(keyword, keyword, "tag", edges)
    if "(?P<" not in entry:
        return Group(entry, entry, "column", edges)
    try:
        return Group(next(iter(re.compile(entry).groupindex)), entry, "pattern", edges)
    except re.error as error:
        raise ValueError(messages.wrong_pattern(entry, error)) from None


def _named_once(groups: list[str | dict[str, list[float]]]) -> list[str | dict[str, list[float]]]:
    names = [_group(entry).name for entry in groups]
    if len(set(names)) < len(names):
        raise ValueError(messages.group_twice(names))
    return groups


class Data(Section):
    source: Literal["phantom", "kaggle", "archive", "folder"]
    location: str | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    watch: Annotated[str, Field(min_length=1)]
    subdir: str | None
    labels: str | None
    file_column: str
    label_column: str
    positive: Word | Words
    negative: Word | Words | None
    patient: str | None
    groups: Annotated[list[Word | dict[Word, Edges]], AfterValidator(_named_once)]
    lists: Lists
    on_bad_image: OnBadImage
    alike: Literal["fail", "join", "keep"]
    missing: list[Word]
    dicom: Dicom
    phantom: Phantom

    @field_validator("patient", "labels")
    @classmethod
    def _a_pattern_names_its_group(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and "(?P<" in text:
            group, otherwise = ("patient", "a column") if info.field_name == "patient" else ("label", "a CSV file")
            try:
                groups = re.compile(text).groupindex
            except re.error as error:
                raise ValueError(messages.not_a_pattern(error)) from None
            if group not in groups:
                raise ValueError(messages.pattern_without_group(group, otherwise))
        return text

    @model_validator(mode="after")
    def _a_class_is_on_one_side(self) -> "Data":
        both = sorted(set(self.positives) & set(self.negatives or []))
        if both:
            raise ValueError(messages.classes_on_both_sides(both))
        return self

    @model_validator(mode="after")
    def _what_the_source_needs(self) -> "Data":
        if self.location is not None and addresses.has_credential(self.location):
            raise ValueError(messages.credentials())
        if self.source == "phantom":
            if self.location is not None:
                raise ValueError(messages.must_be_empty("location", "null", self.location))
            if self.lists.paths():
                raise ValueError(messages.must_be_empty("lists", "null"))
            if self.groups:
                raise ValueError(messages.must_be_empty("groups", "[]"))
            return self
        if self.location is None:
            raise ValueError(messages.no_location(self.source))
        if self.source == "kaggle" and not re.fullmatch(r"[\w-]+/[\w-]+(/versions/\d+)?", self.location):
            raise ValueError(messages.not_on_kaggle(self.location))
        if "://" in self.location and not self.location.startswith("https://"):
            raise ValueError(messages.not_https())
        if self.location.startswith("https://") and self.source == "archive" and self.sha256 is None:
            raise ValueError(messages.no_sha256())
        if self.sha256 is not None and self.source != "archive":
            raise ValueError(messages.sha256_of_no_archive(self.source))
        table = self.labels is not None and not self.labels_are_pattern and not self.label_tag
        if self.patient_is_column and not table:
            raise ValueError(messages.column_without_table("patient", str(self.patient), "patient"))
        for group in self.grouping:
            if group.kind == "column" and not table:
                raise ValueError(messages.column_without_table("groups", group.name, group.name))
        return self

    @field_validator("watch")
    @classmethod
    def _as_dvc_reads_it(cls, watch: str) -> str:
        if watch.startswith("~"):
            raise ValueError(messages.home_folder())
        return watch

    @field_validator("subdir")
    @classmethod
    def _below(cls, subdir: str | None) -> str | None:
        if subdir is not None and (subdir.startswith("/") or ".." in subdir.split("/")):
            raise ValueError(messages.outside_the_source())
        return subdir

    @field_validator("patient", "labels")
    @classmethod
    def _a_tag_exists(cls, text: str | None) -> str | None:
        keyword = _keyword(text)
        if keyword is not None and not re.fullmatch(r"[A-Z]\w*", keyword):
            raise ValueError(messages.not_a_keyword(TAG))
        return text

    @property
    def local(self) -> bool:
        """Whether location is a path on this machine."""
        return self.source == "folder" or (self.source == "archive" and "://" not in str(self.location))

    def tags(self) -> list[str]:
        """The keywords of the DICOM tags that labels, patient and groups name."""
        named = [keyword for keyword in (self.label_tag, self.patient_tag) if keyword]
        return named + [group.source for group in self.grouping if group.kind == "tag"]

    @property
    def grouping(self) -> list[Group]:
        return [_group(entry) for entry in self.groups]

    @property
    def label_tag(self) -> str | None:
        return _keyword(self.labels)

    @property
    def patient_tag(self) -> str | None:
        return _keyword(self.patient)

    @property
    def patient_is_column(self) -> bool:
        return self.patient is not None and not self.patient_is_pattern and not self.patient_tag

    @property
    def patient_is_pattern(self) -> bool:
        return self.patient is not None and "(?P<patient>" in self.patient

    @property
    def labels_are_pattern(self) -> bool:
        return self.labels is not None and "(?P<label>" in self.labels

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
