"""Count how often compare.py calls two runs different: for equally good models, and if one is truly better.

    python benchmarks/comparison.py [--pairs 4000] [--patients 20 40 80 160]

A simulation of patients with 3 to 8 images each, half of the patients positive. The score of an image is the sum
of a class effect, a patient effect common to both models, a patient effect of this model, and noise. The last two
differ between the models, like the results of two training seeds.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.commands import comparison
from core.evidence import bootstrap
from core.evidence.bootstrap import Scores

PATIENTS = 100
EQUAL, BETTER = 1.5, 2.5  # distance between the class means, in standard deviations of a score
AREAS = (0.80, 0.85)  # the true ROC AUC of the table
SIZES = (20, 40, 80, 160)
FIRST_SEED = 500_000  # the test was chosen with seeds below
FEW = (3, 9)  # images of a patient in the table: fewer take less time


def draw(
    seed: int, distances: tuple[float, float], patients: int, images: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """The patient and the label of each image, and its probability by two models; each patient has from ``images[0]``
    images to fewer than ``images[1]``."""
    random = np.random.RandomState(seed)
    patient = np.repeat(np.arange(patients), random.randint(*images, patients))
    label = patient % 2
    common = random.standard_normal(patients)
    probabilities = []
    for distance in distances:
        own = random.standard_normal(patients)
        score = distance * (label - 0.5) + np.sqrt(0.4) * common[patient] + np.sqrt(0.2) * own[patient]
        probabilities.append(expit(score + np.sqrt(0.4) * random.standard_normal(len(patient))))
    return patient, label, probabilities


def runs(
    seed: int, distances: tuple[float, float], patients: int = PATIENTS, images: tuple[int, int] = (5, 41)
) -> tuple[tuple[comparison.Run, comparison.Run], pd.DataFrame]:
    """Two runs on one simulated test set, and the table of its images."""
    patient, label, both = draw(seed, distances, patients, images)
    pair = []
    for number, probability in enumerate(both, start=1):
        table = pd.DataFrame(
            {
                "file": [f"f{image}" for image in range(len(patient))],
                "label": label,
                "patient": pd.array([f"p{unit}" for unit in patient], dtype="string"),
                "cluster": pd.array([None] * len(patient), dtype="Int64"),
                "split": "test",
                "probability": probability,
                "pixels_sha256": "",
                "copy_in_train": pd.array([False] * len(patient), dtype="boolean"),
                "patient_in_train": pd.array([False] * len(patient), dtype="boolean"),
            }
        )
        pair.append(comparison.Run(f"seed {number}", table, table, 0.5, {}))
    return (pair[0], pair[1]), comparison.test_images((pair[0], pair[1]), shared=False)


def simulated(seed: int) -> tuple[tuple[comparison.Run, comparison.Run], pd.DataFrame]:
    """Two equally good models that differ only in the seed."""
    return runs(seed, (EQUAL, EQUAL))


def better(seed: int) -> tuple[tuple[comparison.Run, comparison.Run], pd.DataFrame]:
    """The second model is truly better."""
    return runs(seed, (EQUAL, BETTER))


def areas(distances: tuple[float, float], patients: int, pairs: int) -> pd.DataFrame:
    """Of each pair: the difference of ROC AUC, and whether it is called different, as comparison.measure does it."""
    rows = []
    for seed in range(FIRST_SEED, FIRST_SEED + pairs):
        patient, label, both = draw(seed, distances, patients, FEW)
        pair = tuple(Scores(label, probability, probability >= 0.5, patient) for probability in both)
        values = tuple(float(roc_auc_score(label, scores.probabilities)) for scores in pair)
        left_out = [bootstrap.jackknife(scores, 0)["roc_auc"] for scores in pair]
        result = bootstrap.difference("roc_auc", values, left_out[1] - left_out[0], pair)
        rows.append((values[1] - values[0], result[2] <= comparison.SURE))
    return pd.DataFrame(rows, columns=["difference", "called"]).astype(float)


def any_other(distances: tuple[float, float], patients: int, pairs: int) -> float:
    """How often a measure other than ROC AUC is called different."""
    tables = (comparison.measure(*runs(FIRST_SEED + seed, distances, patients, FEW)) for seed in range(pairs))
    return float(np.mean([table.loc[~table["primary"], "differ"].any() for table in tables]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4000, help="a tenth of them for measures other than ROC AUC")
    parser.add_argument("--patients", type=int, nargs="+", default=SIZES)
    args = parser.parse_args()
    low, high = (float(np.sqrt(2) * norm.ppf(area)) for area in AREAS)
    print(
        f"Called different, in %, with a true ROC AUC of {AREAS[0]:.2f} and {AREAS[0]:.2f} (equal) or {AREAS[1]:.2f}."
    )
    print("Known SD: a test of ROC AUC that knows the SD of the difference\n")
    print("| patients | equal: ROC AUC | equal: any other | better: ROC AUC | known SD | share of it | any other |")
    print("|---|---|---|---|---|---|---|")
    for patients in args.patients:
        equal, better_ = (areas((low, other), patients, args.pairs) for other in (low, high))
        known = float((better_["difference"].abs() > norm.ppf(0.975) * better_["difference"].std()).mean())
        others = [any_other((low, other), patients, args.pairs // 10) for other in (low, high)]
        cells = [f"{100 * share:.1f}" for share in (equal["called"].mean(), others[0], better_["called"].mean(), known)]
        ratio = f"{better_['called'].mean() / known:.2f}"
        print(f"| {patients} | {' | '.join(cells)} | {ratio} | {100 * others[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
