"""Measure how well near copies are found in large sets, and in sets of similar images.

    python benchmarks/many_copies.py [--images 30000 277524] [--each 1000]      phantoms (SYNTHETIC) of 50 pixels
    python benchmarks/many_copies.py --cut [FOLDER] [--images 30000 100000]     patches cut from few pictures

Adds copies of each kind of planted_copies.py. Each copy is of another image among the first 30,000, so that sets of all
sizes have the same copies. --cut draws SYNTHETIC pictures of 1,600 pixels, each of one patient's tissue, and cuts
patches of 50 pixels; with a FOLDER, it cuts patches of 128 pixels from the images there. Patches of a picture are at
least a quarter of their side apart. They are not copies: the audit finds copies up to a shift of 0.12 of the side.

Recall is the share of copies that are found as a pair with their original. Precision is the share of planted pairs
among the pairs found that contain a copy. Pairs without a copy are counted separately, since a picture can show the
same thing twice. Time and memory are those of the search for near copies; memory is without pages of mapped files.
Growth is b in seconds = a * images ** b between two sizes. CPU seconds are also printed, since they hardly depend on
what else the machine does. The table in README.md: --images 30000 277524 1000000. This takes 4 GB in --sets FOLDER,
where the images are stored for the next run.
"""

import argparse
import itertools
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.audit import copies, hashes
from core.images import decoder, inventory, phantom, preparation

from planted_copies import CHANGES
from scale import INTERVAL, own_memory

FIRST = 30_000  # images of which some are copied
SIDE = 50  # pixels of a drawn patch, as in the IDC set
PICTURE_SIDE = 1600
PER_PATIENT = 1000  # drawn patches of one patient
MIN_STD = 8  # grey levels: patches of a picture with a smaller standard deviation are left out


def phantom_patches() -> Iterator[np.ndarray]:
    """Phantoms of which none is a copy."""
    for patient in itertools.count():
        patches = phantom._patient(patient, PER_PATIENT, SIDE, 1, planted=False, conflict=False)
        yield from (patch.pixels for patch in patches)


def pictures(folder: Path | None, side: int = PICTURE_SIDE) -> Iterator[np.ndarray]:
    if folder is None:
        for patient in itertools.count():
            yield from (patch.pixels for patch in phantom._patient(patient, 4, side, 3, False, False))
    seen = set()
    for path in inventory.expand([folder]):
        content = Path(path).read_bytes()
        if content not in seen:
            seen.add(content)
            yield np.asarray(decoder.decode(content)[0])


def cut(picture: np.ndarray, side: int) -> Iterator[np.ndarray]:
    step = math.ceil(side / 4)
    for top in range(0, picture.shape[0] - side + 1, step):
        for left in range(0, picture.shape[1] - side + 1, step):
            patch = picture[top : top + side, left : left + side]
            if patch.std() >= MIN_STD:
                yield patch


def thumbnail(image: Image.Image) -> np.ndarray:
    return decoder.grey_levels(preparation.square(image, decoder.THUMBNAIL)[None])[0]


def write(path: Path, patches: Iterator[np.ndarray], count: int, sources: np.ndarray) -> int:
    """Write thumbnails of copies of the patches numbered ``sources`` (kinds, copies per kind), then those of ``count``
    patches, or of all if there are fewer. Returns the number of patches."""
    copy_of = {int(source): copy for copy, source in enumerate(sources.ravel())}
    changes, per_kind = list(CHANGES.values()), sources.shape[1]
    shape = (sources.size + count, decoder.THUMBNAIL, decoder.THUMBNAIL, 1)
    thumbnails = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    number = -1
    for number, patch in enumerate(itertools.islice(patches, count)):
        image = Image.fromarray(patch)
        thumbnails[sources.size + number, :, :, 0] = thumbnail(image)
        if number in copy_of:
            change = changes[copy_of[number] // per_kind]
            thumbnails[copy_of[number], :, :, 0] = thumbnail(change(image))
    return number + 1


def search(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float, int]:
    """The pairs found (P, 2), the images that were compared, seconds, CPU seconds, and the peak of memory in bytes."""
    peak, finished = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not finished.wait(INTERVAL):
            peak = max(peak, own_memory(os.getpid()))

    grey = decoder.Grey(thumbnails)
    phash = hashes.bits(hashes.coefficients(grey))
    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu_start = time.perf_counter(), time.process_time()
    members = np.flatnonzero(copies.levels(grey)[1] >= copies.MIN_STD)
    pairs, _ = copies.near_pairs(grey, phash, members)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    finished.set()
    watcher.join()
    return pairs[["first", "second"]].to_numpy(), members, seconds, cpu_seconds, peak


def score(pairs: np.ndarray, members: np.ndarray, sources: np.ndarray) -> tuple[list[float], float, int]:
    """Recall of each kind, precision, and the number of pairs without a planted copy."""
    count = sources.size
    own = {(first, second) for first, second in pairs.tolist() if first >= count}
    source = count + sources.ravel()
    hit, false_positives = np.zeros(count, dtype=bool), 0
    for first, second in pairs.tolist():
        if first < count:
            originals = sorted((int(source[first]), int(source[second]) if second < count else second))
            if originals[0] == originals[1]:
                hit[first] = True
            elif tuple(originals) not in own:  # a copy of one image of a pair is also a copy of the other
                false_positives += 1
    compared = (np.isin(np.arange(count), members) & np.isin(source, members)).reshape(sources.shape)
    recall = [float(hits[mask].mean()) for hits, mask in zip(hit.reshape(sources.shape), compared, strict=True)]
    return recall, float(hit.sum() / max(hit.sum() + false_positives, 1)), len(own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[30_000, 277_524])
    parser.add_argument("--each", type=int, default=1000, help="copies of each kind (default: 1000)")
    parser.add_argument("--cut", type=Path, nargs="?", const="", help="cut patches from pictures")
    parser.add_argument("--sets", type=Path, help="folder for the images (default: a temporary one)")
    args = parser.parse_args()
    candidates = min(FIRST, *args.images)
    sources = np.random.RandomState(2).permutation(candidates)[: args.each * len(CHANGES)]
    sources = sources.reshape(len(CHANGES), args.each)
    name = "drawn" if args.cut is None else f"cut-{args.cut.name}"
    with tempfile.TemporaryDirectory(prefix="many-copies-") as temporary:
        path = (args.sets or Path(temporary)) / f"{name}-{candidates}-{args.each}.npy"
        if not path.exists() or len(np.load(path, mmap_mode="r")) < sources.size + max(args.images):
            folder = args.cut if args.cut and args.cut.name else None
            cuts = (patch for picture in pictures(folder) for patch in cut(picture, 128 if folder else SIDE))
            patches = phantom_patches() if args.cut is None else cuts
            available = write(path, patches, max(args.images), sources)
            if available < max(args.images):
                path.unlink()
                sys.exit(
                    f"the pictures in {folder} give {available:,} patches: ask for fewer than {max(args.images):,}"
                )
        results = []
        for count in args.images:
            thumbnails = np.load(path, mmap_mode="r")[: sources.size + count]
            pairs, members, *cost = search(thumbnails)
            results.append((*score(pairs, members, sources), *cost))
            print(f"{count:,} images: {cost[0]:.0f} s", file=sys.stderr, flush=True)
    report(args.images, results)


def report(sizes: list[int], results: list[tuple[list[float], float, int, float, float, int]]) -> None:
    recalls, precisions, own, seconds, cpu_seconds, peaks = zip(*results, strict=True)
    print(f"{'images':37}" + "".join(f"{count:12,}" for count in sizes))
    for kind, name in enumerate(CHANGES):
        print(f"{'recall: ' + name:37}" + "".join(f"{recall[kind]:12.3f}" for recall in recalls))
    for name, values, spec in (
        ("precision", precisions, "12.4f"), ("pairs without a copy", own, "12,"), ("seconds", seconds, "12.1f"),
        ("CPU seconds", cpu_seconds, "12.1f"), ("memory, GB", [peak / 1e9 for peak in peaks], "12.2f"),
    ):  # fmt: skip
        print(f"{name:37}" + "".join(format(value, spec) for value in values))
    for name, values in (("growth of seconds", seconds), ("growth of CPU seconds", cpu_seconds)):
        steps = zip(sizes, sizes[1:], values, values[1:], strict=False)
        growth = [math.log(after / before) / math.log(size / smaller) for smaller, size, before, after in steps]
        print(f"{name:49}" + "".join(f"{exponent:12.2f}" for exponent in growth))


if __name__ == "__main__":
    main()
