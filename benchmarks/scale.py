"""Measure time and memory of the data stages for sets of several sizes, and the exponent of growth.

    python benchmarks/scale.py [--images 3000 30000] [--side 50] [--train]

Draws phantom sets of these sizes, one patient per 1,000 images, each in its own clone, and runs the stages with dvc
repro. Growth is b in seconds = a * images ** b, for the last two sizes. Memory is the peak of the largest process of a
stage, without pages of mapped files, which the system can take back at any time. --train also runs the rest of the
pipeline with one epoch, and prints the seconds of a dvc repro with nothing to do, and those from a dvc repro with
another train.lr to the start of the first epoch. For the size of the IDC set: --images 3000 30000 277524.
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
TOTAL = "all but download"
FAR = 10_000_000  # images, for the extrapolation
INTERVAL = 0.05  # seconds between two readings of the memory


def own_memory(pid: int) -> int:
    """Bytes of memory not backed by a file, of the largest process among ``pid`` and its descendants."""
    peak = 0
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        peak = 1024 * sum(int(status.get(key, "0").split()[0]) for key in ("RssAnon", "RssShmem"))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, ProcessLookupError):
        return peak  # the process has ended
    return max([peak, *(own_memory(int(child)) for child in children)])


def measure(folder: Path, *command: str) -> tuple[float, int]:
    """Run a command. Returns its seconds and its peak memory in bytes."""
    start, peak = time.perf_counter(), 0
    with (folder / "log.txt").open("w+") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        while process.poll() is None:
            peak = max(peak, own_memory(process.pid))
            time.sleep(INTERVAL)
        log.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(command)}:\n{log.read()}")
    return time.perf_counter() - start, peak


def seconds_until_training(folder: Path) -> float:
    """Seconds from dvc repro to the line that train prints before its first step."""
    start = time.perf_counter()
    process = subprocess.Popen(["dvc", "repro"], cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True)
    for line in process.stdout:
        if "images to train on" in line:
            break
    seconds = time.perf_counter() - start
    os.killpg(process.pid, 9)
    process.communicate()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[3_000, 30_000])
    parser.add_argument("--side", type=int, default=50)
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    results: dict[int, dict[str, tuple[float, int]]] = {}
    lines = []
    for count in args.images:
        with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
            folder = Path(temporary) / "clone"
            subprocess.run(["git", "clone", "--quiet", TOP, folder], check=True)
            parameters.change(folder / "params.yaml", {
                "data.phantom.images": count, "data.phantom.patients": max(12, round(count / 1000)),
                "data.phantom.side": args.side, "prepare.image_size": args.side,
                "train.epochs": 1, "train.batch_size": 256,
            })  # fmt: skip
            results[count] = {}
            for stage in STAGES:
                results[count][stage] = measure(folder, "dvc", "repro", "--single-item", stage)
                seconds, peak = results[count][stage]
                print(f"{count:,} images, {stage}: {seconds:.1f} s, {peak / 1e9:.2f} GB", file=sys.stderr, flush=True)
            seconds_of, peaks = zip(*(results[count][stage] for stage in STAGES[1:]), strict=True)
            results[count][TOTAL] = sum(seconds_of), max(peaks)
            if args.train:
                seconds, peak = measure(folder, "dvc", "repro")
                idle, _ = measure(folder, "dvc", "repro")
                parameters.change(folder / "params.yaml", {"train.lr": 0.0005})
                changed = seconds_until_training(folder)
                lines.append(
                    f"{count:,} images: one epoch and evaluate {seconds:.0f} s, {peak / 1e9:.2f} GB; "
                    f"nothing to do {idle:.1f} s; train.lr changed: training starts after {changed:.1f} s"
                )
    print(f"{'stage':17}" + "".join(f"{f'{count:,}':>9}, s{'GB':>6}" for count in results), end="")
    print(f"{'growth':>8}   {FAR:,}" if len(results) > 1 else "")
    for stage in (*STAGES, TOTAL):
        points = [(count, *stages[stage]) for count, stages in results.items()]
        print(f"{stage:17}" + "".join(f"{seconds:11.1f}{peak / 1e9:6.2f}" for _, seconds, peak in points), end="")
        print(extrapolate(*points[-2:]) if len(points) > 1 else "")
    print("\n".join(lines))


def extrapolate(small: tuple[int, float, int], large: tuple[int, float, int]) -> str:
    """Growth, and an extrapolation to FAR images: time with this exponent, memory linearly. ``small`` and ``large`` are
    the number of images, the seconds and the bytes of two sets."""
    growth = math.log(large[1] / small[1]) / math.log(large[0] / small[0])
    hours = large[1] * (FAR / large[0]) ** growth / 3600
    peak = large[2] + (large[2] - small[2]) / (large[0] - small[0]) * (FAR - large[0])
    return f"{growth:8.2f}   {hours:.1f} h, {max(peak, large[2]) / 1e9:.1f} GB"


if __name__ == "__main__":
    main()
