"""Compare the search for near copies with imagededup's and cleanvision's on the same images: recall, precision, cost.

    pip install --no-deps --target FOLDER imagededup==0.3.3.post2 cleanvision==0.3.7
    PYTHONPATH=FOLDER python benchmarks/other_finders.py [--images 30000] [--each 1000] --sets SETS

The images are those of many_copies.py, which must have written them into SETS, as PNG of 64 x 64 pixels. imagededup
finds hashes (its PHash) that differ by 10 bits of 64 or fewer, its default; cleanvision finds equal hashes. Each runs
in its own process, which also reads the images.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import many_copies
from many_copies import CHANGES, FIRST, own_memory


def imagededup(folder: Path) -> list[tuple[str, str]]:
    from imagededup.methods import PHash

    found = PHash(verbose=False).find_duplicates(image_dir=str(folder), recursive=False)
    return [(one, other) for one, others in found.items() for other in others]


def cleanvision(folder: Path) -> list[tuple[str, str]]:
    from cleanvision import Imagelab

    lab = Imagelab(data_path=str(folder), verbose=False)
    lab.find_issues({"near_duplicates": {}}, n_jobs=1, verbose=False)
    sets = lab.info["near_duplicates"]["sets"]
    return [(Path(one).name, Path(other).name) for files in sets for one in files for other in files if one != other]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--each", type=int, default=1000)
    parser.add_argument("--sets", type=Path, required=True)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        name, folder, out = asked.one
        pairs = {"imagededup": imagededup, "cleanvision": cleanvision}[name](Path(folder))
        numbers = {tuple(sorted((int(one[:-4]), int(other[:-4])))) for one, other in pairs}
        np.save(out, np.array(sorted(numbers)).reshape(-1, 2))
        return
    chosen = np.random.RandomState(2).permutation(min(FIRST, asked.images))[: asked.each * len(CHANGES)]
    chosen = chosen.reshape(len(CHANGES), asked.each)
    stored = np.load(asked.sets / f"drawn-{min(FIRST, asked.images)}-{asked.each}.npy", mmap_mode="r")
    with tempfile.TemporaryDirectory(prefix="other-finders-") as temporary:
        folder = Path(temporary) / "images"
        folder.mkdir()
        count = chosen.size + asked.images
        for number in range(count):
            Image.fromarray(stored[number, :, :, 0]).save(folder / f"{number:07d}.png")
        for name in ("imagededup", "cleanvision"):
            out = Path(temporary) / f"{name}.npy"
            words = [sys.executable, __file__, "--sets", asked.sets, "--one", name, folder, out]
            began, most = time.perf_counter(), 0
            running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            while running.poll() is None:
                most = max(most, own_memory(running.pid))
                time.sleep(many_copies.EVERY)
            took = time.perf_counter() - began
            if running.returncode:
                print(f"{name} failed: {running.stderr.read()[-300:]}")
                continue
            pairs = np.load(out)
            recall, precision, own = many_copies.score(pairs, np.arange(count), chosen)
            print(f"{name}: {asked.images:,} images, {took:.0f} s, {most / 1e9:.2f} GB")
            print(f"  precision {precision:.4f}; {own:,} pairs without a planted image")
            for kind, each in zip(CHANGES, recall, strict=True):
                print(f"  {kind:30} {each:.3f}", flush=True)


if __name__ == "__main__":
    main()
