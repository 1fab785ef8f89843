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

VICTIMS = ("all", "all", "all", "stage", "stage", "dvc")


def clone(source: Path, folder: Path, changes: dict[str, float]) -> Path:
    subprocess.run(["git", "clone", "--quiet", source, folder], check=True)
    parameters.change(folder / "params.yaml", changes)
    return folder


def start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as said:
        return subprocess.Popen(["dvc", "repro"], cwd=folder, stdout=said, stderr=said, start_new_session=True)


def content(folder: Path) -> dict[str, str]:
    """The hash of every file that a run leaves, without the files of DVC and git."""
    kept = [path for path in folder.rglob("*") if path.is_file() and not {".dvc", ".git"} & set(path.parts)]
    # Leave out Python's caches, and the test links that a killed DVC leaves beside its outputs.
    kept = [path for path in kept if "__pycache__" not in path.parts and not re.match(r"\..{22}\.tmp$", path.name)]
    return {str(path.relative_to(folder)): files.sha256(path) for path in kept}


def stage_process(folder: Path) -> int | None:
    """The id of the process that runs a stage script in this folder, or None."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if any(re.match(rb"stages/\w+\.py$", word) for word in words[1:2]) and (entry / "cwd").resolve() == folder:
                return int(entry.name)
        except (OSError, ValueError):
            pass
    return None


def kill(run: subprocess.Popen[bytes], folder: Path, victim: str) -> None:
    process = stage_process(folder)
    if victim == "stage" and process:
        os.kill(process, signal.SIGKILL)
        run.wait()  # let DVC report that the stage failed
    elif victim == "dvc":
        run.kill()
    else:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def disturbed(folder: Path, longest: float, left: int, draw: random.Random) -> list[tuple[str, str]]:
    """Run to the end with at most ``left`` kills. Returns the stage and the victim of each kill."""
    kills: list[tuple[str, str]] = []
    log = folder.with_suffix(".log")
    while True:
        run = start(folder, log)
        wait = draw.uniform(0.5, longest) if len(kills) < left else None
        try:
            run.wait(wait)
        except subprocess.TimeoutExpired:
            victim = draw.choice(VICTIMS)
            kill(run, folder, victim)
            running = re.findall(r"Running stage '(\w+)'", log.read_text(errors="replace"))
            kills.append((running[-1] if running else "before", victim))
            continue
        if run.returncode:
            sys.exit(f"dvc repro failed after the kills {kills}:\n{log.read_text(errors='replace')}")
        return kills


def phase(name: str, folder: Path, changes: dict[str, float], wanted: int, longest: float, draw: random.Random) -> None:
    calm = clone(TOP, folder / f"{name}-calm", changes)
    if start(calm, calm.with_suffix(".log")).wait():
        sys.exit(calm.with_suffix(".log").read_text())
    expected = content(calm)
    counted: Counter[tuple[str, str]] = Counter()
    chains = 0

    def done() -> int:
        return sum(number for (stage, _), number in counted.items() if (stage == "train") is (name == "training"))

    while done() < wanted:  # count only kills of the stages of this phase
        chains += 1
        began = time.monotonic()
        victim = clone(calm, folder / f"{name}-{chains}", changes)  # the same commit as calm
        kills = disturbed(victim, longest, 15, draw)
        counted.update(kills)
        found = content(victim)
        differ = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
        if differ:
            sys.exit(f"{victim}: files that differ from the undisturbed run after the kills {kills}: {differ}")
        print(f"{name}, run {chains}: {done()} kills, identical, {time.monotonic() - began:.0f} s", flush=True)
        shutil.rmtree(victim)
    print(f"\n{name}: {sum(counted.values())} kills in {chains} runs, {len(expected)} files identical after each")
    for (stage, victim_name), number in sorted(counted.items()):
        print(f"  {stage:9} {victim_name:6} {number:3}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=int, default=50)
    parser.add_argument("--stages", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        place = Path(folder).resolve()
        phase("stages", place, {"train.epochs": 1}, asked.stages, 9, draw)
        phase("training", place, {"train.epochs": 10, "runtime.checkpoint_minutes": 0.02}, asked.training, 12, draw)


if __name__ == "__main__":
    main()
