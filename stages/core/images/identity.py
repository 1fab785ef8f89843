"""Names of patients, classes, groups and files: which differ in spelling alone, and which mean that none is known."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import TypeVar

from core.images import messages
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.data import Data

Key = TypeVar("Key")
# Characters without a width: control and format characters that are no white space, fillers, variation selectors
_INVISIBLE = re.compile(
    "(?!\\s)[\0-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffc\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_EDGES = re.compile(rf"^(?:\s|{_INVISIBLE.pattern})+|(?:\s|{_INVISIBLE.pattern})+$")
_DASHES_AND_QUOTES = str.maketrans(
    "\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\u2796\u2018\u2019\u02bc", "-" * 9 + "'" * 3
)
# Cyrillic and Greek letters that look like Latin ones
_LOOK_ALIKE = str.maketrans("авекмнорстухіјѕαβεζηικνορτυχ", "abekmhopctyxijsabezhikvoptux")
# A decimal fraction; a number; a word; a sign (of -1 and ER-, but no dash within a name); another character that is
# neither a separator nor a quote or bracket
_TOKENS = re.compile(
    r"(?<![\d.,])0*(\d+)[.,](\d+)(?!\d|[.,]\d)|0*(\d+)|([^\W\d_]+)|(?<![\w-])(-)(?=\w)|(?<=\w)(-)(?![\w-])"
    r"|([^\w\s./\\,^'\"`;:|*#&()\[\]{}\u00b7-])"
)
_REPEATED = re.compile(r"([\W_])\1+")


def clean(text: str) -> str:
    """``text`` without white space and invisible characters around it."""
    return text.strip() if text.isascii() and text.isprintable() else _EDGES.sub("", text)


def _fold(text: str) -> str:
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text).translate(_DASHES_AND_QUOTES))
    text = text if text.isascii() else "".join(str(unicodedata.decimal(char, char)) for char in text)
    return unicodedata.normalize("NFKC", text.casefold())


def normal_form(text: str) -> str:
    """What stays of a name without its spelling: Unicode NFKC, no upper case, no invisible characters, letters that
    look alike as Latin ones, one space for spaces, separators, quotes and brackets, and numbers without leading zeros
    and without .0 at the end. Numbers stay apart: P1-2 is not P12, and 1.5 not 15; so do -1 and 1, or ER+ and ER-."""
    words = []
    for integer, fraction, *others in _TOKENS.findall(_fold(text).translate(_LOOK_ALIKE)):
        words += [integer, *([fraction] if fraction.strip("0") else [])] if integer else ["".join(others)]
    return " ".join(words)


def path_form(path: str) -> str:
    return "/".join(map(normal_form, path.split("/")))


def alike(names: Iterable[str], first: Collection[str] = ()) -> list[list[str]]:
    """Groups of different names with one normal form: those of ``first`` at the start, then the most frequent."""
    forms: dict[str, list[str]] = {}
    for name in dict.fromkeys([*first, *(name for name, _ in Counter(names).most_common())]):
        forms.setdefault(normal_form(name), []).append(name)
    return [group for group in forms.values() if len(group) > 1]


def spellings(groups: list[list[str]], key: str, mode: str) -> dict[str, str]:
    """The first name of its group for each name in ``groups``, if ``mode``, which is data.alike, is join. Raises
    PipelineError if it is fail and there is a group."""
    if groups and mode == "fail":
        raise PipelineError(messages.listing(messages.ALIKE, [visible(group) for group in groups], key=key))
    return {name: group[0] for group in groups for name in group} if mode == "join" else {}


def visible(names: list[str]) -> str:
    """The names, with escapes for characters that are not printable, or not ASCII and not in all of the names."""
    shared = set.intersection(*map(set, names))
    plain = [{char for char in name if char.isprintable() and (char.isascii() or char in shared)} for name in names]
    shown = ["".join(c if c in good else ascii(c)[1:-1] for c in name) for name, good in zip(names, plain, strict=True)]
    return " / ".join(f"'{name}'" for name in shown)


@lru_cache(1 << 16)
def _word(text: str) -> str:
    text = "".join(_fold(text).split())
    letters = re.sub(r"[^\w!?]|_", "", text)  # with ! and ?: #REF! and #NAME? are missing, but ref and name are not
    return letters if letters.isalpha() else _REPEATED.sub(r"\1", text).strip("()<>[]#")


def present(values: Mapping[Key, str], data: Data, named: Collection[str] = ()) -> dict[Key, str]:
    """The values, without space around them, that are not empty and no word of data.missing, unless they are
    ``named``. Upper case and spaces don't matter; neither do signs beside letters (n.a., N/A), but ! and ?, nor the
    number of equal signs (-, --)."""
    missing = set(map(_word, data.missing)) - set(map(_word, named)) | {""}
    return {key: clean(text) for key, text in values.items() if _word(text) not in missing}
