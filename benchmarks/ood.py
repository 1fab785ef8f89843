"""Measure the share of images that a model flags as out of distribution, for its own set and for other images.

    python benchmarks/ood.py [FOLDER ...]

Uses the model and the images of the current repository (run dvc repro first). The other images are those below each
FOLDER, SYNTHETIC phantoms with a seed that no default run uses (grey if the model takes grey images), noise, and images
of one grey level. For the table in docs/evidence.md, run it once in the repository with a folder of mammograms, and
once after recipes/honest.txt without a folder.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.commands import prediction
from core.images import decoder, inventory, phantom
from core.pipeline import files, tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    model = prediction.Model(Path("models"))
    images = files.read_array("data/prepared/images.npy")
    split = tables.read("data/split.csv", tables.SPLIT)
    random = np.random.default_rng(1)
    shape = (200, model.preparation.side, model.preparation.side, model.channels)
    phantoms = np.stack([patch.pixels for patch in phantom.draw(240, 12, model.preparation.side, seed=12345)])
    own_images = {f"own, {name}": images[split.loc[split["split"] == name, "row"]] for name in ("val", "test")}
    other_images = {
        "phantoms": phantoms if model.channels == 3 else decoder.grey_levels(phantoms)[..., None],
        "noise": random.integers(0, 256, shape, dtype=np.uint8),
        "uniform grey": np.broadcast_to(np.linspace(0, 255, 200).astype(np.uint8)[:, None, None, None], shape),
    }
    for folder in args.folders:
        paths = inventory.expand([folder])
        pixels = decoder.decode_all(paths, lambda path: Path(path).read_bytes(), decoder.pixels, model.preparation)
        stack, reasons = model.fit(list(pixels))
        other_images[str(folder)] = stack[[not reason for reason in reasons]]
    for name, stack in (own_images | other_images).items():
        flagged = model.scores(np.ascontiguousarray(stack), np.arange(len(stack)))[1] > 1
        print(f"{name:40} {len(stack):6,} images, {flagged.mean():.3f} flagged")


if __name__ == "__main__":
    main()
