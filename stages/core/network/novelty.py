"""Detect out-of-distribution images by their distance to the training set in feature space.

There are two views of an image (networks.Classifier.with_features): its appearance, from the first convolution, and the
input of the head. The input of the head alone misses differences that training never had to learn. In each view the
distance is taken to the k-th nearest training image (Sun et al. 2022, Out-of-distribution detection with deep nearest
neighbors, ICML, section 3), with each feature divided by its standard deviation in training. Each distance is divided
by the limit of its view. The larger of the two ratios, divided by a common limit, is the result: above 1, the image is
out of distribution. The common limit is chosen so that a share of KNOWN of the validation images is not above 1.
"""

from typing import NamedTuple

import numpy as np
import torch

K = 5
KNOWN = 0.95
MOST = 4096  # images of train or val that are used, so that a model stays small
LEAST = 1e-3  # deviation of a feature / mean deviation: rounding errors of a constant feature must not decide


class Novelty(NamedTuple):
    """The fitted detector.

    ``known``: features of the training images, float32 (n, F), standardised by ``mean`` and ``deviation``, both (F,).
    ``views``: the number of features in each view, int64 (V,). ``limits``: the limit of the distance in each view,
    (V,). ``limit``: the limit of the larger ratio of a distance to its limit.
    """

    known: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor
    views: torch.Tensor
    limits: torch.Tensor
    limit: torch.Tensor

    def ratio(self, features: np.ndarray) -> np.ndarray:
        """The distance of images with ``features`` (N, F), divided by the limit: float64 (N,)."""
        ratios = self._distances(features) / self.limits
        return (ratios.amax(1) / self.limit).double().numpy()

    def _distances(self, features: np.ndarray) -> torch.Tensor:
        """The distance to the k-th nearest training image in each view: (N, V)."""
        asked = (torch.from_numpy(features) - self.mean) / self.deviation
        ends = self.views.cumsum(0).tolist()
        views = [slice(end - size, end) for end, size in zip(ends, self.views.tolist(), strict=True)]
        return torch.stack([_kth(asked[:, view], self.known[:, view]) for view in views], dim=1)


def some(rows: np.ndarray, seed: int) -> np.ndarray:
    """At most MOST of ``rows``, chosen at random."""
    return rows if len(rows) <= MOST else np.sort(np.random.RandomState(seed).choice(rows, MOST, replace=False))


def fit(train: np.ndarray, val: np.ndarray, views: list[int]) -> Novelty:
    """Fit to the features (n, F) of training and validation images. ``views``: the number of features in each view."""
    features = torch.from_numpy(train)
    mean, deviation = features.mean(0), features.std(0, correction=0)
    deviation = deviation.clamp(min=LEAST * max(float(deviation.mean()), 1e-12))
    ones = torch.ones(len(views))
    found = Novelty((features - mean) / deviation, mean, deviation, torch.tensor(views), ones, torch.ones(()))
    found = found._replace(limits=torch.quantile(found._distances(val), KNOWN, dim=0).clamp(min=1e-6))
    return found._replace(limit=torch.quantile(torch.from_numpy(found.ratio(val)), KNOWN).float())


def _kth(asked: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """The distance of each row of ``asked`` to the k-th nearest row of ``known``, in bounded memory."""
    found = [torch.empty(0)]
    for start in range(0, len(asked), 1024):
        distance = torch.cdist(asked[start : start + 1024].double(), known.double())
        found.append(distance.topk(min(K, len(known)), largest=False).values[:, -1].float())
    return torch.cat(found)
