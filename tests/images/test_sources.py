import http.server
import json
import os
import shlex
import ssl
import threading
from pathlib import Path

from core.images import sources
from core.pipeline import files, yaml12
from core.pipeline.errors import PipelineError

import pytest
import trustme

from conftest import TOP, image, put

LABELS = {"data.labels": "labels.csv"}


@pytest.fixture
def read_source(make_params, tmp_path, monkeypatch):
    """A function that reads a folder (or another source) with changed parameters: all of it, and {file: label}."""
    monkeypatch.chdir(tmp_path)

    def run(folder: Path | str, changes=None, kind="folder"):
        cfg = make_params({"data.source": kind, "data.location": str(folder)} | (changes or {}))
        with sources.open_source(cfg.data, cfg.seed, tmp_path) as raw:
            return raw, dict(zip(raw.labels["file"], raw.labels["label"], strict=True))

    return run


@pytest.fixture
def two(tmp_path):
    """Two classes of two images, and a table that says the same."""
    table = "file,label,who\na.png,0,x\nb.png,0,x\nc.png,1,y\nd.png,1,z\n"
    images = {f"{label}/{name}.png": image(ord(name)) for label, name in ("0a", "0b", "1c", "1d")}
    return put(tmp_path / "two", {**images, "labels.csv": table})


def test_class_folders_are_labels(read_source, two):
    raw, labels = read_source(two)
    assert labels == {"0/a.png": 0, "0/b.png": 0, "1/c.png": 1, "1/d.png": 1}
    assert raw.content("1/c.png") == image(ord("c"))
    assert raw.provenance["images"] == 4 and raw.provenance["positives"] == 2 and raw.provenance["patients"] is None
    assert raw.labels["patient"].isna().all()


def test_a_class_may_have_any_name(read_source, two):
    (two / "0").rename(two / "benign")
    (two / "1").rename(two / "malignant")
    assert sum(read_source(two, {"data.positive": "malignant"})[1].values()) == 2


def test_labels_and_patients_come_from_columns(read_source, two):
    raw, labels = read_source(two, LABELS | {"data.patient": "who"})
    assert list(labels.values()) == [0, 0, 1, 1] and list(raw.labels["patient"]) == ["x", "x", "y", "z"]
    assert raw.provenance["patients"] == 3


def test_a_table_with_bom_crlf_and_spaces_is_read(read_source, two):
    (two / "labels.csv").write_bytes(b"\xef\xbb\xbffile, label\r\na.png, 0\r\nb.png,0 \r\nc.png,1\r\nd.png,1\r\n")
    assert list(read_source(two, LABELS)[1].values()) == [0, 0, 1, 1]


def test_a_pattern_is_searched_in_the_name_or_with_a_slash_in_the_path(read_source, tmp_path):
    folder = put(tmp_path / "s", {f"0/{p}_1.png": image(1) for p in "ab"} | {"1/c_1.png": image(2)})
    assert list(read_source(folder, {"data.patient": "^(?P<patient>[a-z])_"})[0].labels["patient"]) == ["a", "b", "c"]
    assert list(read_source(folder, {"data.patient": "^(?P<patient>[01])/"})[0].labels["patient"]) == ["0", "0", "1"]


def test_the_idc_set_as_kaggle_unpacks_it_is_read_once(read_source, tmp_path):
    """Layout of paultimothymooney/breast-histopathology-images: each image twice, once below a second folder."""
    names = ["10253/0/10253_idx5_x1351_y1101_class0.png", "10253/1/10253_idx5_x501_y351_class1.png",
             "8863/0/8863_idx5_x1_y51_class0.png"]  # fmt: skip
    twice = {f"{top}{name}": image(7) for name in names for top in ("", "IDC_regular_ps50_idx5/")}
    folder = put(tmp_path / "idc", twice)
    raw, labels = read_source(folder, {"data.subdir": "IDC_regular_ps50_idx5", "data.patient": "^(?P<patient>[0-9]+)_"})
    assert labels == dict(zip(names, [0, 1, 0], strict=True))
    assert list(raw.labels["patient"]) == ["10253", "10253", "8863"]


def test_patient_lists_give_a_part_to_all_images_of_a_patient(read_source, two, tmp_path):
    put(tmp_path, {"train.txt": "x\n", "val.txt": " y \n", "test.txt": "z\n"})
    lists = {f"data.lists.{part}": f"{part}.txt" for part in ("train", "val", "test")}
    raw, _ = read_source(two, LABELS | {"data.patient": "who"} | lists)
    assert dict(zip(raw.listed["file"], raw.listed["split"], strict=True)) == {
        "0/a.png": "train", "0/b.png": "train", "1/c.png": "val", "1/d.png": "test"}  # fmt: skip


@pytest.fixture
def joined(tmp_path):
    """Images whose class is their folder, and a table elsewhere that makes their names and patients of two columns."""
    images = {f"two/{name}.png": image(ord(name[-1])) for name in ("0/N_1", "0/S_1", "1/N_2", "1/S_3")}
    rows = "site,number,slide\nN,1,7\nN,2,7\nS,1,7\nS,3,unknown\n"
    put(tmp_path, {**images, "slides.csv": rows})
    return {
        "data.labels": "slides.csv", "data.label_column": None, "data.file_column": "{site}_{number}.png",
        "data.patient": "{site} {slide}",
    }  # fmt: skip


def test_a_table_of_other_keys_gives_names_and_patients_and_the_folder_gives_the_class(read_source, joined, tmp_path):
    raw, labels = read_source(tmp_path / "two", joined | {"data.on_bad_image": "drop"})
    assert labels == {"0/N_1.png": 0, "0/S_1.png": 0, "1/N_2.png": 1}
    assert list(raw.labels["patient"]) == ["N 7", "S 7", "N 7"]  # that of 1/S_3.png is missing, not "S unknown"


def test_test_images_can_be_the_rest_of_a_list_whose_names_are_made_of_columns(read_source, joined, tmp_path):
    put(tmp_path, {"train.csv": "number,site\n1,N\n2,N\n"})
    lists = {"data.lists.train": "train.csv", "data.lists.test": "rest", "data.patient": "site"}
    listed = read_source(tmp_path / "two", joined | lists)[0].listed
    assert dict(zip(listed["file"], listed["split"], strict=True)) == {
        "0/N_1.png": "train", "1/N_2.png": "train", "0/S_1.png": "test", "1/S_3.png": "test"}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"two: 1 images without a patient \(data.patient: {site} {slide}, a column of slides.csv\): 1/S_3.png"),
        ({"data.labels": "no.csv"}, "data.labels: no.csv is neither in the source nor at .*no.csv"),
        ({"data.file_column": "{site}_{id}.png"}, r"slides.csv has no column 'id' \(data.file_column: {site}_{id}"),
        ({"data.patient": r"(\d{3})"}, r"slides.csv has no column '3' .*A pattern needs a group \(\?P<patient>"),
        ({"data.breast": r"_(L|R)_"}, r"has no column .*\(data.breast\).*A pattern needs a group \(\?P<breast>"),
        ({"data.file_column": "{number}_{site}.png"}, "4 labels without an image: 1_N.png"),
        ({"data.patient": "site", "data.lists.train": "empty.txt", "data.lists.test": "rest"},
         "data.lists.train: no image of empty.txt is in the source"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_of_other_keys_is_one_line(read_source, joined, tmp_path, changes, message):
    put(tmp_path, {"empty.txt": ""})
    with pytest.raises(PipelineError, match=message):
        read_source(tmp_path / "two", joined | changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels.csv": "file,label\na.png,0\nb.png,0\nc.png,1\n"}, "1 images without a label: 1/d.png"),
        ({"labels.csv": "file,label\na.png,0\nb.png,\nc.png,1\nd.png,1\n"}, "1 images without a label: 0/b.png"),
        ({"labels.csv": "file,label\na.png,0\nb.png,0\nc.png,1\nd.png,1\ne.png,1\n"}, "labels without an image: e.png"),
        ({"labels.csv": "file,label\na.png,0\nb.png,0\nc.png,1\nd.png,1\nd.png,0\n"}, "1 images: 1/d.png .'1' / '0'"),
    ],
)  # fmt: skip
def test_images_and_labels_that_do_not_fit_are_named_and_dropped_only_when_asked(read_source, two, change, message):
    put(two, change | {"0/q.png": image(1), "1/r.png": image(1)})
    table = (two / "labels.csv").read_text() + "q.png,0\nr.png,1\n"
    (two / "labels.csv").write_text(table)
    with pytest.raises(PipelineError, match=message) as caught:
        read_source(two, LABELS)
    assert "data.on_bad_image: drop" in str(caught.value)
    raw, labels = read_source(two, LABELS | {"data.on_bad_image": "drop"})
    assert (
        len(labels) in (5, 6) and raw.provenance["labels_without_image"] + sum(raw.provenance["left_out"].values()) == 1
    )


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        ("name,label\na.png,0\n", {}, r"labels.csv has no column 'file' \(data.file_column\); it has 'name', 'label'"),
        ("file,label\na.png,0\nb.png,0\nc.png,1\nd.png,2\n", {}, "must contain two classes"),
        ("file,label\na.png,0\nb.png,0\nc.png,0\nd.png,0\n", {}, r"found '0' \(4 images\)"),
        ("file,label\na.png,0\nb.png,0\nc.png,1\nd.png,1\n", {"data.positive": "yes"}, "data.positive = 'yes'"),
        ("file,label\na.png,0\nb.png,0\nc.png,1\nd.png,1\n", {"data.patient": "who"}, "no column 'who'"),
        (b"\xff\xfe\x00", {}, "is not UTF-16: line 1"),
        ("", {}, "can't be read as a CSV"),
    ],
)
def test_a_wrong_table_is_explained(read_source, two, table, changes, message):
    put(two, {"labels.csv": table})
    with pytest.raises(PipelineError, match=message):
        read_source(two, LABELS | changes)


def test_three_class_folders_are_named(read_source, two):
    put(two, {"2/e.png": image(9)})
    with pytest.raises(PipelineError, match=r"two classes, one of them data.positive = '1'; found .*'2' \(1 image\)"):
        read_source(two)


def test_a_folder_of_several_classes_says_how_to_name_the_negative_ones(read_source, two):
    put(two, {"2/e.png": image(9)})
    with pytest.raises(PipelineError, match=r"name those that are negative in data.negative: one, a list, or rest"):
        read_source(two)


@pytest.mark.parametrize(
    ("positive", "negative", "expected", "left_out"),
    [
        ("1", "rest", [0, 0, 1, 1, 0], {}),
        ("1", "0", [0, 0, 1, 1], {"2": 1}),
        (["1", "2"], None, [0, 0, 1, 1, 1], {}),
        (["2"], ["1", "0"], [0, 0, 0, 0, 1], {}),
        (2, [1], [0, 0, 1], {"0": 2}),
    ],
)
def test_classes_can_be_joined_and_those_on_neither_list_are_left_out_and_counted(
    read_source, two, positive, negative, expected, left_out
):
    put(two, {"2/e.png": image(9)})
    raw, labels = read_source(two, {"data.positive": positive, "data.negative": negative})
    assert list(labels.values()) == expected
    assert raw.provenance["left_out"] == {f"class not used ({name})": count for name, count in left_out.items()}
    assert [file[0] for file in labels] == list(raw.labels["class"])


def test_a_class_left_out_needs_no_patient(read_source, two):
    put(two, {"normal/nobody.png": image(9)})
    raw, labels = read_source(two, {"data.negative": "0", "data.patient": "^(?P<patient>[abcd])"})
    assert len(labels) == 4 and raw.provenance["left_out"] == {"class not used (normal)": 1}


@pytest.mark.parametrize(
    ("positive", "negative", "says"),
    [
        ("1", ["0", "3"], r"must contain each class that data.positive = '1' and data.negative = \['0', '3'\] name"),
        (["1", "x"], "0", r"found '0' \(2 images\), '1' \(2 images\)"),
        ("A", "rest", "data.positive = 'A'"),
    ],
)
def test_a_class_without_an_image_is_named(read_source, two, positive, negative, says):
    with pytest.raises(PipelineError, match=says):
        read_source(two, {"data.positive": positive, "data.negative": negative})


BREAKHIS = {  # the folders of the set, without SOB_B_ or SOB_M_ before them
    "benign/SOB/adenosis/A": "14-22549AB 14-22549CD 14-22549G 14-29960CD",
    "benign/SOB/fibroadenoma/F": "14-14134 14-21998EF 14-23222AB 14-9133 14-14134E 14-23060AB 14-25197 14-21998CD "
    "14-23060CD 14-29960AB",
    "benign/SOB/phyllodes_tumor/PT": "14-21998AB 14-22704 14-29315EF",
    "benign/SOB/tubular_adenoma/TA": "14-13200 14-16184 14-19854C 14-3411F 14-15275 14-16184CD 14-21978AB",
    "malignant/SOB/ductal_carcinoma/DC": "14-10926 14-15572 14-17901 14-4364 14-11031 14-15696 14-17915 14-4372 "
    "14-11520 14-15792 14-18650 14-5287 14-11951 14-16188 14-20629 14-5694 14-12312 14-16336 14-20636 14-5695 14-13412 "
    "14-16448 14-2523 14-6241 14-13993 14-16601 14-2773 14-8168 14-14015 14-16716 14-2980 14-9461 14-14926 14-16875 "
    "14-2985 14-14946 14-17614 14-3909",
    "malignant/SOB/lobular_carcinoma/LC": "14-12204 14-15570 14-16196 14-13412 14-15570C",
    "malignant/SOB/mucinous_carcinoma/MC": "14-10147 14-13418DE 14-18842D 14-12773 14-16456 14-19979 14-13413 14-18842 "
    "14-19979C",
    "malignant/SOB/papillary_carcinoma/PC": "14-12465 14-15704 14-9146 14-15687B 14-19440 15-190EF",
}


def test_breakhis_as_kaggle_unpacks_it_is_read_by_its_recipe(read_source, tmp_path):
    words = shlex.split((TOP / "recipes/breakhis.txt").read_text())[1::2]
    recipe = {key: yaml12.load(value) for key, value in (word.split("=", 1) for word in words)}
    top = "BreaKHis_v1/BreaKHis_v1/histology_slides/breast"
    names = [
        f"{top}/{kind.rpartition('/')[0]}/SOB_{kind[0].upper()}_{kind.rpartition('/')[2]}_{patient}/{zoom}X/"
        f"SOB_{kind[0].upper()}_{kind.rpartition('/')[2]}-{patient}-{zoom}-001.png"
        for kind, patients in BREAKHIS.items()
        for patient in patients.split()
        for zoom in (40, 400)
    ]
    folder = put(tmp_path / "breakhis", dict.fromkeys(names, image(7)) | {"Folds.csv": "fold,filename\n"})
    recipe |= {"data.source": "folder", "data.location": str(folder)}
    raw, labels = read_source(folder, recipe)
    assert len(names) == 164 and raw.provenance["patients"] == 81  # the 82 folders of the literature, one number twice
    assert all(label == ("/malignant/" in file) for file, label in labels.items())
    names = raw.labels["file"].str.rpartition("/")[2]
    patient_of = dict(zip(names, raw.labels["patient"], strict=True))
    assert patient_of["SOB_M_DC-14-17614-400-001.png"] == "14-17614"
    assert patient_of["SOB_B_A-14-22549CD-400-001.png"] == "14-22549CD"
    subtypes = {"data.labels": r"/400X/SOB_[BM]_(?P<label>[A-Z]+)-", "data.on_bad_image": "drop"}
    assert len(read_source(folder, recipe | subtypes)[1]) == 82
    numbers = {"data.patient": "-(?P<patient>[0-9]+-[0-9]+)[A-Z]*-"}
    assert read_source(folder, recipe | numbers)[0].provenance["patients"] == 70


def test_a_name_that_fits_two_images_is_refused(read_source, tmp_path):
    folder = put(tmp_path / "s", {"x/a.png": image(1), "y/a.png": image(2), "labels.csv": "file,label\na.png,0\n"})
    with pytest.raises(PipelineError, match=r"a\.png matches 2 images: x/a\.png, y/a\.png"):
        read_source(folder, LABELS)


def test_a_file_without_a_patient_is_named(read_source, two):
    with pytest.raises(PipelineError, match="2 images without a patient .*: 1/c.png, 1/d.png"):
        read_source(two, {"data.patient": "^(?P<patient>[ab])"})


def test_an_image_in_two_lists_is_refused(read_source, two, tmp_path):
    put(tmp_path, {"1.txt": "a.png\nc.png", "2.txt": "b.png", "3.txt": "c.png"})
    with pytest.raises(PipelineError, match=r"1 images are in two lists: 1/c\.png"):
        read_source(two, {"data.lists.train": "1.txt", "data.lists.val": "2.txt", "data.lists.test": "3.txt"})


def test_a_list_that_names_strangers_is_refused(read_source, two, tmp_path):
    put(tmp_path, {"1.txt": "a.png\nnobody", "2.txt": "b.png", "3.txt": "c.png"})
    with pytest.raises(
        PipelineError, match=r"data.lists.train: 1 of 2 entries of 1.txt are neither an image nor a patient"
    ):
        read_source(two, {"data.lists.train": "1.txt", "data.lists.val": "2.txt", "data.lists.test": "3.txt"})


def test_a_link_that_leads_out_of_the_folder_is_not_followed(read_source, two, tmp_path):
    put(tmp_path, {"secret.png": image(3)})
    (two / "0" / "e.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(PipelineError, match="e.png is a link out of the source"):
        read_source(two)


def test_a_missing_folder_archive_or_part_of_it_is_named(read_source, two, tmp_path):
    with pytest.raises(PipelineError, match="there is no folder .*nowhere"):
        read_source("nowhere")
    with pytest.raises(PipelineError, match="there is no archive .*nowhere.zip"):
        read_source("nowhere.zip", kind="archive")
    with pytest.raises(PipelineError, match="there is no folder 'deeper'"):
        read_source(two, {"data.subdir": "deeper"})
    with pytest.raises(PipelineError, match=r"data.labels: other\.csv is neither in the source nor at"):
        read_source(two, {"data.labels": "other.csv"})
    with pytest.raises(PipelineError, match="contains no image"):
        read_source(put(tmp_path / "none", {"a.txt": "x"}))


def test_an_archive_with_another_hash_is_refused(read_source, two, tmp_path):
    import shutil

    archive = Path(shutil.make_archive(str(tmp_path / "a"), "zip", two))
    assert read_source(archive, {"data.sha256": files.sha256(archive)}, "archive")[0].provenance["images"] == 4
    with pytest.raises(PipelineError, match="but data.sha256 is 0000"):
        read_source(archive, {"data.sha256": "0" * 64}, "archive")
    assert not list(tmp_path.glob("data/.download*"))


@pytest.fixture
def server(tmp_path, monkeypatch, two):
    """An https server on loopback with an archive, and a redirection to plain http."""
    import shutil

    shutil.make_archive(str(tmp_path / "web" / "a"), "zip", two)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "web"))

        def do_GET(self):
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1/a.zip")
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *arguments):
            pass

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    served = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    served.socket = context.wrap_socket(served.socket, server_side=True)
    threading.Thread(target=served.serve_forever, args=[0.01], daemon=True).start()  # seconds until shutdown is seen
    yield f"https://localhost:{served.server_port}"
    served.shutdown()


def test_an_archive_comes_over_https_and_its_address_is_kept_without_the_query(read_source, server, tmp_path):
    sha256 = {"data.sha256": files.sha256(tmp_path / "web" / "a.zip")}
    raw, _ = read_source(f"{server}/a.zip?download=1", sha256, "archive")
    assert raw.provenance["images"] == 4
    assert raw.provenance["location"].endswith("/a.zip") and "download" not in json.dumps(raw.provenance)


def test_a_redirection_to_http_is_refused(read_source, server):
    with pytest.raises(PipelineError, match="redirects to http://127.0.0.1/a.zip, which is not https"):
        read_source(f"{server}/moved", {"data.sha256": "0" * 64}, "archive")


def test_more_than_was_to_be_expected_is_not_fetched(read_source, server, monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "MAX_DOWNLOAD", 100)
    with pytest.raises(PipelineError, match="a.zip is larger than the free disk space, or than"):
        read_source(f"{server}/a.zip", {"data.sha256": "0" * 64}, "archive")
    assert not list(tmp_path.glob("data/.download*"))


def test_a_server_that_says_no_is_one_line(read_source, server):
    with pytest.raises(PipelineError, match="can't be downloaded: HTTP Error 404") as caught:
        read_source(f"{server}/none.zip", {"data.sha256": "0" * 64}, "archive")
    assert "\n" not in str(caught.value)


def test_kaggle_without_network_is_one_line_that_names_the_way_out(read_source, monkeypatch, tmp_path):
    import kagglehub
    import requests

    def unreachable(handle):
        raise requests.exceptions.ConnectionError("Failed to resolve\n'www.kaggle.com'")

    monkeypatch.setattr(kagglehub, "dataset_download", unreachable)
    with pytest.raises(PipelineError, match=r"owner/name can't be downloaded .*data\.source: archive") as caught:
        read_source("owner/name", kind="kaggle")
    assert "\n" not in str(caught.value)


def test_a_kaggle_set_is_read_as_the_folder_that_kagglehub_gives(read_source, monkeypatch, two):
    import kagglehub

    versions = two.parent / "versions"
    versions.mkdir()
    two.rename(versions / "3")
    monkeypatch.setattr(kagglehub, "dataset_download", {"owner/name": str(versions / "3")}.get)
    raw, labels = read_source("owner/name", kind="kaggle")
    assert len(labels) == 4 and raw.provenance["version"] == "3"


def test_the_topmost_table_of_that_name_is_the_one_meant(read_source, two):
    put(two, {"old/labels.csv": "file,label\n"})
    assert sum(read_source(two, LABELS)[1].values()) == 2


def test_a_comma_at_the_end_of_each_row_is_said_and_shifts_no_column(read_source, two):
    put(two, {"labels.csv": "file,label\na.png,0,\nb.png,0,\nc.png,1,\nd.png,1,\n"})
    with pytest.raises(PipelineError, match="line 2, has 3 cells, but the header 2"):
        read_source(two, LABELS)


def test_a_link_to_nothing_and_a_name_that_is_not_utf_8_are_named(read_source, two):
    (two / "0" / "x.png").symlink_to("gone.png")
    with pytest.raises(PipelineError, match="x.png is not a regular file"):
        read_source(two)
    (two / "0" / "x.png").unlink()
    Path(os.fsdecode(os.fsencode(two / "0") + b"/\xff.png")).write_bytes(image(1))
    with pytest.raises(PipelineError, match="whose name is not printable"):
        read_source(two)


def test_a_list_that_is_not_utf_8_is_named(read_source, two, tmp_path):
    put(tmp_path, {"1.txt": b"caf\xe9", "2.txt": "b.png", "3.txt": "c.png"})
    with pytest.raises(PipelineError, match="1.txt is not UTF-8"):
        read_source(two, {"data.lists.train": "1.txt", "data.lists.val": "2.txt", "data.lists.test": "3.txt"})


@pytest.mark.parametrize("address", ["https://host:abc/x.zip", "https://exa mple.org/x", "https://[bad/x"])
def test_an_address_that_is_none_is_one_line(read_source, address):
    with pytest.raises(PipelineError):
        read_source(address, {"data.sha256": "0" * 64}, "archive")
