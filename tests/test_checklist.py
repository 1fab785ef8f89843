"""The two reporting checklists: the report and docs/checklist.md name every item once, under the same subjects."""

import re

import pytest

from conftest import TOP

FRAGMENT = TOP / "stages/core/report/checklist.html"
PAGE = TOP / "docs/checklist.md"
CLAIM = [str(number) for number in range(1, 45)]
TRIPOD = re.findall(
    r"\w+",
    "1 2 3a 3b 3c 4 5a 5b 6a 6b 6c 7 8a 8b 8c 9a 9b 9c 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 16 17 "
    "18a 18b 18c 18d 18e 18f 19 20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b 27c",
)


def in_fragment():
    """Each row as subject, items of CLAIM and items of TRIPOD+AI: the arguments of a macro, or an entry of a list."""
    return re.findall(r'\("([^"]+)", "([^"]*)", "([^"]*)"\)', FRAGMENT.read_text())


def in_page():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [tuple(cell.strip() for cell in line.split("|")[1:4]) for line in lines]
    return [row for row in cells if row[0] != "subject"]


@pytest.mark.parametrize("rows", [in_fragment, in_page])
def test_every_item_of_both_checklists_stands_in_exactly_one_row(rows):
    for column, items in ((1, CLAIM), (2, TRIPOD)):
        named = [item for row in rows() for item in row[column].split(", ") if item]
        assert sorted(named) == sorted(items)


def test_the_report_and_the_page_have_the_same_subjects_in_the_same_order():
    assert in_fragment() == in_page()


def test_an_item_is_named_in_its_row_only():
    for path in (FRAGMENT, PAGE):
        assert re.findall(r"(?:CLAIM|TRIPOD\+AI) \d+\w?", path.read_text()) == []
