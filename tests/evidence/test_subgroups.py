from core.evidence import metrics, subgroups

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics


def world(seed, patients=60, shift=0.0, share=0.5, each=10):
    """Images of patients, half of them without a positive one. ``shift``: of the scores at site A; ``share``: of the
    patients with a positive image who are at site A, and of the others who are at site B."""
    random = np.random.RandomState(seed)
    rows = []
    for patient in range(patients):
        sick = random.random_sample() < 0.5
        site = "A" if (random.random_sample() < share) == sick else "B"
        prevalence, own = (random.uniform(0.5, 0.9) if sick else 0), 0.7 * random.standard_normal()
        for image in range(each):
            label = int(random.random_sample() < prevalence)
            score = 2 * label - 1 + own + 0.9 * random.standard_normal() + (shift if site == "A" else 0)
            rows.append((f"{patient}_{image}", label, 1 / (1 + np.exp(-score)), patient, f"p{patient}", site))
    table = pd.DataFrame(rows, columns=["file", "label", "probability", "unit", "patient", "group_site"])
    return table.astype({"group_site": "string", "patient": "string"})


def called(table, seed):
    found = subgroups.compare(table, "group_site", 1, 0.5, seed)
    return min(entry["p"] for part in found.values() for entry in part.values() if entry["p"] is not None) < 0.05


def test_each_difference_is_what_scikit_learn_says_of_the_two_sides():
    table = world(1)
    found = subgroups.compare(table, "group_site", 1, 0.5, seed=1)
    inside = table["group_site"] == "A"
    for measure, of in (
        ("roc_auc", lambda rows: sklearn.metrics.roc_auc_score(rows["label"], rows["probability"])),
        ("sensitivity", lambda rows: sklearn.metrics.recall_score(rows["label"], rows["probability"] >= 0.5)),
        ("specificity", lambda rows: sklearn.metrics.recall_score(1 - rows["label"], rows["probability"] < 0.5)),
    ):
        assert found["A"][measure]["value"] == pytest.approx(of(table[inside]) - of(table[~inside]), abs=1e-5)
        assert found["B"][measure]["p"] == found["A"][measure]["p"]


def test_a_part_with_other_scores_is_found_and_one_without_is_called_in_one_of_twenty():
    assert sum(called(world(seed, shift=-1.5), seed) for seed in range(20)) >= 18
    assert sum(called(world(seed), seed) for seed in range(100)) <= 11  # more have a probability of 1 % at 5 %


def test_p_of_several_groups_is_higher():
    table = world(3, shift=-1)
    one, three = (subgroups.compare(table, "group_site", looked, 0.5, 1)["A"]["sensitivity"]["p"] for looked in (1, 3))
    assert three == pytest.approx(min(1, 3 * one))


def test_images_of_few_patients_are_too_few_to_say_however_many_they_are():
    table = world(4, patients=12, each=100)
    sick = table[table["label"] == 1].groupby("group_site")["unit"].nunique()
    assert sick.min() < 6
    found = subgroups.compare(table, "group_site", 1, 0.5, 1)
    assert found["A"]["sensitivity"] == {"value": found["A"]["sensitivity"]["value"], "p": None}


def test_a_group_that_goes_with_the_label_predicts_it_and_another_does_not():
    table, rest = world(5, share=0.85), world(6, share=0.85).assign(unit=lambda rows: rows["unit"] + 100)
    found = subgroups.shortcut(table, rest, "group_site", 1, 0.5, 1)
    share = rest.groupby("group_site")["label"].mean()
    alone = sklearn.metrics.roc_auc_score(table["label"], table["group_site"].map(share))
    assert found["p"] < 0.001 and found["alone"]["value"] == pytest.approx(alone) and found["alone"]["low"] > 0.5
    for seed in range(7, 12):
        other = world(seed + 10).assign(unit=lambda rows: rows["unit"] + 100)
        assert subgroups.shortcut(world(seed), other, "group_site", 1, 0.5, 1)["p"] > 0.01


def test_within_counts_pairs_of_the_same_part_alone():
    table = world(8, shift=2, share=0.8)
    pairs = right = 0.0
    for _, rows in table.groupby("group_site"):
        sick, well = (rows.loc[rows["label"] == label, "probability"].to_numpy() for label in (1, 0))
        pairs += len(sick) * len(well)
        right += (sick[:, None] > well).sum()
    found = subgroups.within(table, "group_site", 0.5, 1)
    assert found["value"] == pytest.approx(right / pairs)
    assert found["low"] < found["value"] < found["high"]
    assert found["value"] < metrics.measures(metrics.scores(table, 0.5))["roc_auc"]


def test_the_block_has_every_measure_of_every_part_names_the_worst_and_counts_what_has_no_value():
    table = world(9, shift=-2)
    table.loc[:4, "group_site"] = pd.NA
    found = subgroups.summarise(table, table[:0], 0.5, 1)
    parts = found["groups"]["site"]["parts"]
    assert list(parts) == ["A", "B"] and set(metrics.MEASURES) <= set(parts["A"]) and "shortcut" not in found
    assert found["groups"]["site"]["unknown"] == 5
    assert found["worst"]["part"] == "A" and found["worst"]["measure"] == "sensitivity" and found["worst"]["p"] < 0.05
    assert subgroups.summarise(table.drop(columns="group_site"), table[:0], 0.5, 1) == {}


def test_ranges_are_in_the_order_of_their_numbers():
    parts = ["100 and over", "9 to under 100", "under 9", "unknown", "B"]
    assert sorted(parts, key=subgroups._order) == ["under 9", "9 to under 100", "100 and over", "B", "unknown"]
