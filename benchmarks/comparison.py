"""Count how often compare.py calls two runs different: for equally good models, and if one is truly better.

    python benchmarks/comparison.py [--pairs 4000] [--patients 20 40 80 160]

A simulation of patients with 3 to 8 images each, half of the patients positive. The score of an image is the sum of a
class effect, a patient effect common to both models, a patient effect of this model, and noise. The last two differ
between the models, as they differ between two training seeds. Recipes are simulated as ensembles of four networks, each
with a patient effect, a noise and a distance of the classes of its own.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import norm, rankdata

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.commands import comparison
from core.evidence import intervals
from core.evidence.intervals import Scores

import trainings

PATIENTS = 100
EQUAL, BETTER = 1.5, 2.5  # distance between the class means, in standard deviations of a score
AUCS = (0.80, 0.85)  # the true ROC AUC of the table
SIZES = (20, 40, 80, 160)
DESIGN_SIZES = (12, 20, 40)
RECIPE_SIZES = (20, 40, 80)
FIRST_SEED = 500_000  # the test was chosen with seeds below
DESIGNS = {
    "mixed": "each patient has images of both classes",
    "hard": "1 in 10 positive patients looks negative",
    "heavy": "heavy tails (Student's t, 3 degrees of freedom)",
    "uneven": "1 in 4 patients positive",
    "half": "one patient has half of all images",
}
MEMBERS = 4  # networks of an ensemble
SPREADS = (0.0, 0.1, 0.3)  # SD over networks of the distance of the classes; SDs of the AUC of 0.00, 0.02 and 0.06
FEW_IMAGES = (3, 9)  # images of a patient in the table: fewer take less time


def draw(
    seed: int, distances: tuple[float, float], patients: int, images: tuple[int, int], design: str = ""
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """The patient and the label of each image, and its probability by two models; each patient has from ``images[0]``
    images to fewer than ``images[1]``. ``design``: one of DESIGNS, if any."""
    random = np.random.RandomState(seed)
    counts = random.randint(*images, patients)
    counts[0] = counts.sum() if design == "half" else counts[0]
    patient = np.repeat(np.arange(patients), counts)
    label = (patient % (4 if design == "uneven" else 2) == 1).astype(int)
    label = random.randint(0, 2, len(patient)) if design == "mixed" else label
    effect = label * (random.random_sample(patients) >= 0.1)[patient] if design == "hard" else label

    def noise(count: int) -> np.ndarray:
        return random.standard_t(3, count) / np.sqrt(3) if design == "heavy" else random.standard_normal(count)

    common = noise(patients)
    probabilities = []
    for distance in distances:
        own = noise(patients)
        score = distance * (effect - 0.5) + np.sqrt(0.4) * common[patient] + np.sqrt(0.2) * own[patient]
        probabilities.append(expit(score + np.sqrt(0.4) * noise(len(patient))))
    return patient, label, probabilities


def runs(
    seed: int, distances: tuple[float, float], patients: int = PATIENTS, images: tuple[int, int] = (5, 41)
) -> tuple[tuple[comparison.Run, comparison.Run], pd.DataFrame]:
    """Two runs on one simulated test set, and the table of its images."""
    patient, label, probabilities = draw(seed, distances, patients, images)
    members = [probability[:, None] for probability in probabilities]
    return simulated_pair("seed", patient, label, members)


def simulated_pair(
    name: str, patient: np.ndarray, label: np.ndarray, members: list[np.ndarray]
) -> tuple[tuple[comparison.Run, comparison.Run], pd.DataFrame]:
    """Two runs, and the table of their images: of each, the probability by each of its networks, (N, K)."""
    columns = {
        "file": np.array([f"f{image}" for image in range(len(patient))]), "label": label,
        "patient": np.array([f"p{unit}" for unit in patient]), "unit": patient,
    }  # fmt: skip
    first, second = (
        trainings.run(
            trainings.prediction_table(columns, by_member), list(range(by_member.shape[1])), f"{name} {number}"
        )
        for number, by_member in enumerate(members, start=1)
    )
    return (first, second), comparison.test_images((first, second), shared=False)


def recipe_runs(
    seed: int, distances: tuple[float, float], patients: int, spread: float, design: str = ""
) -> tuple[tuple[comparison.Run, comparison.Run], pd.DataFrame]:
    """Two runs of ensembles. ``spread`` is the SD over networks of the distance between the class means."""
    patient, label, _ = draw(seed, distances, patients, FEW_IMAGES, design)
    random = np.random.RandomState(seed + 2**31)
    noise = random.standard_normal
    common = np.sqrt(0.4) * noise(patients)[patient] + np.sqrt(0.2) * noise(len(patient))
    by_member = []
    for distance in distances:
        shared = common + np.sqrt(0.1) * noise(patients)[patient]
        members = [
            expit((distance + spread * noise()) * (label - 0.5) + shared
                  + np.sqrt(0.15) * noise(patients)[patient] + np.sqrt(0.2) * noise(len(patient)))
            for _ in range(MEMBERS)
        ]  # fmt: skip
        by_member.append(np.column_stack(members))
    return simulated_pair("recipe", patient, label, by_member)


def equal_runs(seed: int) -> tuple[tuple[comparison.Run, comparison.Run], pd.DataFrame]:
    """Runs of two equally good models."""
    return runs(seed, (EQUAL, EQUAL))


def unequal_runs(seed: int) -> tuple[tuple[comparison.Run, comparison.Run], pd.DataFrame]:
    """Runs of two models, of which the second is truly better."""
    return runs(seed, (EQUAL, BETTER))


def auc_differences(distances: tuple[float, float], patients: int, pairs: int, design: str = "") -> pd.DataFrame:
    """Of each pair: the difference of ROC AUC, and whether it is called different, as comparison.measure does it."""
    rows = []
    for seed in range(FIRST_SEED, FIRST_SEED + pairs):
        patient, label, probabilities = draw(seed, distances, patients, FEW_IMAGES, design)
        pair = tuple(Scores(label, probability, probability >= 0.5, patient) for probability in probabilities)
        positives = int(label.sum())
        rank_sums = [rankdata(probability)[label == 1].sum() for probability in probabilities]
        sums = [rank_sum - positives * (positives + 1) / 2 for rank_sum in rank_sums]
        values = sums[0] / positives / (len(label) - positives), sums[1] / positives / (len(label) - positives)
        left_out = [intervals.jackknife(scores, 0)["roc_auc"] for scores in pair]
        result = intervals.difference("roc_auc", values, left_out[1] - left_out[0], pair)
        rows.append((values[1] - values[0], result[2] <= intervals.ALPHA))
    return pd.DataFrame(rows, columns=["difference", "called"]).astype(float)


def other_measures_rate(distances: tuple[float, float], patients: int, pairs: int) -> float:
    """How often a measure other than ROC AUC is called different."""
    tables = (comparison.measure(*runs(FIRST_SEED + seed, distances, patients, FEW_IMAGES)) for seed in range(pairs))
    return float(np.mean([table.loc[~table["primary"], "differ"].any() for table in tables]))


def recipe_rates(distances: tuple[float, float], patients: int, spread: float, design: str, pairs: int) -> pd.DataFrame:
    """Of each pair: the difference of ROC AUC, and whether compare.py calls the recipes different."""
    rows = []
    for seed in range(FIRST_SEED, FIRST_SEED + pairs):
        table = comparison.measure(*recipe_runs(seed, distances, patients, spread, design)).set_index("measure")
        rows.append((table.loc["roc_auc", "difference"], table.loc["roc_auc", "differ"]))
    return pd.DataFrame(rows, columns=["difference", "called"]).astype(float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4000, help="of models; of recipes, a fourth or a tenth")
    parser.add_argument("--patients", type=int, nargs="*", default=SIZES)
    args = parser.parse_args()
    low, high = (float(np.sqrt(2) * norm.ppf(auc)) for auc in AUCS)
    print(f"Called different, in %, with a true ROC AUC of {AUCS[0]:.2f} and {AUCS[0]:.2f} (equal) or {AUCS[1]:.2f}.")
    print("Known SD: a test of ROC AUC that knows the SD of the difference\n")
    print("| patients | equal: ROC AUC | equal: any other | better: ROC AUC | known SD | share of it | any other |")
    print("|---|---|---|---|---|---|---|")
    for patients in args.patients:
        equal, better = (auc_differences((low, second), patients, args.pairs) for second in (low, high))
        power = float((better["difference"].abs() > norm.ppf(0.975) * better["difference"].std()).mean())
        others = [other_measures_rate((low, second), patients, args.pairs // 20) for second in (low, high)]
        cells = [f"{100 * share:.1f}" for share in (equal["called"].mean(), others[0], better["called"].mean(), power)]
        ratio = f"{better['called'].mean() / power:.2f}"
        print(f"| {patients} | {' | '.join(cells)} | {ratio} | {100 * others[1]:.1f} |", flush=True)
    print("\nEqual models called different in ROC AUC, in %\n")
    print(f"| test sets | {' | '.join(f'{patients} patients' for patients in DESIGN_SIZES)} |\n|---|---|---|---|")
    for design, title in DESIGNS.items():
        shares = [
            auc_differences((low, low), patients, args.pairs, design)["called"].mean() for patients in DESIGN_SIZES
        ]
        print(f"| {title} | {' | '.join(f'{100 * share:.1f}' for share in shares)} |", flush=True)
    print(f"\nRecipes of {MEMBERS} networks called different in ROC AUC, in %\n")
    print("| test sets | spread | patients | equal | better | known SD | share of it |\n|---|---|---|---|---|---|---|")
    for design, spread, patients in product(("", "mixed"), SPREADS, RECIPE_SIZES):
        equal, better = (
            recipe_rates((low, second), patients, spread, design, args.pairs // share)
            for second, share in ((low, 4), (high, 10))
        )
        power = float((better["difference"].abs() > norm.ppf(0.975) * better["difference"].std()).mean())
        cells = [f"{100 * share:.1f}" for share in (equal["called"].mean(), better["called"].mean(), power)]
        title, ratio = DESIGNS.get(design, "all images of a patient have one class"), better["called"].mean() / power
        print(f"| {title} | {spread} | {patients} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
