"""Measure whether planted wrong labels are at the top of the list of likely wrong labels.

    python benchmarks/wrong_labels.py [--sets 5]

Of each set of 1,200 SYNTHETIC images of 60 patients, 5 % get the other label. A logistic regression on brightness and
contrast of the pixels is trained on these labels in three folds by patient, and scores the images that it has not seen.
Positive images have a dark square of 8 pixels, with one of four contrasts, since the list is only as good as the model.
Printed by contrast: the ROC AUC of the model; the share of planted labels in the shortest top of the list that contains
half of them; their share in the whole list; and the share of planted labels that the list contains (found).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import uniform_filter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.evidence import utility
from core.images import phantom

FOLDS, SIDE, SQUARE = 3, 32, 8
CONTRASTS = (0, 40, 80, 120)
FIRST = 1000  # seed of the first set


def features(image: np.ndarray) -> list[float]:
    smooth = np.sort(uniform_filter(image, SQUARE - 1).ravel())[[0, 20, 60, 120]] - np.median(image)
    return [*np.quantile(image, (0.02, 0.1, 0.25, 0.5, 0.9)), image.std(), *smooth]


def measure(seed: int, contrast: int) -> dict[str, float]:
    random, patches = np.random.RandomState(seed), list(phantom.draw(1200, 60, SIDE, seed))
    labels = np.array([patch.label for patch in patches])
    images = np.stack([patch.pixels.mean(axis=-1) for patch in patches])
    for number in np.flatnonzero(labels):
        top, left = random.randint(SIDE - SQUARE, size=2)
        images[number, top : top + SQUARE, left : left + SQUARE] -= contrast
    planted = random.permutation(len(labels)) < len(labels) // 20
    table = pd.DataFrame({"label": np.where(planted, 1 - labels, labels), "probability": 0.0})
    table["fold"] = pd.factorize(pd.Series([patch.patient for patch in patches]))[0] % FOLDS
    inputs, aucs = np.array([features(image) for image in images.clip(0)]), []
    for fold in range(FOLDS):
        inside = (table["fold"] == fold).to_numpy()
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(inputs[~inside], table["label"][~inside])
        table.loc[inside, "probability"] = model.predict_proba(inputs[inside])[:, 1]
        aucs.append(roc_auc_score(labels[inside], table["probability"][inside]))
    wrong = planted[utility.likely_wrong(table, {"ci_low": 1.0}, table["fold"]).index]
    half = np.flatnonzero(wrong.cumsum() >= planted.sum() / 2)
    at_half = wrong[: half[0] + 1].mean() if len(half) else np.nan
    recall = wrong.sum() / planted.sum()
    return {"contrast": contrast, "ROC AUC": np.mean(aucs), "top": at_half, "list": wrong.mean(), "found": recall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=5)
    seeds = range(FIRST, FIRST + parser.parse_args().sets)
    table = pd.DataFrame([measure(seed, contrast) for seed in seeds for contrast in CONTRASTS])
    print(table.groupby("contrast").agg(["mean", "min"]).to_string(float_format="%.2f"))


if __name__ == "__main__":
    main()
