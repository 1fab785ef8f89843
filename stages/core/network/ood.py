"""Detect out-of-distribution images by their distance to the training set in feature space.

There are two views of an image (networks.Classifier.with_features): its appearance, from the first convolution, and the
input of the head. The input of the head alone misses differences that training never had to learn. In each view the
distance is taken to the k-th nearest training image (Sun et al. 2022, Out-of-distribution detection with deep nearest
neighbors, ICML, section 3), with each feature divided by its standard deviation in training. Each distance is divided
by the limit of its view. The larger of the two ratios, divided by a common limit, is the score: above 1, the image is
out of distribution. The common limit is chosen so that a share of IN_DISTRIBUTION of the validation images is not
above 1.
"""

from typing import NamedTuple

from core.network import inference
from core.network.ensemble import Ensemble

import numpy as np
import torch
from torch import Tensor

K = 5
IN_DISTRIBUTION = 0.95
MAX_IMAGES = 4096  # of train or val that are used, so that a model stays small
MIN_DEVIATION = 1e-3  # of a feature / mean deviation: rounding errors of a constant feature must not decide


class Detector(NamedTuple):
    """The fitted detector. models/ood.safetensors holds its fields by name."""

    known: Tensor  # float32 (n, F): features of the training images, standardised by mean and deviation
    mean: Tensor  # float32 (F,)
    deviation: Tensor  # float32 (F,)
    views: Tensor  # int64 (V,): the number of features in each view
    limits: Tensor  # float32 (V,): the limit of the distance in each view
    limit: Tensor  # float32 (): the limit of the larger ratio of a distance to its limit

    def ood_score(self, features: np.ndarray) -> np.ndarray:
        """How far images are from the training set. Above 1, an image is out of distribution.

        Parameters
        ----------
        features : (N, F) float32

        Returns
        -------
        (N,) float64
        """
        ratios = self._distances(features) / self.limits
        return (ratios.amax(1) / self.limit).double().numpy()

    def _distances(self, features: np.ndarray) -> Tensor:
        """The distance to the k-th nearest training image in each view: (N, V)."""
        standardised, sizes = (torch.from_numpy(features) - self.mean) / self.deviation, self.views.tolist()
        views = zip(torch.split(standardised, sizes, dim=1), torch.split(self.known, sizes, dim=1), strict=True)
        return torch.stack([_kth_distance(*view) for view in views], dim=1)


def sample_rows(rows: np.ndarray, seed: int) -> np.ndarray:
    """At most MAX_IMAGES of ``rows``, chosen at random.

    Parameters
    ----------
    rows : (N,) int64

    Returns
    -------
    (min(N, MAX_IMAGES),) int64
    """
    if len(rows) <= MAX_IMAGES:
        return rows
    return np.sort(np.random.RandomState(seed).choice(rows, MAX_IMAGES, replace=False))


def fit_ensemble(
    ensemble: Ensemble, images: np.ndarray, rows: dict[str, np.ndarray], seed: int, device: torch.device
) -> Detector:
    """Fit a detector to a sample of the images of train and val.

    Parameters
    ----------
    images : (N, H, W, C) uint8
    rows : dict of (n,) int64, by "train" and "val"
    """
    samples = {name: sample_rows(rows[name], seed) for name in ("train", "val")}
    train, val = (inference.features(ensemble, images, sample, device)[1] for sample in samples.values())
    return fit(train, val, ensemble.views(train.shape[1]))


def fit(train: np.ndarray, val: np.ndarray, views: list[int]) -> Detector:
    """Fit a detector to the features of training and validation images.

    Parameters
    ----------
    train, val : (n, F) float32; n can differ
    views : the number of features in each view
    """
    features = torch.from_numpy(train)
    mean, deviation = features.mean(0), features.std(0, correction=0)
    deviation = deviation.clamp(min=MIN_DEVIATION * max(float(deviation.mean()), 1e-12))
    ones = torch.ones(len(views))
    detector = Detector((features - mean) / deviation, mean, deviation, torch.tensor(views), ones, torch.ones(()))
    limits = torch.quantile(detector._distances(val), IN_DISTRIBUTION, dim=0).clamp(min=1e-6)
    detector = detector._replace(limits=limits)
    scores = torch.from_numpy(detector.ood_score(val))
    return detector._replace(limit=torch.quantile(scores, IN_DISTRIBUTION).float())


def _kth_distance(features: Tensor, reference: Tensor) -> Tensor:
    """The distance of each row of ``features`` to the k-th nearest row of ``reference``."""
    from sklearn.neighbors import NearestNeighbors  # slow to import

    neighbours = NearestNeighbors(n_neighbors=min(K, len(reference)), algorithm="brute").fit(reference.double().numpy())
    return torch.from_numpy(neighbours.kneighbors(features.double().numpy())[0][:, -1]).float()
