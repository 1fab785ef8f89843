"""Whether an image is unlike what the model has seen, by its distance to the training set among the features.

Two views are taken of an image (networks.Classifier.with_features): how it looks to the first convolution, and what the
head decides from. The latter alone is blind to much that training never had to tell apart. In each view the distance
is that to the k-th nearest training image (Sun et al. 2022, Out-of-distribution detection with deep nearest neighbors,
ICML, section 3), here of features in units of their deviation in training. The larger of the two counts, as a share of
what the model should take: above 1 an image is unlike. That limit is such that KNOWN of the validation images pass.
"""

from typing import NamedTuple

import numpy as np
import torch

K = 5
KNOWN = 0.95
MEANING = (
    f"farther from the training images than {100 * KNOWN:.0f} % of the validation images are: the farther, the less "
    "the probability says"
)
MOST = 4096  # images of a part that are looked at, so that a model stays small
LEAST = 1e-3  # deviation of a feature, of the mean deviation: one that never varied must not decide by its rounding


class Novelty(NamedTuple):
    """What is kept of a training set: its features, float32 (n, F), less their ``mean`` and in units of their
    ``deviation``, (F,); how many of them belong to each of the ``views``, int64 (V,); the largest distance in each
    (``limits``, (V,)), and the largest ratio to those (``limit``) that an image should have."""

    known: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor
    views: torch.Tensor
    limits: torch.Tensor
    limit: torch.Tensor

    def ratio(self, features: np.ndarray) -> np.ndarray:
        """The distance of images with ``features`` (N, F), as a share of the limit: float64 (N,)."""
        ratios = self._distances(features) / self.limits
        return (ratios.amax(1) / self.limit).double().numpy()

    def _distances(self, features: np.ndarray) -> torch.Tensor:
        """To the k-th nearest training image in each view: (N, V)."""
        asked = (torch.from_numpy(features) - self.mean) / self.deviation
        ends = self.views.cumsum(0).tolist()
        views = [slice(end - size, end) for end, size in zip(ends, self.views.tolist(), strict=True)]
        return torch.stack([_kth(asked[:, view], self.known[:, view]) for view in views], dim=1)


def some(rows: np.ndarray, seed: int) -> np.ndarray:
    """Of the rows of a part as many as are looked at, at random."""
    return rows if len(rows) <= MOST else np.sort(np.random.RandomState(seed).choice(rows, MOST, replace=False))


def fit(train: np.ndarray, val: np.ndarray, views: list[int]) -> Novelty:
    """From the features (n, F) of training and of validation, of which each of the ``views`` has so many."""
    features = torch.from_numpy(train)
    mean, deviation = features.mean(0), features.std(0, correction=0)
    deviation = deviation.clamp(min=LEAST * max(float(deviation.mean()), 1e-12))
    ones = torch.ones(len(views))
    found = Novelty((features - mean) / deviation, mean, deviation, torch.tensor(views), ones, torch.ones(()))
    found = found._replace(limits=torch.quantile(found._distances(val), KNOWN, dim=0).clamp(min=1e-6))
    return found._replace(limit=torch.quantile(torch.from_numpy(found.ratio(val)), KNOWN).float())


def _kth(asked: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """The distance of each row of ``asked`` to the k-th nearest of ``known``, in bounded memory."""
    found = [torch.empty(0)]
    for start in range(0, len(asked), 1024):
        distance = torch.cdist(asked[start : start + 1024].double(), known.double())
        found.append(distance.topk(min(K, len(known)), largest=False).values[:, -1].float())
    return torch.cat(found)
