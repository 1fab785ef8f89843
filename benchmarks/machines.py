"""Compare the default run on simulated machines with other numbers of threads and older instruction sets.

    python benchmarks/machines.py

Runs the committed pipeline in clones, each with some instructions of this processor switched off or with another number
of threads. Prints, for each machine, the stages whose outputs have the committed bytes, and the measures of the test
set. The tolerance in gates.yaml comes from this table.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

TOP = Path(__file__).resolve().parents[1]
NO_AVX512 = {
    "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": "X86_V4,AVX512_ICL,AVX512_SPR",
}  # fmt: skip
NO_AVX = {
    "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "X86_V3,X86_V4,AVX512_ICL,AVX512_SPR",
}  # fmt: skip
MACHINES = {
    "unchanged": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "four threads": {"OMP_NUM_THREADS": "4"},
    "AVX2": NO_AVX512,
    "AVX2, one thread": NO_AVX512 | {"OMP_NUM_THREADS": "1"},
    "SSE 4": NO_AVX,
}
FIGURES = ("roc_auc", "accuracy", "sensitivity", "specificity", "brier")


def hashes(folder: Path) -> dict[str, Any]:
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    return {name: [output["md5"] for output in content["outs"]] for name, content in stages.items()}


def main() -> None:
    print("| machine | stages with the committed bytes | " + " | ".join(FIGURES) + " |")
    print("|" + " --- |" * (2 + len(FIGURES)))
    for name, environment in MACHINES.items():
        with tempfile.TemporaryDirectory(prefix="machine-") as place:
            clone = Path(place) / "clone"
            subprocess.run(["git", "clone", "--quiet", TOP, clone], check=True)
            committed = hashes(clone)
            subprocess.run(["dvc", "repro", "--quiet"], cwd=clone, check=True, capture_output=True,
                           env=os.environ | environment)  # fmt: skip
            equal = [stage for stage, found in hashes(clone).items() if found == committed[stage]]
            test = json.loads((clone / "metrics/evaluate.json").read_text())["test"]
        figures = " | ".join(f"{test[figure]['value']:.3f}" for figure in FIGURES)
        print(f"| {name} | {'all' if len(equal) == len(committed) else ', '.join(equal)} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
