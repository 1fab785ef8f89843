from core.audit import copies, messages, quality
from core.pipeline import queries, tables

import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image


def index(rows):
    """An index of (file, label, patient, pixels)."""
    table = pd.DataFrame(rows, columns=["file", "label", "patient", "pixels_sha256"])
    table = table.assign(row=range(len(table)), width=64, height=64, mode="L", **{"class": table["label"].astype(str)})
    return table.astype({"file": "string", "patient": "string"})


SET = index(
    [
        ("a", 1, "p", "x"),
        ("b", 1, "q", "x"),
        ("c", 0, "q", "y"),
        ("d", 0, "r", "z"),
        ("e", 1, "r", "z"),
        ("f", 0, "s", "z"),
    ]
)
NONE = pd.DataFrame(columns=copies.PAIRS)
random = np.random.RandomState(0)
GREY = random.randint(90, 110, (6, 64, 64)).astype(np.uint8)


def near(*pairs):
    return pd.DataFrame([(first, second, 6, correlation) for first, second, correlation in pairs], columns=NONE.columns)


def audited(images, pairs=NONE, grey=GREY, unreadable=()):
    clusters = quality.cluster(images, pairs)
    conflicts = quality.conflicts(images, clusters)
    levels = copies.levels(grey[: len(images)])
    with queries.open_database(None) as database:
        database.add("images", images)
        database.add("clusters", clusters)
        database.add("labelled", pd.DataFrame({"file": [*images["file"], *unreadable]}))
        database.add("properties", pd.DataFrame({"row": images["row"]}))
        findings = quality.find(database, images, clusters, conflicts, levels)
        return clusters, findings, quality.summarise(database, images, clusters, pairs, conflicts, findings)


def search(images, grey):
    """The near copies, after hashing as stages/prepare.py does."""
    images = images.assign(phash=[str(imagehash.phash(Image.fromarray(image))) for image in grey])
    with queries.open_database(None) as database:
        database.add("images", images)
        return quality.find_copies(database, grey, copies.levels(grey)[1])[1]


def test_images_of_equal_pixels_are_one_cluster():
    clusters = quality.cluster(SET, NONE)
    assert list(clusters.columns) == tables.CLUSTERS
    assert list(zip(clusters["file"], clusters["cluster"], strict=True)) == [
        ("a", 0),
        ("b", 0),
        ("d", 1),
        ("e", 1),
        ("f", 1),
    ]
    assert (
        set(clusters["kind"]) == {"exact"}
        and set(clusters["distance"]) == {0}
        and set(clusters["correlation"]) == {1.0}
    )


def test_near_copies_take_their_exact_copies_along_and_say_how_near():
    clusters = quality.cluster(SET, near(("a", "c", 0.97)))
    rows = clusters[clusters["kind"] == "near"]
    assert list(rows["file"]) == ["a", "b", "c"] and set(rows["cluster"]) == {2}
    assert set(rows["distance"]) == {6} and set(rows["correlation"]) == {0.97}
    assert list(clusters.loc[clusters["kind"] == "exact", "file"]) == ["a", "b", "d", "e", "f"]


def test_near_copies_of_near_copies_are_one_cluster_with_the_closest_pair_of_each():
    images = index([(name, 0, None, name) for name in "abcdef"])
    clusters = quality.cluster(images, near(("a", "b", 0.99), ("b", "c", 0.97), ("d", "e", 0.98)))
    assert dict(zip(clusters["file"], clusters["cluster"], strict=True)) == {"a": 0, "b": 0, "c": 0, "d": 1, "e": 1}
    assert list(clusters["correlation"]) == [0.99, 0.99, 0.97, 0.98, 0.98]


def test_a_set_without_any_copy_has_no_cluster():
    grey = random.randint(0, 255, (6, 64, 64)).astype(np.uint8)
    with queries.open_database(None) as database:
        images = index([(f"i{n}", n % 2, f"p{n}", f"pixels{n}") for n in range(6)]).assign(phash="0" * 16)
        database.add("images", images)
        alike, pairs, _ = quality.find_copies(database, grey, copies.levels(grey)[1])
    assert quality.cluster(alike, pairs).empty


def test_the_figures_equal_a_count_by_hand():
    _, _, figures = audited(SET, near(("a", "c", 0.97)), unreadable=["g", "h"])
    assert figures == {
        "synthetic": False, "images": 6, "distinct_images": 3, "redundant_copies": 3, "exact_clusters": 2,
        "copied_images": 5, "near_pairs": 1, "near_clusters": 1, "positives": 3, "distinct_positives": 2,
        "patients": 4, "positive_patients": 3,
        "positive_components": 2,  # p and q share a, r and s share d
        "images_per_patient": {"min": 1.0, "median": 1.5, "max": 2.0}, "patients_sharing_images": 4,
        "label_conflicts": 2, "unreadable": 2, "blank": 0, "near_blank": 0,
        "outliers": {"size": 0, "mode": 0, "brightness": 0},
    }  # fmt: skip


def test_copies_with_different_labels_are_a_conflict_once():
    clusters = quality.cluster(SET, near(("c", "d", 0.99)))
    # Of the near ones c agrees with d, and e was counted already.
    assert quality.conflicts(SET, clusters) == {"exact": [["d", "e", "f"]], "near": []}
    clusters, findings, figures = audited(SET)
    details = findings[findings["finding"] == "conflict"].set_index("file")["detail"]
    assert dict(details) == {
        "d": "class 0, not so its exact copies e",
        "e": "class 1, not so its exact copies d and 1 more",
        "f": "class 0, not so its exact copies e",
    }
    text = messages.summary(figures, findings, tables.FEW_PATIENTS, copies.MIN_STD)
    assert "3 images whose copies have a different class" in text and "d, e, f" in text and "split.duplicates" in text


def test_classes_of_one_side_that_share_a_copy_are_a_conflict_too():
    """Of three classes, benign and normal are negative: four copies mix classes, one of them on the same side."""
    rows = [
        (f"{kind}{n}", int(kind == "malignant"), f"{kind}{n}", f"{kind}{n}")
        for kind in ("benign", "malignant", "normal")
        for n in range(4)
    ]
    images = index(rows)
    images["class"] = images["file"].str.rstrip("0123")
    images.loc[images["file"].isin(["benign0", "malignant0"]), "pixels_sha256"] = "x"
    images.loc[images["file"].isin(["benign1", "normal1"]), "pixels_sha256"] = "y"
    grey = random.randint(90, 110, (12, 64, 64)).astype(np.uint8)
    _, findings, figures = audited(images, near(("malignant2", "normal2", 0.99), ("benign3", "normal3", 0.99)), grey)
    assert figures["label_conflicts"] == 4
    files = set(findings.loc[findings["finding"] == "conflict", "file"])
    assert files == {"benign0", "malignant0", "benign1", "normal1", "malignant2", "normal2", "benign3", "normal3"}


def test_the_class_of_a_copy_is_read_from_the_labels():
    labels = pd.DataFrame({"file": ["z", *"fedcba"], "class": ["no", *"FEDCBA"]})
    with queries.open_database(None) as database:
        database.add("labelled", labels)
        assert list(quality.with_classes(database, SET.drop(columns="class"))["class"]) == list("ABCDEF")


def test_copies_under_two_patients_are_found():
    _, findings, _ = audited(SET)
    details = findings[findings["finding"] == "two-patients"].set_index("file")["detail"]
    assert dict(details) == {
        "a": "patient p, its copies are of q", "b": "patient q, its copies are of p",
        "d": "patient r, its copies are of s", "e": "patient r, its copies are of s",
        "f": "patient s, its copies are of r",
    }  # fmt: skip


def test_images_of_another_modality_or_intent_and_pixels_that_are_not_square_are_named():
    images = index([(f"i{n:02d}", n % 2, f"p{n}", str(n)) for n in range(20)])
    images["mode"] = (
        ["MONOCHROME2 12 MG presentation"] * 11 + ["MONOCHROME2 14 MG processing"] * 6 + ["RGB 8 US"] * 2 + ["L"]
    )
    images.loc[4, "mode"] += " oblong annotated"
    grey = random.randint(90, 110, (20, 64, 64)).astype(np.uint8)
    _, findings, _ = audited(images, grey=grey)
    assert [tuple(row) for row in findings[findings["finding"] != "mode"].to_numpy()] == [
        ("i04", "annotated", ""),
        *((f"i{n}", "intent", "processing, most are presentation") for n in range(11, 17)),
        *((f"i{n}", "modality", "US, most are MG") for n in (17, 18)),
        ("i04", "oblong", ""),
    ]


def test_blank_faint_dark_and_odd_images_are_named_and_ordinary_ones_are_not():
    images = index([(f"i{n:02d}", n % 2, f"p{n}", str(n)) for n in range(40)])
    grey = random.randint(90, 110, (40, 64, 64)).astype(np.uint8)
    grey += np.arange(40, dtype=np.uint8)[:, None, None] % 5
    grey[3], grey[7] = 100, 100
    grey[7, 0, 0] = 103
    grey[11] -= 80
    images.loc[13, "mode"] = "RGBA"
    images.loc[15, "mode"] = "L annotated"  # the mode itself is usual
    images.loc[17, ["width", "height"]] = [129, 64]
    images.loc[18, ["width", "height"]] = [128, 32]  # just twice as wide, half as high: still ordinary
    _, findings, figures = audited(images, grey=grey)
    assert [tuple(row) for row in findings[["file", "finding"]].to_numpy()] == [
        ("i15", "annotated"), ("i03", "blank"), ("i11", "brightness"), ("i13", "mode"), ("i07", "near-blank"),
        ("i17", "size"),
    ]  # fmt: skip
    detail = findings.set_index("file")["detail"]
    assert detail["i03"] == "all grey level 100" and detail["i17"] == "129 x 64, median 64 x 64"
    assert figures["blank"] == figures["near_blank"] == 1
    assert figures["outliers"] == {"size": 1, "mode": 1, "brightness": 1}
    text = messages.summary(figures, findings, tables.FEW_PATIENTS, copies.MIN_STD)
    assert all(words in text for words in ("1 image with only one grey level", "i17", "i11", "i13"))


def test_unreadable_images_are_named():
    _, findings, figures = audited(SET, unreadable=["gone"])
    assert figures["unreadable"] == 1 and "gone" in set(findings["file"])
    assert "data.on_bad_image: drop" in messages.summary(figures, findings, tables.FEW_PATIENTS, copies.MIN_STD)


@pytest.mark.parametrize(("positive", "words"), [(2, "one will have no positive image"), (5, "split.folds"), (12, "")])
def test_too_few_positive_patients_are_said(positive, words):
    images = index([(f"f{n}", int(n < positive), f"p{n}", str(n)) for n in range(40)])
    _, findings, figures = audited(images, grey=random.randint(0, 255, (40, 64, 64)).astype(np.uint8))
    text = messages.summary(figures, findings, tables.FEW_PATIENTS, copies.MIN_STD)
    assert words in text and ("positive patients" in text) == (positive < 10)


def test_unknown_patients_are_null_and_not_none_at_all():
    unknown = SET.assign(patient=pd.array([None] * 6, dtype="string"))
    _, findings, figures = audited(unknown)
    for name in ("patients", "positive_patients", "patients_sharing_images"):
        assert figures[name] is None
    assert figures["images_per_patient"] == {"min": None, "median": None, "max": None}
    assert figures["positive_components"] == 2
    assert "data.patient" in messages.summary(figures, findings, tables.FEW_PATIENTS, copies.MIN_STD)


def test_a_set_without_copies_has_no_clusters():
    clusters, _, figures = audited(SET[:1])
    assert clusters.empty and figures["exact_clusters"] == 0 and figures["near_pairs"] == 0


def test_near_copies_are_sought_among_distinct_images_alone_and_named_by_file():
    grey = np.stack([GREY[0], GREY[0], GREY[0][:, ::-1], GREY[1], GREY[2], GREY[3]]) * 2
    images = SET.assign(pixels_sha256=["x", "x", "y", "z", "u", "v"])
    pairs = search(images, grey)
    assert [tuple(pair) for pair in pairs[["first", "second"]].to_numpy()] == [("a", "c")]


@pytest.mark.parametrize("grey", [np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((64, 64), np.uint8), GREY])
def test_a_set_of_blank_or_of_unlike_images_has_no_near_copies(grey):
    images = SET.assign(pixels_sha256=list("abcdef"))
    near = search(images, grey)
    assert near.empty and quality.cluster(images, near).empty
    audited(images, near, grey)


@pytest.mark.parametrize("empty", [True, False])
def test_clusters_read_back_as_they_were_written(tmp_path, empty):
    clusters = quality.cluster(SET[: 1 if empty else 6], NONE if empty else near(("a", "c", 0.97)))
    tables.write(clusters, tmp_path / "c.csv", tables.CLUSTERS)
    back = tables.read(tmp_path / "c.csv", tables.CLUSTERS)
    assert (
        back["cluster"].tolist() == clusters["cluster"].tolist() and back["file"].tolist() == clusters["file"].tolist()
    )


def test_every_conflict_is_on_its_sheet_and_a_set_without_any_says_so(tmp_path):
    images, thumbnails = SET, np.repeat(GREY[..., None], 3, axis=3)
    for pairs, rows in ((near(("a", "c", 0.97)), 2), (NONE, 1)):
        clusters = quality.cluster(images, pairs)
        conflicts = quality.conflicts(images, clusters)
        quality.draw(images, clusters, conflicts, near(("a", "d", 0.5)), thumbnails, False, str(tmp_path))
        height = Image.open(tmp_path / "conflicts.png").height
        quality.draw(SET[:1], quality.cluster(SET[:1], NONE), {}, NONE, thumbnails, False, str(tmp_path))
        empty = Image.open(tmp_path / "conflicts.png").height
        assert (height - empty) / (128 + 20 + 2 * 16 + 8) == rows  # captions of two lines
