"""Run the committed pipeline with other cores and on emulated processors, and compare the bytes of each stage.

    python benchmarks/machines.py [MACHINE ...]      as here, one core, Haswell, EPYC-Milan, Skylake-Client; or all

Each machine runs the stages in a clone of the last commit. A stage is equal if all of its outputs have the hashes in
the committed dvc.lock. The last column says whether git finds a change in the clone after dvc commit: dvc.lock, figures
or plots. An emulated run takes about an hour; several run side by side if each is started alone.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

import processors

TOP = Path(__file__).resolve().parents[1]
STAGES = ["download", "prepare", "audit", "split", "train", "evaluate", "report"]
MACHINES = {"as here": [], "one core": ["taskset", "--cpu-list", "0"]}
AVX512 = "import torch; print('yes' if torch.cpu._is_avx512_supported() else 'no')"


def lock_hashes(folder: Path) -> dict[str, Any]:
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    return {name: [output["md5"] for output in content["outs"]] for name, content in stages.items()}


def row(name: str) -> list[str]:
    launcher = MACHINES[name] if name in MACHINES else processors.command(name)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="machine-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", TOP, clone], check=True)
        expected = lock_hashes(clone)
        python = [*launcher, sys.executable]
        avx512 = subprocess.run([*python, "-c", AVX512], check=True, capture_output=True, text=True).stdout.strip()
        for stage in STAGES:
            subprocess.run([*python, f"stages/{stage}.py"], cwd=clone, check=True, stdout=subprocess.DEVNULL,
                           env=os.environ | {"DVC_ROOT": str(clone)})  # fmt: skip
        subprocess.run(["dvc", "commit", "--force", "--quiet"], cwd=clone, check=True)
        actual = lock_hashes(clone)
        status = subprocess.check_output(["git", "status", "--short"], cwd=clone, text=True)
    equal = ["equal" if actual[stage] == expected[stage] else "**differs**" for stage in STAGES]
    minutes = (time.monotonic() - start) / 60
    return [name, avx512, *equal, status.replace("\n", ";") or "clean", f"{minutes:.0f}"]


def main() -> None:
    columns = ["machine", "AVX-512", *STAGES, "git status", "minutes"]
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for name in sys.argv[1:] or [*MACHINES, *processors.PROCESSORS]:
        print("| " + " | ".join(row(name)) + " |", flush=True)


if __name__ == "__main__":
    main()
