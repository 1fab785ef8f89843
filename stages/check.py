"""Hold this repository to its gates: fresh (dvc.lock), repeat (the committed result), better (than another revision).

Reads   dvc.lock, metrics/, gates.yaml; data/predictions.csv, data/split.csv and data/prepared/index.csv, by way of DVC
Writes  nothing here: repeat runs the pipeline in a temporary clone of the last commit
Alone   python stages/check.py [fresh] [repeat] [better] [--target REV]      no gate named: all three
"""

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compare import load
from core.commands import comparison, gates, revisions
from core.pipeline import entrypoint, files, yaml12
from core.pipeline.errors import Mistake

DATA_STAGES = ["download", "prepare", "audit", "split"]
MODEL_STAGES = ["train", "evaluate"]
METRICS = ["audit", "split", "train", "evaluate"]
PROVENANCE = "metrics/provenance/train.json"


def main() -> None:
    known = {"fresh": fresh, "repeat": repeat, "better": better}
    parser = argparse.ArgumentParser(description="Hold this repository to its gates.")
    parser.add_argument("gates", nargs="*", metavar="GATE", help=f"{', '.join(known)}; none named: all")
    parser.add_argument("--target", default="main", help="the revision that better compares with; default: main")
    asked = parser.parse_args()
    unknown = set(asked.gates) - set(known)
    if unknown:
        raise Mistake(f"there is no gate {', '.join(sorted(unknown))}: there are {', '.join(known)}")

    failed = 0
    for name in asked.gates or known:
        faults, passed = known[name](asked.target)
        said = [f"{name} FAILS: {fault}" for fault in faults] or [f"{name} passes: {passed}"]
        print(*said, sep="\n", flush=True)
        failed += bool(faults)
    if failed:
        raise Mistake(f"{failed} of {len(asked.gates or known)} gates failed")


def fresh(target: str) -> tuple[list[str], str]:
    said = subprocess.run(["dvc", "repro", "--allow-missing", "--dry"], capture_output=True, text=True)
    return gates.stale(said.stdout + said.stderr), "dvc.lock matches code, parameters and data"


def repeat(target: str) -> tuple[list[str], str]:
    with cloned() as clone:
        committed = lock(clone), metrics(clone), files.read_json(clone / PROVENANCE)
        print("repeat: the committed pipeline from scratch, in a clone", flush=True)
        ran = subprocess.run(["dvc", "repro"], cwd=clone, capture_output=True, text=True)
        if ran.returncode:
            return [f"the committed pipeline does not run: {(ran.stdout + ran.stderr).strip()[-1000:]}"], ""
        made = lock(clone), metrics(clone), files.read_json(clone / PROVENANCE)
    changed = gates.other_bytes(committed[0], made[0], MODEL_STAGES)
    faults = gates.other_bytes(committed[0], made[0], DATA_STAGES)
    if committed[2] == made[2]:
        return faults + changed, "every output has the committed bytes"
    faults += gates.far(committed[1], made[1], gates.limits().tolerance)
    return faults, "data stages give the committed bytes, and the figures are near enough for another machine"


def better(target: str) -> tuple[list[str], str]:
    faults = gates.below(metrics(Path()), gates.limits().floors)
    runs = load(target), load(revisions.WORKSPACE)
    images = comparison.test_images(runs, shared=True)
    if images.empty:  # other data: the floors still hold
        return faults, f"no figure is under its floor; no test image in common with {target}: nothing can be compared"
    faults += gates.worse(comparison.measure(runs, images), target)
    return faults, f"no figure is under its floor, and none is worse than on {target} by more than chance"


@contextmanager
def cloned() -> Iterator[Path]:
    """The last commit in a folder of its own, without anyone's cache."""
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", ".", clone], check=True)
        yield clone


def lock(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml12.load((folder / "dvc.lock").read_text(encoding="utf-8"))
    return content


def metrics(folder: Path) -> dict[str, Any]:
    return {name: files.read_json(folder / f"metrics/{name}.json") for name in METRICS}


if __name__ == "__main__":
    entrypoint.script(main)
