"""What a stage ran from and what it ran with: its fingerprint, and the record of it in metrics/provenance/.

The record is no output of a stage: it names versions and the machine, and dvc.lock must be equal on two machines
whose results are.
"""

import hashlib
import json
import os
import platform
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from core.pipeline import files, params, yaml12
from core.pipeline.errors import Mistake

FOLDER = "metrics/provenance"
# Names in the package index, by the module that shows that a stage has used it.
PACKAGES = {
    "PIL": "pillow", "jinja2": "jinja2", "captum": "captum", "matplotlib": "matplotlib",
    "numpy": "numpy", "pandas": "pandas", "safetensors": "safetensors", "scipy": "scipy", "sklearn": "scikit-learn",
    "timm": "timm", "torch": "torch", "torchvision": "torchvision",
}  # fmt: skip


@cache
def inputs(stage: str) -> dict[str, Any]:
    """All that ``stage`` depends on according to dvc.yaml, read once in each process: ``parameters``, and the SHA-256
    of each file of ``code`` and ``data``. Raises Mistake for wrong parameters and missing files."""
    data = [file for path in _dependencies(stage) if not _is_code(path) for file in _files(Path(path))]
    return _chosen(stage) | {"data": {file.as_posix(): files.sha256(file) for file in data}}


def fingerprint(content: Any) -> str:
    """The SHA-256 of anything that JSON can say, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def machine() -> dict[str, Any]:
    """What results may depend on beside a stage's inputs: versions of the packages that this process has loaded,
    processor, GPU where one is in use, and threads."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
    }
    if "torch" in sys.modules:
        import torch

        found["instructions"] = torch.backends.cpu.get_cpu_capability()
        found["threads"] = torch.get_num_threads()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            found["gpu"] = torch.cuda.get_device_name()
            found["cuda"] = torch.version.cuda
            found["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        if "WORLD_SIZE" in os.environ:  # of torchrun
            found["processes"] = int(os.environ["WORLD_SIZE"])
    return found | {"packages": {name: version(name) for module, name in PACKAGES.items() if module in sys.modules}}


def computing() -> str:
    """The fingerprint of what the numbers of a training depend on: on a GPU neither the processor nor its threads."""
    found = machine()
    if "gpu" in found:
        found = {key: value for key, value in found.items() if key not in ("processor", "instructions", "threads")}
    return fingerprint(found)


def record(stage: str) -> None:
    """Write metrics/provenance/<stage>.json. Raises Mistake where code or parameters changed since ``inputs``: DVC
    hashes them after the run, and would take the result for theirs (treeverse/dvc#11058)."""
    known, now = inputs(stage), _chosen(stage)
    for what in ("code", "parameters"):
        if known[what] != now[what]:
            changed = [name for name, value in now[what].items() if known[what].get(name) != value]
            raise Mistake(
                f"{', '.join(changed)} changed while {stage} ran: its result is of neither version. Run it again"
            )
    files.write_json(f"{FOLDER}/{stage}.json", {"stage": stage, "fingerprint": fingerprint(known)} | machine())


def installed() -> dict[str, str]:
    """The versions of Python and of the packages that results may depend on, as they are here."""
    found = {"Python": platform.python_version()}
    for name in sorted(set(PACKAGES.values())):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _declared(stage: str) -> dict[str, Any]:
    stages = yaml12.load(files.there("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    if stage not in stages:
        raise Mistake(f"dvc.yaml has no stage {stage}: a stage is named after its script")
    declared: dict[str, Any] = stages[stage]
    return declared


def _dependencies(stage: str) -> list[str]:
    return list(_declared(stage)["deps"])


def _is_code(path: str) -> bool:
    return path.startswith("stages/")


def _chosen(stage: str) -> dict[str, Any]:
    keys = _declared(stage).get("params", [])
    given = params.load(*keys).model_dump(mode="json", warnings=False) if keys else {}
    code = [file for path in _dependencies(stage) if _is_code(path) for file in _files(Path(path))]
    return {"parameters": given, "code": {file.as_posix(): files.sha256(file) for file in code}}


def _files(path: Path) -> list[Path]:
    """A file that an earlier stage wrote, or all below a folder that DVC, too, sees there (.dvcignore)."""
    if not path.is_dir():
        return [files.there(path)]
    return sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
