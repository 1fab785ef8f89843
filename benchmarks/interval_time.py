"""Measure the CPU time of the intervals of all measures of 100,000 images.

python benchmarks/interval_time.py
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.evidence import metrics
from core.evidence.intervals import Scores

IMAGES = 100_000


def main() -> None:
    random = np.random.RandomState(0)
    labels = random.randint(0, 2, IMAGES)
    probabilities = np.clip(random.random_sample(IMAGES) * 0.8 + 0.2 * labels, 0, 1)
    print(f"intervals of all {len(metrics.MEASURES)} measures of {IMAGES:,} images")
    for patients in (300, 5_000, IMAGES):
        units = random.permutation(IMAGES) % patients
        start = time.process_time()
        metrics.metrics_with_ci(Scores(labels, probabilities, probabilities >= 0.5, units), seed=1)
        print(f"{patients:8,} patients {time.process_time() - start:6.1f} s")


if __name__ == "__main__":
    main()
