"""Read and change a params.yaml, for benchmarks and tests."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.pipeline import yaml12

import yaml


def read(path: Path) -> dict[str, Any]:
    params: dict[str, Any] = yaml12.load(path.read_text(encoding="utf-8"))
    return params


def change(path: Path, changes: dict[str, Any]) -> None:
    """Set keys with dots, for example ``{"data.source": "folder"}``."""
    params = read(path)
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = params
        for section_name in sections:
            section = section[section_name]
        section[name] = value
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    path.write_text(yaml.dump(params, Dumper=dumper, sort_keys=False), encoding="utf-8")
