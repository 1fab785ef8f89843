"""Measure how well near copies are found in large sets and in sets of images that are much alike.

    python benchmarks/many_copies.py [--images 30000 277524] [--each 1000]      phantoms (SYNTHETIC) of 50 pixels
    python benchmarks/many_copies.py --cut [FOLDER] [--images 30000 100000]     patches cut from few pictures

Adds copies of each kind of planted_copies.py, of different images of the first 30,000, so that every size has the same
copies. --cut draws SYNTHETIC pictures of 1,600 pixels, each of one patient's tissue, and cuts patches of 50 pixels;
with a FOLDER, it cuts patches of 128 pixels from the images there. Two patches of a picture are a quarter of their side
apart or more. The audit calls images copies up to a shift of 0.12 of the side, so that these are none.

Recall is the share of copies that are found as a pair with their original. Precision is the share of found pairs that
are planted, of those with a planted image. Pairs without one are counted apart: a picture can show the same thing
twice. Time and memory are those of the search for near copies; memory without pages of mapped files. Growth is b in
seconds = a * images ** b between two sizes. Seconds of all processors are also given, since these hardly depend on what
else the machine does. For the goal of the project: --images 30000 277524 1000000. This takes 4 GB in --sets FOLDER,
where the images stay for the next time.
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
from scale import EVERY, own_memory

FIRST = 30_000  # images of which some are copied
SIDE = 50  # pixels of a drawn patch, as in the IDC set
PICTURE = 1600
OF_PATIENT = 1000  # drawn patches of one patient
FLAT = 8  # grey levels: patches of a picture with a smaller standard deviation are left out


def drawn() -> Iterator[np.ndarray]:
    """Phantoms of which none is a copy."""
    for patient in itertools.count():
        patches = phantom._patient(patient, OF_PATIENT, SIDE, 1, planted=False, conflict=False)
        yield from (patch.pixels for patch in patches)


def pictures(folder: Path | None, side: int = PICTURE) -> Iterator[np.ndarray]:
    if folder is None:
        for patient in itertools.count():
            yield from (patch.pixels for patch in phantom._patient(patient, 4, side, 3, False, False))
    known = set()
    for path in inventory.expand([folder]):
        content = Path(path).read_bytes()
        if content not in known:
            known.add(content)
            yield np.asarray(decoder.decode(content)[0])


def cut(picture: np.ndarray, side: int) -> Iterator[np.ndarray]:
    step = math.ceil(side / 4)
    for top in range(0, picture.shape[0] - side + 1, step):
        for left in range(0, picture.shape[1] - side + 1, step):
            patch = picture[top : top + side, left : left + side]
            if patch.std() >= FLAT:
                yield patch


def thumbnail(image: Image.Image) -> np.ndarray:
    return decoder.grey_levels(preparation.square(image, decoder.THUMBNAIL)[None])[0]


def write(path: Path, patches: Iterator[np.ndarray], count: int, chosen: np.ndarray) -> int:
    """Write thumbnails of the copies of ``chosen`` (kinds, each), then those of ``count`` patches, or fewer if there
    are not so many. Returns how many patches there are."""
    place = {int(number): place for place, number in enumerate(chosen.ravel())}
    changes, each = list(CHANGES.values()), chosen.shape[1]
    shape = (chosen.size + count, decoder.THUMBNAIL, decoder.THUMBNAIL, 1)
    thumbnails = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    number = -1
    for number, patch in enumerate(itertools.islice(patches, count)):
        image = Image.fromarray(patch)
        thumbnails[chosen.size + number, :, :, 0] = thumbnail(image)
        if number in place:
            change = changes[place[number] // each]
            thumbnails[place[number], :, :, 0] = thumbnail(change(image))
    return number + 1


def search(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float, int]:
    """The pairs found (P, 2), which images were compared, seconds, seconds of all processors, and bytes of memory."""
    most, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(EVERY):
            most = max(most, own_memory(os.getpid()))

    grey = decoder.Grey(thumbnails)
    phash = hashes.bits(hashes.coefficients(grey))
    watching = threading.Thread(target=watch)
    watching.start()
    began, worked = time.perf_counter(), time.process_time()
    members = np.flatnonzero(copies.levels(grey)[1] >= copies.MIN_STD)
    found, _ = copies.near_pairs(grey, phash, members)
    took, worked = time.perf_counter() - began, time.process_time() - worked
    ended.set()
    watching.join()
    return found[["first", "second"]].to_numpy(), members, took, worked, most


def score(pairs: np.ndarray, members: np.ndarray, chosen: np.ndarray) -> tuple[list[float], float, int]:
    """Recall of each kind, precision, and the number of pairs without a planted image."""
    planted = chosen.size
    own = {(one, other) for one, other in pairs.tolist() if one >= planted}
    source = planted + chosen.ravel()
    right, wrong = np.zeros(planted, dtype=bool), 0
    for one, other in pairs.tolist():
        if one < planted:
            sources = sorted((int(source[one]), int(source[other]) if other < planted else other))
            if sources[0] == sources[1]:
                right[one] = True
            elif tuple(sources) not in own:  # a copy of one image of a pair is also a copy of the other
                wrong += 1
    compared = (np.isin(np.arange(planted), members) & np.isin(source, members)).reshape(chosen.shape)
    recall = [float(found[seen].mean()) for found, seen in zip(right.reshape(chosen.shape), compared, strict=True)]
    return recall, float(right.sum() / max(right.sum() + wrong, 1)), len(own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[30_000, 277_524])
    parser.add_argument("--each", type=int, default=1000, help="copies of each kind (default: 1000)")
    parser.add_argument("--cut", type=Path, nargs="?", const="", help="cut patches from pictures")
    parser.add_argument("--sets", type=Path, help="folder for the images (default: a temporary one)")
    asked = parser.parse_args()
    first = min(FIRST, *asked.images)
    chosen = np.random.RandomState(2).permutation(first)[: asked.each * len(CHANGES)].reshape(len(CHANGES), asked.each)
    name = "drawn" if asked.cut is None else f"cut-{asked.cut.name}"
    with tempfile.TemporaryDirectory(prefix="many-copies-") as temporary:
        path = (asked.sets or Path(temporary)) / f"{name}-{first}-{asked.each}.npy"
        if not path.exists() or len(np.load(path, mmap_mode="r")) < chosen.size + max(asked.images):
            folder = asked.cut if asked.cut and asked.cut.name else None
            cuts = (patch for picture in pictures(folder) for patch in cut(picture, 128 if folder else SIDE))
            there = write(path, drawn() if asked.cut is None else cuts, max(asked.images), chosen)
            if there < max(asked.images):
                path.unlink()
                sys.exit(f"the pictures in {folder} give {there:,} patches: ask for fewer than {max(asked.images):,}")
        results = []
        for count in asked.images:
            thumbnails = np.load(path, mmap_mode="r")[: chosen.size + count]
            pairs, members, *cost = search(thumbnails)
            results.append((*score(pairs, members, chosen), *cost))
            print(f"{count:,} images: {cost[0]:.0f} s", file=sys.stderr, flush=True)
    report(asked.images, results)


def report(sizes: list[int], results: list[tuple[list[float], float, int, float, float, int]]) -> None:
    recalls, precisions, own, took, worked, most = zip(*results, strict=True)
    print(f"{'images':37}" + "".join(f"{count:12,}" for count in sizes))
    for kind, name in enumerate(CHANGES):
        print(f"{'recall: ' + name:37}" + "".join(f"{recall[kind]:12.3f}" for recall in recalls))
    for name, values, form in (
        ("precision", precisions, "12.4f"), ("pairs without a planted image", own, "12,"), ("seconds", took, "12.1f"),
        ("seconds of all processors", worked, "12.1f"), ("memory, GB", [each / 1e9 for each in most], "12.2f"),
    ):  # fmt: skip
        print(f"{name:37}" + "".join(format(value, form) for value in values))
    for name, values in (("growth of seconds", took), ("growth of all processors'", worked)):
        steps = zip(sizes, sizes[1:], values, values[1:], strict=False)
        growth = [math.log(more / less) / math.log(many / few) for few, many, less, more in steps]
        print(f"{name:49}" + "".join(f"{each:12.2f}" for each in growth))


if __name__ == "__main__":
    main()
