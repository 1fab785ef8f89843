"""Measure whether trainings share the cores of this machine.

    python benchmarks/cores.py [--rounds 3] [--cores 2]

Trains members of an ensemble on random images: as many as there are cores, twice over, side by side as the stage trains
them, and one after another. The first ratio is that of trainings an hour. Then two runs at the same time, compared with
one after the other, from start to end of the process: above 1, they are in each other's way. Once with one thread for
each member, as is the default, and once with one member of as many threads as cores.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.network import members
from core.network.ranks import DistributedContext
from core.network.training import Callbacks
from core.pipeline.schemas import params_yaml

import numpy as np

from ratios import spread

TOP = Path(__file__).resolve().parents[1]
# Pixels of a side, images to train on, and size of a batch.
NETWORKS = {"shufflenet_v2_x0_5": (64, 1600, 32), "efficientnet_v2_s": (128, 64, 16)}


def seconds(backbone: str, count: int, workers: int, threads: int) -> float:
    """Train ``count`` members for an epoch, ``workers`` of them side by side."""
    side, images, batch = NETWORKS[backbone]
    given = params_yaml.load(TOP / "params.yaml")
    chosen = given.train.model_copy(update={"epochs": 1, "batch_size": batch, "threads": threads, "device": "cpu"})
    random = np.random.RandomState(0)
    rows = {"train": np.arange(images), "val": np.arange(batch)}
    members.max_workers = lambda cfg, device: workers
    with tempfile.TemporaryDirectory(prefix="cores-") as place:
        path = f"{place}/images.npy"
        np.save(path, random.randint(0, 256, (images, side, side, 1)).astype(np.uint8))
        job = members.TrainJob(given.model.model_copy(update={"backbone": backbone}), chosen, list(range(count)), path,
                               random.randint(0, 2, images), rows, TOP)  # fmt: skip
        began = time.perf_counter()
        members.train(job, Callbacks(), DistributedContext())
        return time.perf_counter() - began


def start(*words: object) -> Callable[[], float]:
    """Start seconds() in a process; the function returned waits for it."""
    process = subprocess.Popen([sys.executable, __file__, "--one", *map(str, words)], stdout=subprocess.PIPE, text=True)
    return lambda: float(process.communicate()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(seconds(asked.one[0], *map(int, asked.one[1:])))
        return
    cores = asked.cores
    for backbone, (side, _, batch) in NETWORKS.items():
        faster, fights = [], {1: list[float](), cores: list[float]()}
        for _ in range(asked.rounds):
            alone = start(backbone, 2 * cores, cores, 1)()
            faster.append(start(backbone, 2 * cores, 1, 1)() / alone)
            for threads in fights:
                count, took = cores if threads == 1 else 1, []
                for runs in (1, 2):
                    began = time.perf_counter()
                    for end in [start(backbone, count, count, threads) for _ in range(runs)]:
                        end()
                    took.append(time.perf_counter() - began)
                fights[threads].append(took[1] / (2 * took[0]))
        print(f"{backbone}, {side} px, batches of {batch}, {cores} cores: median (min to max)")
        print(f"  trainings an hour, side by side / one after another    {spread(faster)}")
        print(f"  two runs at the same time / one after the other       {spread(fights[1])}")
        print(f"  the same, {cores} threads                                    {spread(fights[cores])}", flush=True)


if __name__ == "__main__":
    main()
