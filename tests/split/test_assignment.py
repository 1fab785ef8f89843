from core.audit import copies, quality
from core.pipeline import queries, tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.base import SPLITS
from core.pipeline.schemas.split import Split
from core.split import assignment, leakage, messages

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

NONE = pd.DataFrame(columns=tables.LISTED)


def rules(**changes):
    defaults = {
        "strategy": "patient", "duplicates": "together", "on_leak": "fail", "train": 0.7, "val": 0.1, "test": 0.2,
        "folds": None, "fold": 1, "seed": None,
    }  # fmt: skip
    return Split(**(defaults | changes))


def index(rows):
    """An index of (label, patient, pixels) with files f000, f001, ..."""
    table = pd.DataFrame(rows, columns=["label", "patient", "pixels_sha256"])
    table.insert(0, "file", [f"f{number:03d}" for number in range(len(table))])
    table.insert(0, "row", range(len(table)))
    return table.astype({"file": "string", "patient": "string"})


NO_NEAR = pd.DataFrame(columns=copies.PAIRS)


def clusters(images, near=()):
    """The exact copies of an index, and the near copies given as pairs of files."""
    pairs = pd.DataFrame([(*pair, 4, 0.98) for pair in near], columns=NO_NEAR.columns) if near else NO_NEAR
    return quality.cluster(images, pairs)


def assign(images, seed=1, listed=NONE, near=(), **changes):
    rows = images.assign(listed=images["file"].map(listed.set_index("file")["split"]).astype("string"))
    return assignment.assign(rows, clusters(images, near), rules(**changes), seed)


def lists(parts):
    return pd.DataFrame({"file": [f"f{n:03d}" for n in range(len(parts))], "split": parts}).astype("string")


IMAGES = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from("abcdefghijklmnop"), st.integers(0, 60).map(str)),
    min_size=40,
    max_size=120,
)


@settings(max_examples=30, deadline=None)
@given(rows=IMAGES, seed=st.integers(0, 9))
def test_copies_and_patients_never_land_on_both_sides_of_the_split(rows, seed):
    images = index(rows)
    try:
        split = assign(images, seed)
    except PipelineError as error:
        assert "would get no image" in str(error)  # copies tied all patients together
        return
    placed = images.assign(split=split["split"])
    assert (placed.groupby("patient")["split"].nunique() == 1).all()
    assert (placed.groupby("pixels_sha256")["split"].nunique() == 1).all()
    assert leakage.explain(split, clusters(images)) is None
    assert not any(leakage.measure(split, clusters(images)).values())


@settings(max_examples=20, deadline=None)
@given(rows=IMAGES, seed=st.integers(0, 9))
def test_drop_keeps_one_of_each_image_and_none_whose_labels_contradict(rows, seed):
    images = index(rows)
    try:
        split = assign(images, seed, duplicates="drop", strategy="image")
    except PipelineError:
        return
    kept = images[split["split"] != "dropped"]
    labels = images.groupby("pixels_sha256")["label"].nunique()
    assert set(kept["pixels_sha256"]) == set(labels.index[labels == 1])
    assert not kept["pixels_sha256"].duplicated().any()


def test_images_alone_meet_the_fractions_of_each_label_to_one_image():
    images = index([(int(n < 300), f"p{n}", str(n)) for n in range(1000)])
    split = assign(images, strategy="image")
    for label, count in ((1, 300), (0, 700)):
        counts = split[split["label"] == label]["split"].value_counts()
        assert [
            abs(counts[part] - count * share) <= 1 for part, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True)
        ] == [True] * 3


def test_whole_patients_meet_the_fractions_nearly():
    random = np.random.default_rng(1)
    rows = [
        (int(random.random() < 0.4), f"p{p}", f"{p}-{n}") for p in range(100) for n in range(random.integers(5, 40))
    ]
    split = assign(index(rows))
    for part, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
        members = split[split["split"] == part]
        assert len(members) / len(split) == pytest.approx(share, abs=0.01)
        assert members["label"].mean() == pytest.approx(split["label"].mean(), abs=0.02)


def test_each_part_gets_one_of_three_positive_patients_however_unequal():
    rows = [(1, p, f"{p}{n}") for p, count in (("a", 400), ("b", 300), ("c", 250)) for n in range(count)]
    rows += [(0, f"q{n % 150}", f"n{n}") for n in range(1200)]
    split = assign(index(rows))
    assert {part: int(split[split["split"] == part]["label"].any()) for part in SPLITS} == dict.fromkeys(SPLITS, 1)


def test_the_same_seed_gives_the_same_split_and_another_a_different_one():
    images = index([(n % 3 == 0, f"p{n % 40}", str(n)) for n in range(400)])
    assert assign(images, 1).equals(assign(images, 1))
    assert not assign(images, 1).equals(assign(images, 2))


def test_lists_are_followed_and_images_on_none_are_dropped():
    images = index([(n % 2, f"p{n}", str(n)) for n in range(5)])
    listed = lists(["train", "val", "test", "train"])
    split = assign(images, listed=listed, strategy="predefined")
    assert list(split["split"]) == ["train", "val", "test", "train", "dropped"]


def test_lists_that_tear_copies_apart_are_refused_unless_copies_are_kept():
    images = index([(1, "a", "x"), (1, "b", "y"), (0, "c", "x")])
    listed = lists(["train", "val", "test"])
    with pytest.raises(PipelineError, match="put copies of one image into different splits .*f000, f002"):
        assign(images, listed=listed, strategy="predefined")
    split = assign(images, listed=listed, strategy="predefined", duplicates="keep")
    assert leakage.measure(split, clusters(images))["test_copies_in_train"] == 1


def test_the_leak_is_counted_as_by_hand_and_explained_by_name():
    # train: x of a, y of b; test: copy of x (positive) of a, z of b, w of c; val: copy of y of d
    images = index([(1, "a", "x"), (0, "b", "y"), (1, "a", "x"), (0, "b", "z"), (0, "c", "w"), (0, "d", "y")])
    listed = lists(["train", "train", "test", "test", "test", "val"])
    split = assign(images, listed=listed, strategy="predefined", duplicates="keep")
    assert leakage.measure(split, clusters(images)) == {
        "test_copies_in_train": 1, "test_positive_copies_in_train": 1, "test_near_copies_in_train": 0,
        "test_patients_in_train": 2, "test_in_train": 2, "test_in_val": 1,
        "val_copies_in_train": 1, "val_positive_copies_in_train": 0, "val_near_copies_in_train": 0,
        "val_patients_in_train": 1,  # d shares y with b, who is in train: one person under two names
    }  # fmt: skip
    text = leakage.explain(split, clusters(images))
    assert "1 of 3 test images are copies of a training image: f002" in text
    assert "2 of 3 test images are of 2 patients who are also in training: a, b" in text


def arriving(rounds):
    """Sets of images that grow: new patients, new images of known ones, and copies across patients."""
    random, rows = np.random.default_rng(5), []
    for arrival in range(rounds):
        patients = len({patient for _, patient, _ in rows})
        for number in range(60):
            patient = random.integers(0, patients + 30) if number % 3 else patients + number
            rows.append((int(random.integers(0, 2)), f"p{patient}", f"{arrival}-{number}"))
        if arrival:
            for copy in range(4):  # an exact copy, under another patient
                rows.append((rows[copy * 7][0], f"p{random.integers(0, patients)}", rows[copy * 7 + arrival][2]))
        yield index(rows)


@pytest.mark.parametrize("folds", [None, 5])
@pytest.mark.parametrize("duplicates", ["together", "drop"])
def test_a_stable_split_never_moves_a_patient_while_images_arrive_ten_times(folds, duplicates):
    before: dict = {}
    gone: set = set()
    for images in arriving(11):
        split = assign(images, strategy="stable", folds=folds, duplicates=duplicates)
        kept = split[split["split"] != "dropped"]
        parts = kept.groupby("patient")["split"].unique().map(list)
        assert (parts.str.len() == 1).all()
        for patient, (part,) in parts.items():
            assert before.setdefault(patient, part) == part
        assert leakage.explain(split, clusters(images)) is None
        gone = set(before) - set(parts.index)
        assert all(before[patient] in ("val", "test") for patient in gone) or duplicates == "drop"
    assert gone  # copies have joined patients across parts
    assert f"Left out: {split['patient'].nunique() - len(parts):,} patients" in leakage.left_out(split)


def test_a_stable_split_has_about_the_fractions_asked_for_and_its_seed_draws_another():
    images = index([(number % 2, f"p{number}", str(number)) for number in range(4000)])
    split = assign(images, strategy="stable")
    share = split["split"].value_counts(normalize=True)
    assert abs(share["train"] - 0.7) < 0.025 and abs(share["val"] - 0.1) < 0.02 and abs(share["test"] - 0.2) < 0.025
    reseeded = assign(images, seed=2, strategy="stable")
    assert 0.3 < (split["split"] != reseeded["split"]).mean() < 0.6
    folds = [assign(images, strategy="stable", folds=5, fold=fold)["split"] == "test" for fold in (1, 2, 3, 4, 5)]
    assert (sum(folds) == 1).all()  # every image is tested in one fold


def test_unknown_patients_are_null_in_the_leak_and_refused_by_strategy_patient():
    images = index([(n % 2, None, str(n)) for n in range(20)])
    with pytest.raises(PipelineError, match=r"data\.patient"):
        assign(images)
    split = assign(images, strategy="image")
    assert leakage.measure(split, clusters(images))["test_patients_in_train"] is None
    assert assignment.summarise(split, rules(strategy="image"))["test"]["patients"] is None
    assert leakage.explain(split, clusters(images)) is None


def test_too_few_groups_for_the_parts_are_an_error_that_says_so():
    with pytest.raises(PipelineError, match="the split .* would get no image: 2 components"):
        assign(index([(0, "a", "x"), (1, "b", "y")]))


def test_predefined_without_lists_names_the_parameters():
    with pytest.raises(PipelineError, match=r"data\.lists\.train"):
        assign(index([(0, "a", "x")]), strategy="predefined")


def test_a_part_of_one_class_is_said():
    images = index([(0, "a", "x"), (1, "b", "y"), (0, "c", "z")])
    split = assign(images, listed=lists(["train", "val", "test"]), strategy="predefined")
    assert "test has one class only" in messages.summary(
        assignment.summarise(split, rules(strategy="predefined")), SPLITS
    )


def test_a_copy_on_no_list_does_not_push_out_the_one_that_is_listed():
    images = index([(0, "a", "x"), (0, "b", "x"), (1, "c", "y"), (0, "d", "z")])
    listed = pd.DataFrame({"file": ["f001", "f002", "f003"], "split": ["train", "val", "test"]}).astype("string")
    split = assign(images, listed=listed, strategy="predefined", duplicates="drop")
    assert list(split["split"]) == ["dropped", "train", "val", "test"]


def test_without_a_list_validation_patients_are_drawn_from_the_training_list_and_none_is_divided():
    images = index([(n % 2, f"p{n // 4}", str(n)) for n in range(400)])
    listed = lists(["train"] * 320 + ["test"] * 80)
    split = assign(images, listed=listed, strategy="predefined")
    assert split["split"].value_counts().to_dict() == {"train": 280, "test": 80, "val": 40}
    assert (split["split"] == "test").tolist() == [False] * 320 + [True] * 80
    assert (split.groupby("patient")["split"].nunique() == 1).all()


def test_a_published_split_that_divides_a_patient_is_refused_by_name():
    images = index([(n % 2, f"p{n // 4}", str(n)) for n in range(40)])
    split = assign(images, listed=lists(["train"] * 30 + ["test"] * 10), strategy="predefined")
    text = leakage.explain(split, clusters(images))
    assert "2 of 10 test images are of 1 patients who are also in training: p7" in text


def test_three_patients_are_enough_for_three_parts():
    rows = [(label, patient, f"{patient}{label}{n}") for patient, counts in
            {"a": (0, 6), "b": (0, 9), "c": (5, 2), "d": (4, 7)}.items()
            for label, count in enumerate(counts) for n in range(count)]  # fmt: skip
    for seed in range(5):
        assert set(assign(index(rows), seed)["split"]) == set(SPLITS)


def test_the_parts_are_counted_as_by_hand_and_unknown_patients_are_not_vouched_for():
    images = index([(1, "a", "x"), (0, "a", "y"), (0, "b", "z"), (1, "c", "v"), (0, "d", "w")])
    split = assign(images, listed=lists(["train", "train", "train", "val", "test"]), strategy="predefined")
    unknown = {"images": None, "positives": None}
    assert assignment.summarise(split, rules(strategy="predefined")) == {
        "train": {"images": 3, "positives": 1, "patients": 2, "positive_patients": 1, "deviation": unknown},
        "val": {"images": 1, "positives": 1, "patients": 1, "positive_patients": 1, "deviation": unknown},
        "test": {"images": 1, "positives": 0, "patients": 1, "positive_patients": 0, "deviation": unknown},
        "dropped": 0,
        "positive_components": 2,
    }
    assert leakage.assure(split) == "No test image has an exact copy, a near copy or its patient in training."
    assert "the same patient can be in training and test" in leakage.assure(
        split.assign(patient=pd.array([None] * 5, dtype="string"))
    )


def test_near_copies_of_different_patients_stay_together_and_are_counted_where_they_do_not():
    images = index([(n % 3 == 0, f"p{n}", str(n)) for n in range(60)])
    near = [(f"f{n:03d}", f"f{n + 1:03d}") for n in range(0, 60, 2)]
    split = assign(images, near=near)
    part = split.set_index("file")["split"]
    assert all(part[first] == part[second] for first, second in near)

    apart = assign(images, near=near, strategy="predefined", duplicates="keep",
                   listed=lists(["train", "test"] * 20 + ["val"] * 20))  # fmt: skip
    leak = leakage.measure(apart, clusters(images, near))
    assert (leak["test_copies_in_train"], leak["test_near_copies_in_train"]) == (0, 20)
    text = leakage.explain(apart, clusters(images, near))
    assert "20 of 20 test images are near copies of a training image: f001, f003" in text


def test_drop_keeps_one_of_near_copies_too():
    images = index([(n % 2, f"p{n}", str(n)) for n in range(40)])
    split = assign(images, near=[("f000", "f002"), ("f004", "f005")], duplicates="drop")
    # f004 and f005 contradict each other in their labels, so that neither can be believed
    assert list(split.loc[split["split"] == "dropped", "file"]) == ["f002", "f004", "f005"]


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(rows=IMAGES, seed=st.integers(0, 9))
def test_each_fold_tests_on_other_patients_and_all_of_them_on_every_image(rows, seed):
    images = index(rows).assign(pixels_sha256=[str(n) for n in range(len(rows))])
    if images["patient"].nunique() < 12:
        return
    tested = []
    for fold in (1, 2, 3, 4):
        split = assign(images, seed, folds=4, fold=fold)
        assert (split.groupby("patient")["split"].nunique() == 1).all()
        tested += list(split.loc[split["split"] == "test", "file"])
    assert sorted(tested) == list(images["file"])


def test_folds_share_the_rest_between_train_and_val_as_asked():
    images = index([(n % 2, f"p{n}", str(n)) for n in range(900)])
    split = assign(images, folds=3, fold=2, train=0.6, val=0.2)
    assert split["split"].value_counts().to_dict() == {"train": 450, "test": 300, "val": 150}
    cfg = rules(folds=3, fold=2, train=0.6, val=0.2)
    off = [assignment.summarise(split, cfg)[part]["deviation"] for part in SPLITS]
    assert off == [{"images": 0, "positives": 0}] * 3


def test_the_deviation_from_the_fractions_is_the_one_counted_by_hand():
    # 2 of 3 patients can't be nearer to 70 % of the images than 60 %
    images = index([(n % 2, "abc"[n // 4 if n < 8 else 2], str(n)) for n in range(10)])
    split = assign(images, train=0.7, val=0.2, test=0.1)
    figures = assignment.summarise(split, rules(train=0.7, val=0.2, test=0.1))
    share = {part: (split["split"] == part).mean() for part in SPLITS}
    for part, requested in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        assert figures[part]["deviation"]["images"] == pytest.approx(share[part] - requested)
    assert "off by" in messages.summary(figures, SPLITS)


def test_fewer_positive_groups_than_parts_are_said_with_what_helps():
    images = index([(int(n < 8), f"p{n // 4}", str(n)) for n in range(80)])
    split = assign(images)
    text = messages.summary(assignment.summarise(split, rules()), SPLITS)
    assert "2 components with a positive image, but 3 splits" in text and "split.folds" in text


@pytest.mark.parametrize("duplicates", ["together", "drop"])
def test_one_person_under_two_names_is_never_on_both_sides(duplicates):
    # Patients a0 and b0 share an image, a1 and b1 share one, and so on.
    images = index([(0 if n == 0 else n % 2, f"{side}{who}", f"shared{who}" if n == 0 else f"{side}{who}-{n}")
                    for who in range(20) for side in "ab" for n in range(5)])  # fmt: skip
    for seed in range(5):
        split = assign(images, seed, duplicates=duplicates)
        kept = split[split["split"] != "dropped"]
        assert (kept["split"].groupby(kept["patient"].str[1:]).nunique() == 1).all()


def test_one_person_under_two_names_is_a_leak_even_where_the_shared_image_was_dropped():
    images = index([(0, "a", "x"), (1, "a", "y"), (0, "b", "x"), (1, "b", "z"), (0, "c", "w")])
    split = assign(images, listed=lists(["train", "train", "test", "test", "val"]), strategy="predefined",
                   duplicates="drop")  # fmt: skip
    assert split.loc[2, "split"] == "dropped"
    assert leakage.measure(split, clusters(images))["test_patients_in_train"] == 1  # f003, by way of x


def test_a_test_set_that_validation_knows_is_refused_and_counted():
    images = index([(0, "a", "x"), (1, "b", "y"), (0, "c", "z"), (1, "c", "v"), (1, "d", "y")])
    split = assign(images, listed=lists(["train", "val", "val", "test", "test"]), strategy="predefined",
                   duplicates="keep")  # fmt: skip
    assert leakage.measure(split, clusters(images))["test_in_val"] == 2
    text = leakage.explain(split, clusters(images))
    assert "2 of 2 test images have a copy or their patient in validation" in text and "f003, f004" in text


def test_copies_that_tie_all_patients_together_are_named_with_what_helps():
    rows = [(0 if n == 0 else n % 2, f"p{patient}", "blank" if n == 0 else f"{patient}-{n}")
            for patient in range(10) for n in range(3)]  # fmt: skip
    with pytest.raises(
        PipelineError, match="Copies join 10 patients into one component, for example f000, f003, f006 and 7 more"
    ):
        assign(index(rows))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    rows=IMAGES, seed=st.integers(0, 9), strategy=st.sampled_from(["patient", "stable"]),
    duplicates=st.sampled_from(["together", "drop", "keep"]), folds=st.sampled_from([None, 3]),
)  # fmt: skip
def test_images_gathered_by_patient_are_split_as_each_image_alone(rows, seed, strategy, duplicates, folds):
    images = index(rows).assign(
        pixels_sha256=lambda table: table["pixels_sha256"].where(table.index % 3 == 0, table["file"])
    )
    copied, cfg = clusters(images), rules(strategy=strategy, duplicates=duplicates, folds=folds)
    images = images[tables.INDEX[:4]]
    results = []
    with queries.open_database(None) as database:
        database.add("images", images)
        database.add("clusters", copied)
        database.add("listed", NONE)
        for by_image, rows_of in enumerate([queries.by_patient(database), queries.by_image(database)]):
            try:
                split = assignment.assign(rows_of, copied, cfg, seed)
            except PipelineError as error:
                results.append(str(error))
                continue
            figures = assignment.summarise(split, cfg), leakage.measure(split, copied), leakage.left_out(split)
            spread_rows = queries.expand(images, split, ["cluster", "component", "split"])
            results.append((figures, spread_rows[tables.SPLIT].to_csv()))
            assert by_image == (len(split) == len(images)) or len(images) == images["patient"].nunique()
    assert results[0] == results[1]
