"""Kill the pipeline at random moments, run the same command again, and compare the result with an undisturbed run.

    python benchmarks/kills.py [--training 50] [--stages 20] [--seed 1]

Training is killed in the committed default run with ten epochs, the other stages in the same run with one epoch. Each
kill sends SIGKILL to the whole process group (like a loss of power), to the stage only, or to DVC only, which leaves
the stage running. At the end, dvc.lock and every output must have the same bytes as in the undisturbed run, and no
partly written file must remain. Run nothing else at the same time: it makes the benchmark many times slower.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "stages"))

from core.pipeline import files  # noqa: E402

import parameters  # noqa: E402

TARGETS = ("all", "all", "all", "stage", "stage", "dvc")


def clone(source: Path, folder: Path, changes: dict[str, float]) -> Path:
    subprocess.run(["git", "clone", "--quiet", source, folder], check=True)
    parameters.change(folder / "params.yaml", changes)
    return folder


def start_repro(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(["dvc", "repro"], cwd=folder, stdout=output, stderr=output, start_new_session=True)


def content(folder: Path) -> dict[str, str]:
    """The hash of every file that a run leaves, without the files of DVC and git."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not {".dvc", ".git"} & set(path.parts)]
    # Leave out Python's caches, and the test links that a killed DVC leaves beside its outputs.
    paths = [path for path in paths if "__pycache__" not in path.parts and not re.match(r"\..{22}\.tmp$", path.name)]
    return {str(path.relative_to(folder)): files.sha256(path) for path in paths}


def stage_process(folder: Path) -> int | None:
    """The id of the process that runs a stage script in this folder, or None."""
    for entry in Path("/proc").iterdir():
        try:
            script = (entry / "cmdline").read_bytes().split(b"\0")[1:2]
            if script and re.match(rb"stages/\w+\.py$", script[0]) and (entry / "cwd").resolve() == folder:
                return int(entry.name)
        except (OSError, ValueError):
            pass
    return None


def kill(run: subprocess.Popen[bytes], folder: Path, target: str) -> None:
    """Kill ``all`` processes of a run, its ``stage`` or ``dvc``."""
    process = stage_process(folder)
    if target == "stage" and process:
        os.kill(process, signal.SIGKILL)
        run.wait()  # let DVC report that the stage failed
    elif target == "dvc":
        run.kill()
    else:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def run_with_kills(folder: Path, max_wait: float, max_kills: int, rng: random.Random) -> list[tuple[str, str]]:
    """Run to the end with at most ``max_kills`` kills, each at most ``max_wait`` seconds after a start. Returns the
    stage and the target of each kill."""
    kills: list[tuple[str, str]] = []
    log = folder.with_suffix(".log")
    while True:
        run = start_repro(folder, log)
        seconds = rng.uniform(0.5, max_wait) if len(kills) < max_kills else None
        try:
            run.wait(seconds)
        except subprocess.TimeoutExpired:
            target = rng.choice(TARGETS)
            kill(run, folder, target)
            stages = re.findall(r"Running stage '(\w+)'", log.read_text(errors="replace"))
            kills.append((stages[-1] if stages else "before", target))
            continue
        if run.returncode:
            sys.exit(f"dvc repro failed after the kills {kills}:\n{log.read_text(errors='replace')}")
        return kills


def phase(
    name: str, folder: Path, changes: dict[str, float], min_kills: int, max_wait: float, rng: random.Random
) -> None:
    """Repeat killed runs until there are ``min_kills`` kills of the stages of this phase: training, or all others."""
    reference = clone(TOP, folder / f"{name}-reference", changes)
    if start_repro(reference, reference.with_suffix(".log")).wait():
        sys.exit(reference.with_suffix(".log").read_text())
    expected = content(reference)
    counts: Counter[tuple[str, str]] = Counter()
    runs = 0

    def kills_in_phase() -> int:
        return sum(count for (stage, _), count in counts.items() if (stage == "train") is (name == "training"))

    while kills_in_phase() < min_kills:
        runs += 1
        start = time.monotonic()
        killed = clone(reference, folder / f"{name}-{runs}", changes)  # the same commit as the reference
        kills = run_with_kills(killed, max_wait, 15, rng)
        counts.update(kills)
        actual = content(killed)
        differ = sorted(path for path in expected.keys() | actual.keys() if expected.get(path) != actual.get(path))
        if differ:
            sys.exit(f"{killed}: files that differ from the undisturbed run after the kills {kills}: {differ}")
        seconds = time.monotonic() - start
        print(f"{name}, run {runs}: {kills_in_phase()} kills, identical, {seconds:.0f} s", flush=True)
        shutil.rmtree(killed)
    print(f"\n{name}: {counts.total()} kills in {runs} runs, {len(expected)} files identical after each")
    for (stage, target), count in sorted(counts.items()):
        print(f"  {stage:9} {target:6} {count:3}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=int, default=50)
    parser.add_argument("--stages", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        folder = Path(temporary).resolve()
        phase("stages", folder, {"train.epochs": 1}, args.stages, 9, rng)
        phase("training", folder, {"train.epochs": 10, "runtime.checkpoint_minutes": 0.02}, args.training, 12, rng)


if __name__ == "__main__":
    main()
