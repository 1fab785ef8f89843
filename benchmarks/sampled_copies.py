"""Measure what many_copies.py does where a full run takes too long: search for a part of the images among all.

    python benchmarks/sampled_copies.py [--images 277524 1000000] [--sample 8000] --sets FOLDER

Takes the phantoms that many_copies.py wrote into FOLDER. Searches for the planted copies and their originals among all
images: recall and precision are exact, as far as a planted image is concerned. The seconds of all processors for the
whole set are an estimate: those of the index, and those of a sample of other images, times the number of images.
"""

import argparse
import math
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.audit import copies, neighbours
from core.images import decoder

from many_copies import CHANGES, EVERY, FIRST, own_memory, score

EACH = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[277_524, 1_000_000])
    parser.add_argument("--sample", type=int, default=8000)
    parser.add_argument("--sets", type=Path, required=True)
    asked = parser.parse_args()
    chosen = np.random.RandomState(2).permutation(FIRST)[: EACH * len(CHANGES)].reshape(len(CHANGES), EACH)
    most = 0

    def watch() -> None:
        nonlocal most
        while True:
            most = max(most, own_memory(os.getpid()))
            time.sleep(EVERY)

    threading.Thread(target=watch, daemon=True).start()
    estimates: list[tuple[int, float]] = []
    for count in asked.images:
        stored = np.load(asked.sets / f"drawn-{FIRST}-{EACH}.npy", mmap_mode="r")[: chosen.size + count]
        grey, members = decoder.Grey(stored), np.arange(len(stored))
        began = time.process_time()
        index = copies._index(grey, members)
        built = time.process_time() - began
        others = chosen.size + FIRST + np.random.RandomState(7).permutation(count - FIRST)[: asked.sample]
        began = time.process_time()
        proposed, _ = search(grey, members, index, np.sort(others))
        each = (time.process_time() - began) / len(others)
        estimates.append((count, built + each * len(members)))
        print(f"{count:,} images: the index takes {built:.1f} s, each image {each * 1e6:.0f} microseconds and")
        print(f"{proposed / len(others):.3f} comparisons of pixels; all: {estimates[-1][1]:.0f} s of all processors")
        planted = np.unique(np.concatenate([np.arange(chosen.size), chosen.size + chosen.ravel()]))
        _, pairs = search(grey, members, index, planted)
        recall, precision, _ = score(pairs, members, chosen)
        print(f"precision {precision:.4f}; memory {most / 1e9:.2f} GB")
        for name, value in zip(CHANGES, recall, strict=True):
            print(f"  {name:30} {value:.3f}", flush=True)
    if len(estimates) > 1:
        (few, less), (many, more) = estimates[-2:]
        print(f"growth of seconds of all processors: {math.log(more / less) / math.log(many / few):.2f}")


def search(
    grey: decoder.Grey, members: np.ndarray, index: neighbours.Index, asked: np.ndarray
) -> tuple[int, np.ndarray]:
    """The number of pairs whose pixels are compared, and those that are copies (P, 2)."""
    proposed = copies._propose(grey, np.zeros((len(members), 8), np.uint8), members, index, asked)
    same = copies._confirm_all(grey, proposed) >= copies.SAME
    return len(proposed), proposed.loc[same, ["one", "other"]].to_numpy()


if __name__ == "__main__":
    main()
