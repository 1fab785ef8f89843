"""Tables are read as people save them, or refused in one line; no row and no letter is lost silently."""

import csv
import gzip
import io

from core.images import csv_tables
from core.pipeline.errors import PipelineError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import put

NAMES = ["file", "label"]
PLAIN = "file,label,note\nä 1.png,0,x\nb.png,1,\n"
EXPECTED = [["ä 1.png", "0", "x"], ["b.png", "1", ""]]
# Not of the category M: variation selectors are invisible, and cut off at the ends of a cell
TEXT = st.text(st.characters(exclude_categories=["C", "M", "Z"]), min_size=1, max_size=8)


@pytest.fixture
def read(tmp_path):
    def run(content, names=NAMES):
        return csv_tables.read(put(tmp_path, {"labels.csv": content}) / "labels.csv", names)

    return run


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
        PLAIN.encode("utf-32"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", " | "),
        "sep=;\n" + PLAIN.replace(",", ";"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace("\n", "\n\n,,\n"),
        "\n" + PLAIN,
        PLAIN.replace(",", " , ").replace("x", "\u200bx\xa0"),
        PLAIN.replace("file", '"file"').replace("ä 1.png", '"ä 1.png"').replace(",", ";"),
    ],
)
def test_a_table_is_the_same_in_every_encoding_and_with_every_separator(read, content):
    rows = read(content)
    assert list(rows.columns) == ["file", "label", "note"] and rows.to_numpy().tolist() == EXPECTED


def test_the_separator_is_the_one_that_gives_the_columns_that_parameters_name(read):
    rows = read("a,b,c,d;file;label\n1,2,3,4;x.png;0,5\n")
    assert list(rows["file"]) == ["x.png"] and list(rows["label"]) == ["0,5"]


def test_quoted_line_breaks_and_separators_are_part_of_a_cell(read):
    rows = read('file,label,note\n"a\n1.png",0,"one, ""two""\n\nthree"\nb.png,1,\n')
    assert list(rows["file"]) == ["a\n1.png", "b.png"] and rows["note"][0] == 'one, "two"\n\nthree'


@given(st.lists(st.lists(TEXT, min_size=3, max_size=3), min_size=1, max_size=5), st.sampled_from(",;\t|"))
def test_what_a_spreadsheet_writes_is_read_back(tmp_path_factory, cells, separator):
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows([["file", "label", "note"], *cells])
    path = tmp_path_factory.getbasetemp() / "labels.csv"
    path.write_text(text.getvalue(), newline="")
    assert csv_tables.read(path, NAMES).to_numpy().tolist() == cells


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (PLAIN.encode("latin-1"), "is not UTF-8: line 2 has letters in another encoding. Save it as CSV"),
        (PLAIN.encode("utf-16-le"), "line 1, has NUL bytes"),
        (PLAIN.encode("utf-16")[:-1], "is not UTF-16"),
        ("file,label\na.png,0\nb\0.png,1\n", "line 3, has NUL bytes"),
        ("file,label\na.png,0\nb.png\n", r"line 3, has 1 cells, but the header 2 \(separator ','\)"),
        ("file;label\na.png;0\nb.png;1;\n", r"line 3, has 3 cells, but the header 2 \(separator ';'\)"),
        ('file,note\n"a\nb",1\nc.png,0,5\n', "line 4, has 3 cells"),
        ('file,label\n"a.png,0\nb.png,1\n', "can't be read as a CSV: unexpected end of data. Is a quote missing"),
        ("file,label\n", "has no row below a header"),
        ("", "has no row below a header"),
        (",,\n;;\n", "has no row below a header"),
        (b"PK\x03\x04" + bytes(40), "is xlsx or zip, not a CSV"),
        (b"PAR1\x15\x04" + bytes(40) + b"PAR1", "is Parquet, not a CSV"),
        (gzip.compress(PLAIN.encode(), mtime=0), "is gzip, not a CSV"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused_in_one_line(read, content, says):
    with pytest.raises(PipelineError, match=f"labels.csv.*{says}") as caught:
        read(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("header", ["label,label", "label,Label", "label, label ", "label,label\u200b", "label,LABEL."])
def test_a_header_that_names_a_column_twice_is_refused(read, header):
    rows = read(f"file,{header}\na.png,0,1\n")
    with pytest.raises(PipelineError, match=r"labels.csv names a column twice: 'label' / .*\(data.label_column\)"):
        csv_tables.column(rows, "label", "data.label_column", "labels.csv", "fail")
    assert list(csv_tables.column(rows, "file", "data.file_column", "labels.csv", "fail")) == ["a.png"]
    if len(set(rows.columns)) == 3:
        assert list(csv_tables.column(rows, "label", "data.label_column", "labels.csv", "keep")) == ["0"]


def test_letters_that_an_earlier_program_lost_are_refused(read):
    with pytest.raises(PipelineError, match=r"'M\ufffdller.png' \(file\) has lost letters"):
        csv_tables.column(read("file,label\nM\ufffdller.png,0\n"), "file", "data.file_column", "labels.csv", "fail")
