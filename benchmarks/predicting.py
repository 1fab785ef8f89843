"""Measure predict.py on many images: its time compared with decoding only, on one core and on all, and its memory.

    python benchmarks/predicting.py [--images 10000] [--side 512] [--rounds 1]

Predicts with models/ (run dvc repro first) on PNG phantoms of --side pixels: 200 distinct files, each with many hard
links. Predicts on a tenth of the images as well, since memory must not grow with their number. Times are those of whole
processes, including their start.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from ratios import spread

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "stages"))

from core.images import phantom  # noqa: E402

DISTINCT = 200
DECODE = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from core.images import decoder
from core.images.preparation import Preparation
paths = sorted(Path(sys.argv[2]).iterdir())
for _ in decoder.decode_all(paths, Path.read_bytes, decoder.pixels, Preparation(64)):
    pass
"""


def measure(*command: str | Path, cores: set[int] | None = None) -> tuple[float, int]:
    """Run a process. Returns its seconds and its peak memory in bytes."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               preexec_fn=cores and (lambda: os.sched_setaffinity(0, cores)))  # fmt: skip
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(errors.decode())
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    core = {min(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        full, tenth = Path(temporary, "full"), Path(temporary, "tenth")
        full.mkdir()
        tenth.mkdir()
        paths = [full / f"{number:06}.png" for number in range(DISTINCT)]
        for path, patch in zip(paths, phantom.draw(DISTINCT, 10, args.side, seed=1), strict=True):
            Image.fromarray(patch.pixels).save(path)
        for folder, first, count in ((full, DISTINCT, args.images), (tenth, 0, args.images // 10)):
            for number in range(first, count):
                os.link(paths[number % DISTINCT], folder / f"{number:06}.png")
        predict = (sys.executable, TOP / "stages/predict.py")
        decode = (sys.executable, "-c", DECODE, TOP / "stages")
        rounds = [
            {
                "decode, one core": measure(*decode, full, cores=core),
                "decode, all cores": measure(*decode, full),
                "predict, all cores": measure(*predict, full),
                "predict, a tenth": measure(*predict, tenth),
            }
            for _ in range(args.rounds)
        ]
    print(f"{args.images:,} images of {args.side} pixels, {len(os.sched_getaffinity(0))} cores")
    print(f"{'':19}{'s':>8}{'images/s':>10}{'GB':>6}   ratio to decoding on all cores, median (min to max)")
    for name in rounds[0]:
        seconds = statistics.median(results[name][0] for results in rounds)
        ratios = [results[name][0] / results["decode, all cores"][0] for results in rounds]
        count = args.images // 10 if name.endswith("tenth") else args.images
        peak = max(results[name][1] for results in rounds)
        print(f"{name:19}{seconds:8.1f}{count / seconds:10.0f}{peak / 1e9:6.2f}   {spread(ratios)}")


if __name__ == "__main__":
    main()
