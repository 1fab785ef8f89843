"""Measure time and memory of the data stages for sets of several sizes, and the exponent of growth.

    python benchmarks/scale.py [--images 3000 30000] [--side 50] [--train]

Draws phantom sets of these sizes, one patient per 1,000 images, each in its own clone, and runs the stages with dvc
repro. Growth is b in seconds = a * images ** b, for the last two sizes. Memory is the peak of the largest process of a
stage, without pages of mapped files, which the system can take back at any time. --train also runs the rest of the
pipeline with one epoch. It then prints the seconds of a dvc repro with nothing to do, and the seconds from a dvc repro
with another train.lr to the start of the first epoch. For the size of the IDC set: --images 3000 30000 277524.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import parameters

TOP = Path(__file__).resolve().parents[1]
STAGES = ("download", "prepare", "audit", "split")
PROMISED = "all but download"
FAR = 10_000_000  # images, for the extrapolation
EVERY = 0.05  # seconds between two readings of the memory


def own_memory(pid: int) -> int:
    """Bytes of memory not backed by a file, of the largest process among ``pid`` and its descendants."""
    most = 0
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        most = 1024 * sum(int(status.get(key, "0").split()[0]) for key in ("RssAnon", "RssShmem"))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, ProcessLookupError):
        return most  # the process has ended
    return max([most, *(own_memory(int(child)) for child in children)])


def measure(folder: Path, *words: str) -> tuple[float, int]:
    """Run a command. Returns its seconds and its peak memory in bytes."""
    began, most = time.perf_counter(), 0
    with (folder / "log.txt").open("w+") as log:
        running = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)
        while running.poll() is None:
            most = max(most, own_memory(running.pid))
            time.sleep(EVERY)
        log.seek(0)
        if running.returncode:
            sys.exit(f"{' '.join(words)}:\n{log.read()}")
    return time.perf_counter() - began, most


def until_training(folder: Path) -> float:
    """Seconds from dvc repro to the line that train prints before its first step."""
    began = time.perf_counter()
    running = subprocess.Popen(["dvc", "repro"], cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True)
    for line in running.stdout:
        if "images to train on" in line:
            break
    took = time.perf_counter() - began
    os.killpg(running.pid, 9)
    running.communicate()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[3_000, 30_000])
    parser.add_argument("--side", type=int, default=50)
    parser.add_argument("--train", action="store_true")
    asked = parser.parse_args()
    taken: dict[int, dict[str, tuple[float, int]]] = {}
    lines = []
    for count in asked.images:
        with tempfile.TemporaryDirectory(prefix="scale-") as place:
            folder = Path(place) / "clone"
            subprocess.run(["git", "clone", "--quiet", TOP, folder], check=True)
            parameters.change(folder / "params.yaml", {
                "data.phantom.images": count, "data.phantom.patients": max(12, round(count / 1000)),
                "data.phantom.side": asked.side, "prepare.image_size": asked.side,
                "train.epochs": 1, "train.batch_size": 256,
            })  # fmt: skip
            taken[count] = {}
            for stage in STAGES:
                taken[count][stage] = measure(folder, "dvc", "repro", "--single-item", stage)
                seconds, most = taken[count][stage]
                print(f"{count:,} images, {stage}: {seconds:.1f} s, {most / 1e9:.2f} GB", file=sys.stderr, flush=True)
            three = [taken[count][stage] for stage in STAGES[1:]]
            taken[count][PROMISED] = (sum(seconds for seconds, _ in three), max(most for _, most in three))
            if asked.train:
                seconds, most = measure(folder, "dvc", "repro")
                idle, _ = measure(folder, "dvc", "repro")
                parameters.change(folder / "params.yaml", {"train.lr": 0.0005})
                changed = until_training(folder)
                lines.append(
                    f"{count:,} images: one epoch and evaluate {seconds:.0f} s, {most / 1e9:.2f} GB; "
                    f"nothing to do {idle:.1f} s; train.lr changed: training starts after {changed:.1f} s"
                )
    print(f"{'stage':17}" + "".join(f"{f'{count:,}':>9}, s{'GB':>6}" for count in taken), end="")
    print(f"{'growth':>8}   {FAR:,}" if len(taken) > 1 else "")
    for stage in (*STAGES, PROMISED):
        points = [(count, *stages[stage]) for count, stages in taken.items()]
        print(f"{stage:17}" + "".join(f"{seconds:11.1f}{most / 1e9:6.2f}" for _, seconds, most in points), end="")
        print(beyond(*points[-2:]) if len(points) > 1 else "")
    print("\n".join(lines))


def beyond(less: tuple[int, float, int], more: tuple[int, float, int]) -> str:
    """Growth, and an extrapolation to FAR images: time with this exponent, memory linearly."""
    growth = math.log(more[1] / less[1]) / math.log(more[0] / less[0])
    hours = more[1] * (FAR / more[0]) ** growth / 3600
    most = more[2] + (more[2] - less[2]) / (more[0] - less[0]) * (FAR - more[0])
    return f"{growth:8.2f}   {hours:.1f} h, {max(most, more[2]) / 1e9:.1f} GB"


if __name__ == "__main__":
    main()
