"""The inputs and the environment of a stage: its fingerprint, and the record in metrics/provenance/.

The record is not an output of the stage, because dvc.lock must be equal on two machines that give equal results, for
example two models of GPU.
"""

import hashlib
import json
import os
import platform
import re
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from core.pipeline import files, params, pins, yaml12
from core.pipeline.errors import PipelineError

FOLDER = "metrics/provenance"
HIDDEN = {"__pycache__", "messages.py"}  # in the folders that dvc.yaml names
# The package name of each module. A package is recorded if its module is loaded.
PACKAGES = {
    "PIL": "pillow", "duckdb": "duckdb", "imagecodecs": "imagecodecs", "jinja2": "jinja2",
    "libjpeg": "pylibjpeg-libjpeg", "matplotlib": "matplotlib", "numpy": "numpy", "openjpeg": "pylibjpeg-openjpeg",
    "pandas": "pandas", "pydicom": "pydicom", "safetensors": "safetensors", "scipy": "scipy",
    "sklearn": "scikit-learn", "tifffile": "tifffile", "timm": "timm", "torch": "torch", "torchvision": "torchvision",
}  # fmt: skip


@cache
def inputs(stage: str) -> dict[str, Any]:
    """The dependencies of ``stage`` in dvc.yaml, read once per process: ``parameters``, and the SHA-256 of each file of
    ``code`` and ``data``. Raises PipelineError for wrong parameters and missing files."""
    return _code_and_parameters(stage) | {"data": _hashes(stage, code=False)}


def fingerprint(content: Any) -> str:
    """The SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def machine() -> dict[str, Any]:
    """What results can depend on besides the inputs: versions of the packages that this process has loaded, and what
    computes. The processor is recorded only where the bytes depend on it, so that a run on another machine changes
    nothing in git. Python's version is left out: the default run gave the same bytes with Python 3.11 and 3.13."""
    environment: dict[str, Any] = {"platform": f"{platform.system()} {platform.machine()}"}
    if "torch" in sys.modules:
        import torch

        environment["threads"] = torch.get_num_threads()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            environment["gpu"] = torch.cuda.get_device_name()
            environment["cuda"] = torch.version.cuda
            environment["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        elif not pins.is_pinned():
            environment["instructions"] = torch.backends.cpu.get_cpu_capability()
        if "WORLD_SIZE" in os.environ:  # set by torchrun
            environment["processes"] = int(os.environ["WORLD_SIZE"])
    if "gpu" not in environment:
        environment["processor"] = pins.CONTRACT if pins.is_pinned() else _processor()
    packages = {name: version(name) for module, name in PACKAGES.items() if module in sys.modules}
    return environment | {"packages": packages}


def record(stage: str) -> None:
    """Write metrics/provenance/<stage>.json. Raises PipelineError if code or parameters changed since ``inputs``: DVC
    hashes them after the run, and would record the result under the changed versions (treeverse/dvc#11058)."""
    before, now = inputs(stage), _code_and_parameters(stage)
    for section in ("code", "parameters"):
        if before[section] != now[section]:
            changed = [name for name, value in now[section].items() if before[section].get(name) != value]
            names = ", ".join(changed)
            raise PipelineError(f"{names} changed while {stage} ran, so its result belongs to no version. Run it again")
    files.write_json(f"{FOLDER}/{stage}.json", {"stage": stage, "fingerprint": fingerprint(before)} | machine())


def files_before(stage: str, path: Path) -> int:
    """The files in the folder ``path`` when DVC last ran ``stage``; 0 if dvc.lock does not say."""
    try:
        deps = yaml12.load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"][stage]["deps"]
        counts = {Path(dep["path"]).resolve(): int(dep["nfiles"]) for dep in deps if "nfiles" in dep}
    except (OSError, yaml12.YAMLError, LookupError, TypeError, ValueError):  # DVC says what is wrong with the file
        return 0
    return counts.get(path.resolve(), 0)


def installed() -> dict[str, str]:
    """The installed versions of the packages that results can depend on."""
    versions = {}
    for name in sorted(set(PACKAGES.values())):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _declared(stage: str) -> dict[str, Any]:
    stages = params.read("dvc.yaml")["stages"]
    if stage not in stages:
        raise PipelineError(f"dvc.yaml has no stage {stage}: a stage is named after its script")
    declared: dict[str, Any] = stages[stage]
    return declared


def _code_and_parameters(stage: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for path, keys in parameters(stage).items():
        content = params.read(path)
        values |= {key if path == params.PATH else f"{path}:{key}": _value(content, key) for key in keys}
    return {"parameters": values, "code": _hashes(stage, code=True)}


def _hashes(stage: str, code: bool) -> dict[str, str]:
    """The SHA-256 of each dependency that is code, or is not; of a folder, each file that DVC sees. A watched source,
    which can be absent, is left out."""
    paths = [path for path in _declared(stage)["deps"] if "${" not in path]
    hashes: dict[str, str] = {}
    for path in (Path(path) for path in paths if path.removeprefix("../").startswith("stages/") == code):
        inside = sorted(file for file in path.rglob("*") if file.is_file() and not HIDDEN & {file.name, *file.parts})
        hashes |= {file.as_posix(): files.sha256(file) for file in (inside if path.is_dir() else [files.require(path)])}
    return hashes


def parameters(stage: str) -> dict[str, list[str]]:
    """The keys of each parameter file that ``stage`` names in dvc.yaml."""
    keys: dict[str, list[str]] = {}
    for entry in _declared(stage).get("params", []):
        for path, names in entry.items() if isinstance(entry, dict) else [(params.PATH, [entry])]:
            keys.setdefault(path, []).extend(names)
    return keys


def _value(content: dict[str, Any], key: str) -> Any:
    """The value of a key such as ``train.lr``, or None."""
    value: Any = content
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _processor() -> str:
    model = re.search(r"^model name\s*:(.*)", pins.cpuinfo(), re.MULTILINE)
    return model[1].strip() if model else platform.processor()
