"""Count how often compare.py calls two runs different: for equally good models, and if one is truly better.

    python benchmarks/comparison.py [--pairs 50]

A simulation of 100 patients with 5 to 40 images each, half of the patients positive. The score of an image is the sum
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.commands import comparison

PATIENTS = 100
EQUAL, BETTER = 1.5, 2.5  # distance between the class means, in standard deviations of a score


def runs(seed: int, distances: tuple[float, float]) -> tuple[tuple[comparison.Run, comparison.Run], pd.DataFrame]:
    """Two runs on one simulated test set, and the table of its images."""
    random = np.random.RandomState(seed)
    patient = np.repeat(np.arange(PATIENTS), random.randint(5, 41, PATIENTS))
    label = patient % 2
    common = random.standard_normal(PATIENTS)
    made = []
    for number, distance in enumerate(distances, start=1):
        own = random.standard_normal(PATIENTS)
        noise = random.standard_normal(len(patient))
        score = distance * (label - 0.5) + np.sqrt(0.4) * common[patient] + np.sqrt(0.2) * own[patient]
        table = pd.DataFrame(
            {
                "file": [f"f{image}" for image in range(len(patient))],
                "label": label,
                "patient": pd.array([f"p{one}" for one in patient], dtype="string"),
                "cluster": pd.array([None] * len(patient), dtype="Int64"),
                "split": "test",
                "probability": expit(score + np.sqrt(0.4) * noise),
                "pixels_sha256": "",
                "copy_in_train": pd.array([False] * len(patient), dtype="boolean"),
                "patient_in_train": pd.array([False] * len(patient), dtype="boolean"),
            }
        )
        made.append(comparison.Run(f"seed {number}", table, table, 0.5, {}))
    pair = made[0], made[1]
    return pair, comparison.test_images(pair, shared=False)


def simulated(seed: int) -> tuple[tuple[comparison.Run, comparison.Run], pd.DataFrame]:
    """Two equally good models that differ only in the seed."""
    return runs(seed, (EQUAL, EQUAL))


def better(seed: int) -> tuple[tuple[comparison.Run, comparison.Run], pd.DataFrame]:
    """The second model is truly better."""
    return runs(seed, (EQUAL, BETTER))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=50)
    asked = parser.parse_args()
    for words, draw, distances in (("equal", simulated, (EQUAL, EQUAL)), ("better", better, (EQUAL, BETTER))):
        told = [comparison.measure(*draw(seed)).set_index("measure")["differ"] for seed in range(asked.pairs)]
        areas = " and ".join(f"{norm.cdf(distance / np.sqrt(2)):.3f}" for distance in distances)
        print(
            f"{words:7} true AUC {areas}: different in any measure in {sum(each.any() for each in told)} of "
            f"{asked.pairs} pairs, in ROC AUC in {sum(each['roc_auc'] for each in told)}"
        )


if __name__ == "__main__":
    main()
