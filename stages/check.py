"""Check the gates: fresh (dvc.lock is up to date), repeat (a new run is equal), better (not worse than a revision).

Reads   dvc.lock, metrics/, gates.yaml; data/predictions.csv, data/split.csv and data/prepared/index.csv, through DVC
Writes  nothing; repeat runs the pipeline in a temporary clone of the last commit
Alone   python stages/check.py [fresh] [repeat] [better] [--target REV]      without a gate: all three
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.commands import comparison, gates, revisions
from core.pipeline import entrypoint, files, params
from core.pipeline.errors import PipelineError
from core.pipeline.schemas import params_yaml

DATA_STAGES = ["download", "prepare", "audit", "split"]
STAGES = [*DATA_STAGES, "train", "evaluate", "report"]
BY_HAND = ["params.yaml", "dvc.yaml"]  # files that people write
LOCK = "dvc.lock"
METRICS = ["audit", "split", "train", "evaluate"]
PROVENANCE = "metrics/provenance/train.json"


def main() -> None:
    checks = {"fresh": fresh, "repeat": repeat, "better": better}
    parser = entrypoint.argument_parser()
    parser.add_argument("gates", nargs="*", metavar="GATE", help=f"{', '.join(checks)}; default: all")
    parser.add_argument("--target", default="main", help="the revision for the gate better; default: main")
    args = parser.parse_args()
    if unknown := set(args.gates) - set(checks):
        raise PipelineError(f"unknown gate {', '.join(sorted(unknown))}: the gates are {', '.join(checks)}")

    failed = 0
    for name in args.gates or checks:
        faults, passed = checks[name](args.target)
        lines = [f"{name} FAILS: {fault}" for fault in faults] or [f"{name} passes: {passed}"]
        print(*lines, sep="\n", flush=True)
        failed += bool(faults)
    if failed:
        raise PipelineError(f"{failed} of {len(args.gates or checks)} gates failed")


def fresh(target: str) -> tuple[list[str], str]:
    faults = gates.conflicts([*map(files.require, [*BY_HAND, LOCK]), *sorted(Path("metrics").rglob("*.json"))])
    if not faults:
        result = subprocess.run(["dvc", "repro", "--allow-missing", "--dry"], capture_output=True, text=True)
        faults = gates.stale(result.stdout + result.stderr)
    return faults[:1], "dvc.lock matches code, parameters and data"


def repeat(target: str) -> tuple[list[str], str]:
    with cloned() as clone:
        committed = params.read(clone / LOCK), metrics(clone), files.read_json(clone / PROVENANCE)
        print("repeat: running the committed pipeline from scratch in a clone", flush=True)
        ran = subprocess.run(["dvc", "repro"], cwd=clone, capture_output=True, text=True)
        if ran.returncode:
            return [f"the committed pipeline fails: {(ran.stdout + ran.stderr).strip()[-1000:]}"], ""
        rerun = params.read(clone / LOCK), metrics(clone), files.read_json(clone / PROVENANCE)
    other = sorted(key for key in committed[2] | rerun[2] if committed[2].get(key) != rerun[2].get(key))
    stages = DATA_STAGES if other else STAGES
    faults = gates.other_bytes(committed[0], rerun[0], stages)
    if not other:
        return faults + gates.other_figure(committed[1], rerun[1]), "every output has the committed bytes"
    faults += gates.far(committed[1], rerun[1], gates.limits().tolerance)
    reason = f"{PROVENANCE} differs in {', '.join(other)}"
    return faults, f"the data stages give the committed bytes, and the figures are within the tolerance ({reason})"


def better(target: str) -> tuple[list[str], str]:
    faults = gates.below(metrics(Path()), gates.limits().floors)
    runs = comparison.load(target), comparison.load(revisions.WORKSPACE)
    images = comparison.test_images(runs, shared=True)
    if images.empty:  # other data: only the floors can be checked
        return faults, f"no figure is below its floor; there is no test image in common with {target} to compare"
    faults += gates.worse(comparison.measure(runs, images, primary=params_yaml.load().evaluate.primary), target)
    return faults, f"no figure is below its floor, and none is significantly worse than on {target}"


@contextmanager
def cloned() -> Iterator[Path]:
    """A clone of the last commit in a temporary folder, with an empty DVC cache."""
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", ".", clone], check=True)
        yield clone


def metrics(folder: Path) -> dict[str, Any]:
    return {name: files.read_json(folder / f"metrics/detail/{name}.json") for name in METRICS}


if __name__ == "__main__":
    entrypoint.script(main)
