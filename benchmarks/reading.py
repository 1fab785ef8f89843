"""Measure reading and training from a memory-mapped array that is larger than memory, compared with one that fits.

    python benchmarks/reading.py [--gigabytes 3] [--side 64] [--memory 1] [--rounds 3]

Writes an array of random images in colour and reads some of them in random order. Each round runs every variant once,
in a new process that has read the whole array once before:
  in memory       the array is in the page cache
  larger          the process is limited to --memory gigabytes, page cache included, by a memory cgroup; if it
                  can't create a cgroup, the array is dropped from the page cache and the memory is not limited
  slow disk       as larger, from a disk that a cgroup slows down to 200 MB/s; left out if that is not permitted
  no prefetch     as larger, but without prefetching from disk (madvise)
Prints images per second for reading only and for training (one epoch of the default network in batches of 64).
A million images of 50 pixels: --gigabytes 7.5 --side 50; 100,000 of 224 pixels: --gigabytes 15 --side 224.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from ratios import spread

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.network import batches, networks, training
from core.pipeline import files
from core.pipeline.schemas import params_yaml

VARIANTS = ("in memory", "larger", "slow disk", "no prefetch")
BATCH = 64
SLOW = 200_000_000  # bytes a second
CGROUPS = (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max"))


def write(path: Path, size: int, side: int) -> None:
    shape = (size // (side * side * 3), side, side, 3)
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    random = np.random.default_rng(1)
    for start in range(0, len(array), 4096):
        chunk = array[start : start + 4096]
        chunk[:] = random.integers(0, 256, chunk.shape, dtype=np.uint8)
    array.flush()


def limit_memory(max_bytes: int) -> Path | None:
    """Limit this process to ``max_bytes``, page cache included. Returns its cgroup, or None if not permitted."""
    for root, limit in CGROUPS:
        group = Path(root, f"benchmark-{os.getpid()}")
        try:
            group.mkdir()
            (group / limit).write_text(str(max_bytes))
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            continue
        return group
    return None


def limit_disk(path: Path) -> Path | None:
    """Limit this process to SLOW bytes a second from the disk of ``path``. Returns its cgroup, or None."""
    device = path.stat().st_dev
    group = Path("/sys/fs/cgroup/blkio", f"benchmark-{os.getpid()}")
    try:
        group.mkdir()
        limit = f"{os.major(device)}:{os.minor(device)} {SLOW}"
        (group / "blkio.throttle.read_bps_device").write_text(limit)
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        return None
    return group


def measure(path: Path, variant: str, max_bytes: int) -> tuple[dict[str, float], list[Path]]:
    """Images per second for reading and for training, none if the disk can't be slowed down, and the cgroups of the
    process."""
    group = None
    with path.open("rb") as file:
        if variant != "in memory":
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            group = limit_memory(max_bytes)
        while (group or variant == "in memory") and file.read(2**24):
            pass
    groups = [group] if group else []
    if variant == "slow disk":
        if not (disk_group := limit_disk(path)):
            return {}, groups
        groups.append(disk_group)
    if variant == "no prefetch":
        batches.ImageLoader._advise_readahead = lambda self, rows: None
    images = files.read_array(path)
    side = images.shape[1]
    params = params_yaml.load()
    cfg = params.train.model_copy(update={"epochs": 1, "batch_size": BATCH, "device": "cpu"})
    labels = np.arange(len(images)) % 2
    order = np.random.default_rng(2).permutation(len(images))

    def train(rows: np.ndarray) -> None:
        splits = {"train": rows, "val": order[:2]}
        classifier = networks.Classifier(params.model.backbone, params.model.head, side)
        training.fit(classifier, training.Data(images, labels, splits), cfg, params.seed)

    def read(rows: np.ndarray) -> None:
        loader = batches.ImageLoader(images, torch.device("cpu"))
        for _ in loader.stream([rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]):
            pass

    train(order[-4 * BATCH :])  # warm-up: torch loads some of its parts in the first run
    rates = {}
    for load, count, run in (("reading", 50_000, read), ("training", 6_400, train)):
        count = max(10 * BATCH, min(count, count * 64**2 // side**2))
        rows, order = order[:count], order[count:]
        start = time.perf_counter()
        run(rows)
        rates[load] = count / (time.perf_counter() - start)
    return rates, groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--memory", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory(dir=".", prefix=".benchmark-") as folder:
        path = Path(folder) / "images.npy"
        write(path, int(args.gigabytes * 1e9), args.side)
        for _ in range(args.rounds):
            rounds.append({})
            for variant in VARIANTS:
                with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                    rounds[-1][variant], groups = pool.submit(measure, path, variant, int(args.memory * 1e9)).result()
                for group in groups:
                    group.rmdir()
    loads = list(rounds[0]["in memory"])
    print(f"An array of {args.gigabytes:g} GB, " + (f"{args.memory:g} GB of memory" if groups else "a cold cache"))
    print(f"{'':11}" + "".join(f"{load + ', images/s':>20}   ratio, median (min to max)" for load in loads))
    for variant in [name for name in VARIANTS if rounds[0][name]]:
        line = f"{variant:11}"
        for load in loads:
            rates = [results[variant][load] for results in rounds]
            ratios = [results[variant][load] / results["in memory"][load] for results in rounds]
            line += f"{statistics.median(rates):20,.0f}   {spread(ratios):29}"
        print(line.rstrip())


if __name__ == "__main__":
    main()
