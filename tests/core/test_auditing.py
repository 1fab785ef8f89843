import pandas as pd
import pytest

from core import auditing, tables


def index(rows):
    """An index of (file, label, patient, pixels)."""
    table = pd.DataFrame(rows, columns=["file", "label", "patient", "pixels_sha256"])
    return table.assign(row=range(len(table))).astype({"file": "string", "patient": "string"})


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


def test_images_of_equal_pixels_are_one_cluster():
    found = auditing.find_copies(SET)
    assert list(found.columns) == tables.CLUSTERS
    assert list(zip(found["file"], found["cluster"], strict=True)) == [("a", 0), ("b", 0), ("d", 1), ("e", 1), ("f", 1)]
    assert set(found["kind"]) == {"exact"} and set(found["distance"]) == {0} and set(found["correlation"]) == {1.0}


def test_the_figures_equal_a_count_by_hand():
    figures = auditing.summarise(SET, auditing.find_copies(SET), unreadable=2)
    assert figures == {
        "synthetic": False, "images": 6, "distinct_images": 3, "redundant_copies": 3, "exact_clusters": 2,
        "copied_images": 5, "near_pairs": None, "positives": 3, "distinct_positives": 2, "patients": 4,
        "positive_patients": 3, "label_conflicts": 1, "unreadable": 2,
    }  # fmt: skip


def test_copies_with_different_labels_are_a_conflict():
    clusters = auditing.find_copies(SET)
    assert auditing.conflicts(SET, clusters) == [["d", "e", "f"]]
    text = auditing.explain(auditing.summarise(SET, clusters, 0), auditing.conflicts(SET, clusters))
    assert "d, e, f" in text and "split.duplicates" in text and "So few positive patients" in text


def test_unknown_patients_are_null_and_not_none_at_all():
    unknown = SET.assign(patient=pd.array([None] * 6, dtype="string"))
    figures = auditing.summarise(unknown, auditing.find_copies(unknown), 0)
    assert figures["patients"] is None and figures["positive_patients"] is None
    assert "data.patient" in auditing.explain(figures, [])


def test_a_set_without_copies_has_no_clusters():
    found = auditing.find_copies(SET[:1])
    assert found.empty and auditing.summarise(SET[:1], found, 0)["exact_clusters"] == 0


@pytest.mark.parametrize("empty", [True, False])
def test_clusters_read_back_as_they_were_written(tmp_path, empty):
    found = auditing.find_copies(SET[: 1 if empty else 6])
    tables.write(found, tmp_path / "c.csv", tables.CLUSTERS)
    back = tables.read(tmp_path / "c.csv", tables.CLUSTERS)
    assert back["cluster"].tolist() == found["cluster"].tolist() and back["file"].tolist() == found["file"].tolist()
