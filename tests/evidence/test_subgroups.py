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
    assert found["A"]["sensitivity"]["p"] is None and found["A"]["sensitivity"]["reason"] == "too few"


def test_a_group_that_goes_with_the_label_predicts_it_and_another_does_not():
    table, rest = world(5, share=0.85), world(6, share=0.85).assign(unit=lambda rows: rows["unit"] + 100)
    found = subgroups.shortcut(table, rest, "group_site", 1, 0.5, 1)
    share = rest.groupby("group_site")["label"].mean()
    alone = sklearn.metrics.roc_auc_score(table["label"], table["group_site"].map(share))
    assert (
        found["p"] < 0.001
        and found["group_only_auc"]["value"] == pytest.approx(alone)
        and found["group_only_auc"]["ci_low"] > 0.5
    )
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
    assert found["ci_low"] < found["value"] < found["ci_high"]
    assert found["value"] < metrics.measures(metrics.scores(table, 0.5))["roc_auc"]


def test_the_block_has_every_measure_of_every_part_names_the_worst_and_counts_what_has_no_value():
    table = world(9, shift=-2)
    table.loc[:4, "group_site"] = pd.NA
    found = subgroups.summarise(table, table[:0], 0.5, 1)
    parts = found["groups"]["site"]["levels"]
    assert list(parts) == ["A", "B"] and set(metrics.MEASURES) <= set(parts["A"]) and "shortcut" not in found
    assert found["groups"]["site"]["unknown"] == 5
    assert found["worst"]["level"] == "A" and found["worst"]["measure"] == "sensitivity" and found["worst"]["p"] < 0.05
    assert subgroups.summarise(table.drop(columns="group_site"), table[:0], 0.5, 1) == {}


def test_ranges_are_in_the_order_of_their_numbers():
    parts = ["100 and over", "9 to under 100", "under 9", "unknown", "B"]
    assert sorted(parts, key=subgroups._order) == ["under 9", "9 to under 100", "100 and over", "B", "unknown"]


def crossed(seed):
    """Twenty patients are at A alone, three others at each of B to E; all are sick, and the site changes nothing."""
    random = np.random.RandomState(seed)
    rows = []
    for patient in range(23):
        own = random.standard_normal()
        for site in "A" if patient < 20 else "BCDE":
            for image in range(5):
                score = 0.5 + own + 0.5 * random.standard_normal()
                rows.append((f"{patient}{site}{image}", 1, 1 / (1 + np.exp(-score)), patient, f"p{patient}", site))
                rows.append((f"{patient}{site}{image}n", 0, 0.1, patient, f"p{patient}", site))
    table = pd.DataFrame(rows, columns=["file", "label", "probability", "unit", "patient", "group_site"])
    return table.astype({"group_site": "string", "patient": "string"})


def test_a_patient_in_several_parts_counts_once_on_a_side_and_is_never_dealt_to_others():
    found = subgroups.compare(crossed(1), "group_site", 1, 0.5, 1)
    assert {entry["reason"] for part in found.values() for entry in part.values()} == {"too few"}
    table = pd.concat(
        [crossed(seed).assign(unit=lambda rows, seed=seed: rows["unit"] + 100 * seed) for seed in (1, 2, 3)]
    )
    within = subgroups.compare(table[table["group_site"] != "A"], "group_site", 1, 0.5, 1)
    assert all(part["sensitivity"]["p"] > 0.05 for part in within.values())  # nine patients, each in four parts


def test_patients_in_several_parts_without_an_effect_are_called_in_one_of_twenty():
    def tables(seed):
        few = [crossed(seed + 1000 * more) for more in range(3)]
        return pd.concat([table.assign(unit=table["unit"] + 100 * n) for n, table in enumerate(few)])

    assert sum(called(tables(seed), seed) for seed in range(40)) <= 6  # more have a probability of 1 % at 5 %


def test_within_has_no_interval_where_one_patient_has_all_positives_of_the_parts_with_both_classes():
    table = world(10)
    table["group_site"] = np.where(table.groupby("unit")["label"].transform("max") == 1, "sick", "well")
    one = table["unit"] == table.loc[table["label"] == 1, "unit"].iloc[0]
    table = table[(table["group_site"] == "well") | (table["label"] == 1) | one].copy()
    table.loc[one, "group_site"] = "well"
    table["group_site"] = table["group_site"].astype("string")
    found = subgroups.within(table, "group_site", 0.5, 1)
    assert found["ci_low"] is None and "one patient" in found["reason"]


def test_what_does_not_vary_has_a_reason_and_no_p():
    table = world(11).assign(probability=0.1)
    found = subgroups.compare(table, "group_site", 1, 0.5, 1)
    assert found["A"]["sensitivity"] == {"value": 0.0, "p": None, "reason": "nothing varies"}
    healthy = table[(table["label"] == 0) | (table["group_site"] == "A")]
    assert subgroups.compare(healthy, "group_site", 1, 0.5, 1)["B"]["sensitivity"]["reason"] == "a class is missing"
