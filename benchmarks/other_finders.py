"""Compare the search for near copies with imagededup's and cleanvision's on the same images: recall, precision, cost.

    pip install --no-deps --target FOLDER imagededup==0.3.3.post2 cleanvision==0.3.7
    PYTHONPATH=FOLDER python benchmarks/other_finders.py [--images 30000] [--each 1000] --sets SETS

The images are the thumbnails of 64 x 64 pixels that many_copies.py has written into SETS, stored as PNG. imagededup
finds images whose hashes (PHash) differ by at most 10 of 64 bits, its default; cleanvision finds equal hashes. Each
runs in its own process, which also reads the images.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import permutations
from pathlib import Path

import numpy as np
from PIL import Image

import many_copies
from many_copies import CHANGES, FIRST, own_memory


def imagededup(folder: Path) -> list[tuple[str, str]]:
    from imagededup.methods import PHash

    duplicates = PHash(verbose=False).find_duplicates(image_dir=str(folder), recursive=False)
    return [(name, duplicate) for name, names in duplicates.items() for duplicate in names]


def cleanvision(folder: Path) -> list[tuple[str, str]]:
    from cleanvision import Imagelab

    lab = Imagelab(data_path=str(folder), verbose=False)
    lab.find_issues({"near_duplicates": {}}, n_jobs=1, verbose=False)
    sets = lab.info["near_duplicates"]["sets"]
    return [(Path(first).name, Path(second).name) for paths in sets for first, second in permutations(paths, 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--each", type=int, default=1000)
    parser.add_argument("--sets", type=Path, required=True)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, folder, out = args.worker
        pairs = {"imagededup": imagededup, "cleanvision": cleanvision}[name](Path(folder))
        numbers = {tuple(sorted(int(Path(name).stem) for name in pair)) for pair in pairs}
        np.save(out, np.array(sorted(numbers)).reshape(-1, 2))
        return
    sources = np.random.RandomState(2).permutation(min(FIRST, args.images))[: args.each * len(CHANGES)]
    sources = sources.reshape(len(CHANGES), args.each)
    thumbnails = np.load(args.sets / f"drawn-{min(FIRST, args.images)}-{args.each}.npy", mmap_mode="r")
    with tempfile.TemporaryDirectory(prefix="other-finders-") as temporary:
        folder = Path(temporary) / "images"
        folder.mkdir()
        count = sources.size + args.images
        for number in range(count):
            Image.fromarray(thumbnails[number, :, :, 0]).save(folder / f"{number:07d}.png")
        for name in ("imagededup", "cleanvision"):
            out = Path(temporary) / f"{name}.npy"
            command = [sys.executable, __file__, "--sets", args.sets, "--worker", name, folder, out]
            start, peak = time.perf_counter(), 0
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            while process.poll() is None:
                peak = max(peak, own_memory(process.pid))
                time.sleep(many_copies.INTERVAL)
            seconds = time.perf_counter() - start
            if process.returncode:
                print(f"{name} failed: {process.stderr.read()[-300:]}")
                continue
            pairs = np.load(out)
            recall, precision, own = many_copies.score(pairs, np.arange(count), sources)
            print(f"{name}: {args.images:,} images, {seconds:.0f} s, {peak / 1e9:.2f} GB")
            print(f"  precision {precision:.4f}; {own:,} pairs without a copy")
            for kind, value in zip(CHANGES, recall, strict=True):
                print(f"  {kind:30} {value:.3f}", flush=True)


if __name__ == "__main__":
    main()
