from core.network import novelty

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler


@pytest.fixture
def features():
    """Of a training and a validation set that come from the same place: (n, D)."""
    random = np.random.default_rng(1)
    return [random.normal(3, 1, (count, 16)).astype(np.float32) for count in (300, 100)]


def test_the_ratio_is_the_larger_distance_of_two_views_to_the_fifth_neighbour_over_the_limit(features):
    train, val = features
    asked = np.random.default_rng(2).normal(1, 2, (20, 16)).astype(np.float32)
    views = []
    for part in (slice(0, 4), slice(4, 16)):
        scale = StandardScaler().fit(train[:, part].astype(np.float64))
        known = NearestNeighbors(n_neighbors=5).fit(scale.transform(train[:, part]))
        far = [known.kneighbors(scale.transform(some[:, part]))[0][:, -1] for some in (val, asked)]
        views.append([one / np.quantile(far[0], 0.95) for one in far])
    of_val, of_asked = (np.maximum(*both) for both in zip(*views, strict=True))
    found = novelty.fit(train, val, [4, 12]).ratio(asked)
    assert found == pytest.approx(of_asked / np.quantile(of_val, 0.95), rel=1e-4)


def test_one_validation_image_in_twenty_is_unlike_and_all_of_another_kind_in_either_view(features):
    fitted = novelty.fit(*features, [4, 12])
    assert (fitted.ratio(features[1]) > 1).mean() == 0.05
    for part in (slice(0, 4), slice(4, 16)):
        other = features[1].copy()
        other[:, part] += 6
        assert (fitted.ratio(other) > 1).all()


def test_a_feature_that_never_varied_does_not_decide_by_its_rounding(features):
    dead = [np.concatenate([some, np.full((len(some), 1), 0.1, np.float32)], axis=1) for some in features]
    fitted = novelty.fit(*dead, [17])
    dead[1][:, -1] += 1e-5
    assert (fitted.ratio(dead[1]) > 1).mean() == pytest.approx(0.05, abs=0.02)


def test_a_few_training_images_do_and_many_are_sampled_the_same_way_each_time(features):
    train, val = features
    assert np.isfinite(novelty.fit(train[:2], val, [16]).ratio(val)).all()
    rows = np.arange(0, 3 * novelty.MOST, 3)
    some = novelty.some(rows, seed=1)
    assert len(np.unique(some)) == novelty.MOST and np.isin(some, rows).all()
    assert np.array_equal(some, novelty.some(rows, seed=1)) and np.array_equal(novelty.some(rows[:9], 1), rows[:9])
