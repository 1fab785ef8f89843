"""Read and change a params.yaml, for benchmarks and tests."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.pipeline import yaml12

import yaml


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml12.load(path.read_text(encoding="utf-8"))
    return content


def change(path: Path, changes: dict[str, Any]) -> None:
    """Set keys with dots, for example ``{"data.source": "folder"}``."""
    given = read(path)
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = given
        for section in sections:
            place = place[section]
        place[name] = value
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    path.write_text(yaml.dump(given, Dumper=dumper, sort_keys=False), encoding="utf-8")
