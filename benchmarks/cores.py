"""Measure whether trainings share the cores of this machine.

    python benchmarks/cores.py [--rounds 3] [--cores 2]

Trains members of an ensemble on random images. Prints three ratios:
  - trainings an hour of twice as many members as cores: in parallel, as the stage trains them, / one after another;
  - the time of two runs at the same time / one after the other, where a run trains as many members as cores, with one
    thread each, as is the default; above 1, the runs slow each other down;
  - the same, where a run trains one member with as many threads as cores.
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
    params = params_yaml.load(TOP / "params.yaml")
    cfg = params.train.model_copy(update={"epochs": 1, "batch_size": batch, "threads": threads, "device": "cpu"})
    random = np.random.RandomState(0)
    rows = {"train": np.arange(images), "val": np.arange(batch)}
    members.max_workers = lambda cfg, device: workers
    with tempfile.TemporaryDirectory(prefix="cores-") as folder:
        path = f"{folder}/images.npy"
        np.save(path, random.randint(0, 256, (images, side, side, 1)).astype(np.uint8))
        job = members.TrainJob(params.model.model_copy(update={"backbone": backbone}), cfg, list(range(count)), path,
                               random.randint(0, 2, images), rows, TOP)  # fmt: skip
        start = time.perf_counter()
        members.train(job, Callbacks(), DistributedContext())
        return time.perf_counter() - start


def launch(*args: object) -> Callable[[], float]:
    """Call seconds() in another process. Returns a function that waits for the result."""
    command = [sys.executable, __file__, "--worker", *map(str, args)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return lambda: float(process.communicate()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(seconds(args.worker[0], *map(int, args.worker[1:])))
        return
    cores = args.cores
    for backbone, (side, _, batch) in NETWORKS.items():
        speedups, slowdowns = [], {1: list[float](), cores: list[float]()}
        for _ in range(args.rounds):
            parallel = launch(backbone, 2 * cores, cores, 1)()
            speedups.append(launch(backbone, 2 * cores, 1, 1)() / parallel)
            for threads in slowdowns:
                count, times = cores if threads == 1 else 1, []
                for runs in (1, 2):
                    start = time.perf_counter()
                    for wait in [launch(backbone, count, count, threads) for _ in range(runs)]:
                        wait()
                    times.append(time.perf_counter() - start)
                slowdowns[threads].append(times[1] / (2 * times[0]))
        print(f"{backbone}, {side} px, batches of {batch}, {cores} cores: median (min to max)")
        print(f"  trainings an hour, side by side / one after another    {spread(speedups)}")
        print(f"  two runs at the same time / one after the other       {spread(slowdowns[1])}")
        print(f"  the same, {cores} threads                                    {spread(slowdowns[cores])}", flush=True)


if __name__ == "__main__":
    main()
