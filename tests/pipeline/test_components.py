from core.pipeline import components

import pandas as pd

IMAGES = pd.DataFrame(
    {"file": list("abcdefg"), "patient": pd.array(["p", "p", "q", "r", None, None, None], dtype="string")}
)
CLUSTERS = pd.DataFrame(
    {"file": ["b", "c", "d", "e", "e", "f"], "cluster": [0, 0, 1, 1, 2, 2], "kind": ["exact"] * 4 + ["near"] * 2}
)


def test_patients_and_copies_join_by_way_of_each_other():
    # a-b by patient, b-c by copies; d-e exact, e-f near; g alone
    assert list(components.of_images(IMAGES, CLUSTERS)) == [0, 0, 0, 1, 1, 1, 2]


def test_unknown_patients_are_not_one_patient():
    assert components.of_images(IMAGES[4:], CLUSTERS[:0]).nunique() == 3


def test_clusters_of_images_that_are_not_there_join_nothing():
    assert list(components.copy_clusters(IMAGES[:2], CLUSTERS)) == [0]


def test_kinds_of_copies_are_told_apart():
    assert list(components.copy_clusters(IMAGES, CLUSTERS, "near").index) == [4, 5]
