"""Names that differ in spelling alone are never silently two, and a word for a missing value is never a name."""

import itertools
import time
import unicodedata

from core.images import identity, messages, sources
from core.pipeline.errors import PipelineError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import image, put

SAME = [
    ("007", "7"), ("11", "11.0"), ("1", "1,00"), ("000", "0"), ("P08", "p08"), ("P-01", "P_01"), ("P-01", "P 1"),
    ("P.1", "p01"), ("A  B", "A B"), ("A\xa0B", "A B"), ("A\u2003B", "A_B"), ("A\u200bB", "AB"), ("A\xadB", "AB"),
    ("\ufeffA", "A"), ("A\u200e", "A"), ("A\ufe0f", "A"), ("\uff11\uff12", "12"), ("\uff30\uff18", "P8"),
    ("Mu\u0308ller", "M\xfcller"), ("stra\xdfe", "STRASSE"), ("\u0420\u041e8", "PO8"), ("10\u201319", "10-19"),
    ("O\u2019Neil", "O'Neil"), ("Doe^Ann^^", "DOE, ANN"), ("site/2", "site\\2"), ("north\nwing", "North Wing"),
    ("'P08", "P08"), ("(P:08)", "P08"), ("P\u0660\u0668", "P08"), ("P08\u2800", "P08"), ("P\u204308", "P-08"),
]  # fmt: skip
DIFFERENT = [
    ("P1-2", "P12"), ("P-1-2", "P-12"), ("1.5", "15"), ("1.05", "1.5"), ("1.10", "1.1"), ("10", "1"), ("100", "1.00"),
    ("A", "B"), ("-1", "1"), ("\u22121", "1"), ("ER+", "ER-"), ("ER-", "ER"), ("<50", ">50"), ("a", "\xe1"),
    ("1 1", "11"), ("P1", "P11"), ("14-13412", "14-13412E"), ("A B", "AB"), ("left", "right"), ("II", "I"),
]  # fmt: skip


@pytest.fixture
def read_source(make_params, tmp_path, monkeypatch):
    """A function that reads images named in a table of the columns file, label and others, from rows of cells."""
    monkeypatch.chdir(tmp_path)

    def run(rows, changes=None, header="file,label,who", names=None):
        text = header + "\n" + "".join(",".join(row) + "\n" for row in rows)
        names = names or [row[0] for row in rows]
        folder = put(tmp_path / "images", {name: image(9) for name in names} | {"labels.csv": text})
        parameters = {"data.source": "folder", "data.location": str(folder), "data.labels": "labels.csv"}
        cfg = make_params(parameters | {"data.patient": "who"} | (changes or {}))
        with sources.open_source(cfg.data, cfg.seed, tmp_path) as raw:
            return raw

    return run


def rows(patients, labels="01"):
    """A row for each patient; the labels take turns."""
    return [(f"{n}.png", label, patient) for n, (patient, label) in enumerate(zip(patients, itertools.cycle(labels)))]


def refusal(read, *arguments, **changes):
    with pytest.raises(PipelineError) as caught:
        read(*arguments, **changes)
    said = str(caught.value).removesuffix("\nFix the source, or leave these images out: data.on_bad_image: drop")
    assert "\n" not in said
    return said


@pytest.mark.parametrize(("name", "other"), SAME)
def test_two_spellings_of_one_name_are_alike(name, other):
    assert identity.alike([name, other]) == [[name, other]]


@pytest.mark.parametrize(("name", "other"), DIFFERENT)
def test_two_names_are_not_alike(name, other):
    assert identity.alike([name, other]) == []


@given(st.lists(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), min_size=1, max_size=4))
def test_case_and_separators_never_make_another_name(words):
    name = "-".join(words)
    for separator in (" ", "_", "  ", "\xa0", ".-", "\u200b "):
        assert identity.normal_form(separator.join(words).swapcase()) == identity.normal_form(name) or "." in separator
    assert identity.normal_form(identity.normal_form(name)) == identity.normal_form(name)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from(["", "P", "P-", "site 3 / "]))
def test_numbers_are_alike_only_if_they_are_equal(number, other, prefix):
    forms = {identity.normal_form(f"{prefix}{value}") for value in (number, f"{number:012d}", f"{number}.0")}
    assert len(forms) == 1
    assert (identity.normal_form(f"{prefix}{other}") in forms) is (number == other)


def test_every_character_without_a_width_is_ignored():
    """Format characters of Unicode, except those that are drawn, such as the Arabic sign of a verse."""
    drawn = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}
    characters = (chr(code) for code in range(0x110000) if code not in drawn)
    invisible = [char for char in characters if unicodedata.category(char) in ("Cf", "Cc") and not char.isspace()]
    assert len(invisible) > 190
    assert [char for char in invisible if identity.normal_form(f"A{char}B") != "ab" or identity.clean(char)] == []


def test_a_hundred_thousand_names_take_seconds():
    start = time.perf_counter()
    assert identity.alike([f"TCGA-{number:06d}-01A" for number in range(100_000)]) == []
    assert time.perf_counter() - start < 20


def test_a_message_shows_in_what_two_names_differ():
    assert identity.visible(["Mu\u0308ller", "M\xfcller"]) == r"'Mu\u0308ller' / 'M\xfcller'"
    assert identity.visible(["M\xfcller", "m\xfcller"]) == "'M\xfcller' / 'm\xfcller'"
    assert identity.visible(["A\u200bB", "A\xa0B"]) == r"'A\u200bB' / 'A\xa0B'"


@pytest.mark.parametrize(("name", "other"), SAME[:4] + SAME[8:12])
def test_patients_in_two_spellings_are_refused_joined_or_kept(read_source, name, other):
    table = rows([f'"{name}"', f'"{other}"', f'"{other}"', "P2"])
    said = refusal(read_source, table)
    assert said.startswith(f"data.patient: 1 names are spelled in several ways: {identity.visible([other, name])}. ")
    assert "data.alike" in said
    assert list(read_source(table, {"data.alike": "join"}).labels["patient"]) == [other, other, other, "P2"]
    assert read_source(table, {"data.alike": "keep"}).provenance["patients"] == 3


def test_patients_that_a_spreadsheet_has_rounded_are_refused(read_source):
    table = rows(["1.23457E+11", "1.23457E+11", "b", "c"])
    assert "'1.23457E+11' (who) has lost digits" in refusal(read_source, table)
    assert "'1.23457E+11' (who) has lost digits" in refusal(read_source, table, {"data.patient": "{label}_{who}"})


def test_patients_in_file_names_are_compared_too(read_source):
    names = [f"{patient}_{n}.png" for n, patient in enumerate(["P08", "p08", "P9", "P10"])]
    table = [(name, str(n % 2)) for n, name in enumerate(names)]
    pattern = {"data.patient": "^(?P<patient>[^_]+)_"}
    said = refusal(read_source, table, pattern, header="file,label")
    assert "'P08' / 'p08'" in said


@pytest.mark.parametrize(
    "word",
    ["nan", "NaN", "NA", "N/A", "<NA>", "#N/A", "n.a.", "null", "None", "NIL", "-", "--", "\u2014", "?", "???", ".",
     "Unknown", "", " ", "\u200b", "\xa0", "N.A", "not available", "#REF!", "\u2800"],
)  # fmt: skip
def test_a_word_for_missing_is_no_patient_no_class_and_no_level(read_source, word):
    assert "2 images without a patient" in refusal(read_source, rows(["a", "b", word, word]))
    table = [(f"{n}.png", label, f"p{n}") for n, label in enumerate(["0", "1", word, "0"])]
    assert "1 images without a label" in refusal(read_source, table, {"data.negative": "rest"})
    table = [(f"{n}.png", str(n % 2), f"p{n}", level) for n, level in enumerate(["A", "B", word, "A", "B", "A"])]
    raw = read_source(table, {"data.groups": ["site"]}, header="file,label,who,site")
    assert raw.groups["group_site"].fillna("missing").tolist() == ["A", "B", "missing", "A", "B", "A"]


def test_the_list_can_say_otherwise_and_a_class_that_is_named_is_never_missing(read_source):
    table = rows(["None", "b", "None", "c"])
    assert "2 images without a patient" in refusal(read_source, table)
    assert list(read_source(table, {"data.missing": ["nan"]}).labels["patient"]) == ["None", "b", "None", "c"]
    assert "2 images without a patient" in refusal(read_source, rows(["-9", "b", "-9", "c"]), {"data.missing": [-9]})
    assert list(read_source(rows(["Ref", "Name", "Num", "Value"])).labels["patient"]) == ["Ref", "Name", "Num", "Value"]
    signs = rows(["a", "b", "c", "d"], labels="+-")
    raw = read_source(signs, {"data.positive": "+", "data.negative": "-"})
    assert list(raw.labels["label"]) == [1, 0, 1, 0]


@pytest.mark.parametrize("negative", ["rest", None, "benign"])
@pytest.mark.parametrize("other", ["Malignant", "malig\u200bnant", " MALIGNANT", "malignant."])
def test_a_class_that_only_spelling_separates_from_the_positive_one_is_refused(read_source, negative, other):
    table = [(f"{n}.png", label, f"p{n}") for n, label in enumerate(["malignant", other, "benign", "benign"])]
    changes = {"data.positive": "malignant", "data.negative": negative}
    said = refusal(read_source, table, changes)
    assert said.startswith("data.labels: 1 names are spelled in several ways: 'malignant' / ")
    raw = read_source(table, changes | {"data.alike": "join"})
    assert list(raw.labels["label"]) == [1, 1, 0, 0] and set(raw.labels["class"]) == {"malignant", "benign"}


def test_space_around_a_class_does_not_matter(read_source):
    table = [(f"{n}.png", label, f"p{n}") for n, label in enumerate(["1", " 1", "0\u200b", "\xa00 "])]
    assert list(read_source(table).labels["label"]) == [1, 1, 0, 0]


def test_rest_takes_no_class_that_is_spelled_like_the_positive_one_even_where_names_are_kept(read_source):
    table = [(f"{n}.png", label, f"p{n}") for n, label in enumerate(["1", "1.0", "0", "0"])]
    said = refusal(read_source, table, {"data.negative": "rest", "data.alike": "keep"})
    assert said.startswith(
        "data.negative: rest would take classes that are spelled like one that is named: '1' / '1.0'"
    )
    both = {"data.positive": ["1", "1.0"], "data.negative": "rest"}
    assert list(read_source(table, both).labels["label"]) == [1, 1, 0, 0]
    apart = {"data.positive": "1", "data.negative": ["1.0", "0"]}
    assert "spelled in several ways: '1' / '1.0'" in refusal(read_source, table, apart)
    assert list(read_source(table, apart | {"data.alike": "keep"}).labels["label"]) == [1, 0, 0, 0]


def test_class_folders_are_compared_too(make_params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "s", {f"{name}/{name}.png": image(1) for name in ("malignant", "Malignant", "benign")})
    cfg = make_params(
        {"data.source": "folder", "data.location": "s", "data.positive": "malignant", "data.negative": "rest"}
    )
    with pytest.raises(PipelineError, match="'malignant' / 'Malignant'"), sources.open_source(cfg.data, 1, tmp_path):
        pass


def test_levels_in_two_spellings_are_refused_or_joined_but_numbers_in_ranges_are_not(read_source):
    def table(levels):
        return [(f"{n}.png", str(n % 2), f"p{n}", level) for n, level in enumerate(levels)]

    sites = table(["North", "north", "South", "North", "South", "South"])
    header, groups = "file,label,who,site", {"data.groups": ["site"]}
    assert "data.groups: 1 names are spelled in several ways: 'North' / 'north'" in refusal(
        read_source, sites, groups, header=header
    )
    raw = read_source(sites, groups | {"data.alike": "join"}, header)
    assert raw.groups["group_site"].tolist() == ["North", "North", "South", "North", "South", "South"]
    ages = table(["45", "45.0", *map(str, range(50, 62))])
    assert read_source(ages, {"data.groups": [{"site": [52]}]}, header).groups["group_site"].nunique() == 2


def test_file_names_in_both_forms_of_unicode_are_one(read_source):
    names = [unicodedata.normalize("NFD", f"M\xfcller_{n}.png") for n in range(4)]
    table = [(unicodedata.normalize("NFC", name), str(n % 2), f"p{n}") for n, name in enumerate(names)]
    assert list(read_source(table, names=names).labels["file"]) == names


@pytest.mark.parametrize("mode", ["fail", "join", "keep"])
def test_a_file_name_in_another_spelling_is_named_with_that_of_the_file(read_source, mode):
    names = ["IMG_0.png", "IMG_1.png", "IMG_02.PNG", "Img-3.png"]
    table = [(f"IMG_{n}.png", str(n % 2), f"p{n}") for n in range(4)]
    if mode == "join":
        assert sorted(read_source(table, {"data.alike": mode}, names=names).labels["file"]) == sorted(names)
        return
    with pytest.raises(PipelineError) as caught:
        read_source(table, {"data.alike": mode, "data.on_bad_image": "drop" if mode == "fail" else "fail"}, names=names)
    shown = r"2 names of images differ from those of files in spelling alone: 'IMG_2.png' / 'IMG_02.PNG', "
    expected = {
        "fail": shown + r"'IMG_3.png' / 'Img-3.png'",
        "keep": "2 labels without an image: IMG_2.png, IMG_3.png",
    }
    assert expected[mode] in str(caught.value)


def test_an_image_that_has_its_own_row_is_not_taken_for_another_name(read_source):
    table = [("img_1.png", "0", "a"), ("img_01.png", "1", "b"), ("img_2.png", "1", "c")]
    assert "1 labels without an image: img_01.png" in refusal(read_source, table, names=["img_1.png", "img_2.png"])


def test_a_patient_in_a_list_in_another_spelling_is_refused_or_joined(read_source, tmp_path):
    put(tmp_path, {"train.txt": "p1\nP2\n", "val.txt": "P3\n", "test.txt": "P4\n"})
    lists = {f"data.lists.{split}": f"{split}.txt" for split in ("train", "val", "test")}
    table = rows(["P1", "P2", "P3", "P4"])
    for drop in ("fail", "drop"):
        said = refusal(read_source, table, lists | {"data.on_bad_image": drop})
        assert said.startswith("data.lists.train: 1 names are spelled in several ways: 'P1' / 'p1'")
    listed = read_source(table, lists | {"data.alike": "join"}).listed
    assert listed["split"].tolist() == ["train", "train", "val", "test"]


def test_a_file_that_the_table_names_twice_with_two_labels_or_patients_is_named_with_both(read_source):
    table = [*rows(["a", "b", "c", "d"]), ("2.png", "1", "c"), ("3.png", "1", "e")]
    said = refusal(read_source, table)
    assert "contradicts itself in 2 images: 2.png ('0' / '1'), 3.png ('d' / 'e')" in said
    raw = read_source(table, {"data.on_bad_image": "drop"})
    assert list(raw.labels["file"]) == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("diagnosis", ["benign", "malignant"]),
        ("class_2", ["0", "1"]),
        ("reader", ["No", "yes"]),  # the words of the labels, in a column of any name
    ],
)
def test_a_patient_whose_labels_in_two_columns_contradict_is_refused(read_source, column, values):
    words = ["no", "Yes"] if column == "reader" else ["0", "1"]
    table = [(f"{n}.png", words[n % 2], f"p{n}", values[n % 2]) for n in range(8)]
    changes = {"data.positive": words[1]}
    header = f"file,label,who,{column}"
    assert len(read_source(table, changes, header).labels) == 8
    table[6] = (*table[6][:3], values[1])
    said = refusal(read_source, table, changes, header)
    assert f"labels.csv contradicts itself in 1 images: 6.png ('{words[0]}', but {column} '{values[1]}')" in said
    assert len(read_source(table, changes | {"data.on_bad_image": "drop"}, header).labels) == 7


@pytest.mark.parametrize("column", ["sex", "diagnosis_code"])
def test_a_column_that_is_none_of_labels_contradicts_nothing(read_source, column):
    table = [(f"{n}.png", str(n % 2), f"p{n}", str(n // 4 % 2)) for n in range(8)]
    assert len(read_source(table, header=f"file,label,who,{column}").labels) == 8


def test_a_table_that_contradicts_the_folders_is_refused(make_params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = {f"{name}/{name}{n}.png": image(n) for name in ("benign", "malignant") for n in range(4)}
    text = "file,label\n" + "".join(f"{name},{name.partition('/')[0]}\n" for name in images)
    put(tmp_path / "s", images | {"labels.csv": text.replace("benign0.png,benign", "benign0.png,malignant")})
    cfg = make_params(
        {"data.source": "folder", "data.location": "s", "data.labels": "labels.csv", "data.positive": "malignant"}
    )
    says = r"1 images: benign/benign0.png \('malignant', but class folder 'benign'\)"
    with pytest.raises(PipelineError, match=says), sources.open_source(cfg.data, 1, tmp_path):
        pass


@pytest.mark.parametrize(
    ("patients", "says"), [("xxxx", "one patient"), ("wxyz", "as many patients as images"), ("xxyy", "")]
)
def test_patients_that_are_one_or_as_many_as_images_are_doubted_on_the_screen(read_source, patients, says):
    said = messages.download_summary(read_source(rows(patients)).provenance, {})
    assert f"There are {says}: does data.patient name the patient?" in said if says else "There are" not in said


def test_a_column_with_the_words_of_the_labels_contradicts_nothing_if_it_agrees_by_chance_alone(read_source):
    table = [(f"{n}.png", ("no", "yes")[n % 2], f"p{n}", ("no", "yes")[n // 2 % 2]) for n in range(8)]
    raw = read_source(table, {"data.positive": "yes"}, header="file,label,who,smoker")
    assert len(raw.labels) == 8
