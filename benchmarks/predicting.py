"""Measure predict.py on many images: its time compared with decoding only, on one core and on all, and its memory.

    python benchmarks/predicting.py [--images 10000] [--side 512] [--rounds 1]

Predicts with models/ (run dvc repro first) on PNG phantoms of --side pixels: 200 distinct files, each linked under many
names. Then predicts on a tenth of the images, since memory must not grow with their number. Times are those of whole
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


def taken(*words: str | Path, cores: set[int] | None = None) -> tuple[float, int]:
    """Run a process. Returns its seconds and its peak memory in bytes."""
    began = time.perf_counter()
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               preexec_fn=cores and (lambda: os.sched_setaffinity(0, cores)))  # fmt: skip
    said = running.stderr.read()
    _, status, used = os.wait4(running.pid, 0)
    if status:
        sys.exit(said.decode())
    return time.perf_counter() - began, used.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    core = {min(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as place:
        whole, tenth = Path(place, "whole"), Path(place, "tenth")
        whole.mkdir()
        tenth.mkdir()
        drawn = [whole / f"{number:06}.png" for number in range(DISTINCT)]
        for path, patch in zip(drawn, phantom.draw(DISTINCT, 10, asked.side, seed=1), strict=True):
            Image.fromarray(patch.pixels).save(path)
        for folder, first, count in ((whole, DISTINCT, asked.images), (tenth, 0, asked.images // 10)):
            for number in range(first, count):
                os.link(drawn[number % DISTINCT], folder / f"{number:06}.png")
        predict = (sys.executable, TOP / "stages/predict.py")
        decode = (sys.executable, "-c", DECODE, TOP / "stages")
        rounds = [
            {
                "decode, one core": taken(*decode, whole, cores=core),
                "decode, all cores": taken(*decode, whole),
                "predict, all cores": taken(*predict, whole),
                "predict, a tenth": taken(*predict, tenth),
            }
            for _ in range(asked.rounds)
        ]
    print(f"{asked.images:,} images of {asked.side} pixels, {len(os.sched_getaffinity(0))} cores")
    print(f"{'':19}{'s':>8}{'images/s':>10}{'GB':>6}   ratio to decoding on all cores, median (min to max)")
    for name in rounds[0]:
        seconds = statistics.median(each[name][0] for each in rounds)
        ratios = [each[name][0] / each["decode, all cores"][0] for each in rounds]
        count = asked.images // 10 if name.endswith("tenth") else asked.images
        most = max(each[name][1] for each in rounds)
        print(f"{name:19}{seconds:8.1f}{count / seconds:10.0f}{most / 1e9:6.2f}   "
              f"{spread(ratios)}")  # fmt: skip


if __name__ == "__main__":
    main()
