"""How many images a model finds unlike what it was trained on: of its own set, of other sets, and of no set at all.

    python benchmarks/novelty.py [FOLDER ...]

Takes the model and the images of the repository that it is run in (after dvc repro), and compares with the images below
each FOLDER, with phantoms that no default run has (SYNTHETIC; grey for a model of grey images), noise, and even grey.
For the README: in the repository with a folder of mammograms, and after recipes/honest.txt without a folder.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.commands import prediction
from core.images import decoder, phantom, sources
from core.pipeline import files, tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    model = prediction.Model(Path("models"))
    images = files.read_array("data/prepared/images.npy")
    split = tables.read("data/split.csv", tables.SPLIT)
    random = np.random.default_rng(1)
    shape = (200, model.side, model.side, model.channels)
    drawn = np.stack([patch.pixels for patch in phantom.draw(240, 12, model.side, seed=12345)])
    known = {f"own, {part}": images[split.loc[split["part"] == part, "row"]] for part in ("val", "test")}
    others = {
        "phantoms": drawn if model.channels == 3 else decoder.grey_levels(drawn)[..., None],
        "noise": random.integers(0, 256, shape, dtype=np.uint8),
        "even grey": np.broadcast_to(np.linspace(0, 255, 200).astype(np.uint8)[:, None, None, None], shape),
    }
    for folder in asked.folders:
        names = sources.expand([folder])
        found = decoder.decode_all(names, lambda name: Path(name).read_bytes(), decoder.pixels, model.side)
        stack, why = model.fit(list(found))
        others[str(folder)] = stack[[not reason for reason in why]]
    for name, stack in (known | others).items():
        unlike = model.scores(np.ascontiguousarray(stack), np.arange(len(stack))).unlike > 1
        print(f"{name:40} {len(stack):6,} images, {unlike.mean():.3f} unlike")


if __name__ == "__main__":
    main()
