from core.network import ood

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler


@pytest.fixture
def features():
    """Of a training and a validation set that come from the same place: (n, D)."""
    random = np.random.default_rng(1)
    return [random.normal(3, 1, (count, 16)).astype(np.float32) for count in (300, 100)]


def test_the_score_is_the_larger_distance_of_two_views_to_the_fifth_neighbour_over_the_limit(features):
    train, val = features
    other = np.random.default_rng(2).normal(1, 2, (20, 16)).astype(np.float32)
    ratios = []
    for part in (slice(0, 4), slice(4, 16)):
        scale = StandardScaler().fit(train[:, part].astype(np.float64))
        reference, *others = (scale.transform(rows[:, part]) for rows in (train, val, other))
        distances = [np.sort(np.linalg.norm(rows[:, None] - reference, axis=2))[:, 4] for rows in others]
        ratios.append([distance / np.quantile(distances[0], 0.95) for distance in distances])
    of_val, of_other = (np.maximum(*views) for views in zip(*ratios, strict=True))
    scores = ood.fit(train, val, [4, 12]).ood_score(other)
    assert scores == pytest.approx(of_other / np.quantile(of_val, 0.95), rel=1e-4)


def test_one_validation_image_in_twenty_is_out_of_distribution_and_all_of_another_kind_in_either_view(features):
    detector = ood.fit(*features, [4, 12])
    assert (detector.ood_score(features[1]) > 1).mean() == 0.05
    for part in (slice(0, 4), slice(4, 16)):
        other = features[1].copy()
        other[:, part] += 6
        assert (detector.ood_score(other) > 1).all()


def test_a_feature_that_never_varied_does_not_decide_by_its_rounding(features):
    dead = [np.concatenate([rows, np.full((len(rows), 1), 0.1, np.float32)], axis=1) for rows in features]
    detector = ood.fit(*dead, [17])
    dead[1][:, -1] += 1e-5
    assert (detector.ood_score(dead[1]) > 1).mean() == pytest.approx(0.05, abs=0.02)


def test_a_few_training_images_do_and_many_are_sampled_the_same_way_each_time(features):
    train, val = features
    assert np.isfinite(ood.fit(train[:2], val, [16]).ood_score(val)).all()
    rows = np.arange(0, 3 * ood.MAX_IMAGES, 3)
    sample = ood.sample_rows(rows, seed=1)
    assert len(np.unique(sample)) == ood.MAX_IMAGES and np.isin(sample, rows).all()
    assert np.array_equal(sample, ood.sample_rows(rows, seed=1))
    assert np.array_equal(ood.sample_rows(rows[:9], 1), rows[:9])
