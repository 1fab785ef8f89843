"""What several tests need: images as files, a checked params.yaml, and the real archive where it is at hand."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from core import params

TOP = Path(__file__).resolve().parents[1]
SHARED = TOP.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, which never belongs to the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"the real archive is not here: {SHARED}")
    return SHARED


def change_parameters(path: Path, changes: dict[str, Any]) -> Path:
    """Write the project's parameters to ``path``, some of them changed: ``{"data.source": "folder"}``."""
    yaml = YAML()
    given = yaml.load((path if path.exists() else TOP / "params.yaml").read_text())
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = given
        for section in sections:
            place = place[section]
        place[name] = value
    with path.open("w") as file:
        yaml.dump(given, file)
    return path


@pytest.fixture
def chosen(tmp_path: Path) -> Callable[[dict[str, Any]], params.Params]:
    """The project's parameters with some changed."""

    def change(changes: dict[str, Any]) -> params.Params:
        path = change_parameters(tmp_path / "changed.yaml", changes)
        sections = list(params.Params.model_fields)
        try:
            return params.load(*sections, path=path)
        finally:
            path.unlink()

    return change


def image(value: int | np.ndarray = 0, size: tuple[int, int] = (8, 8), kind: str = "PNG", mode: str = "L") -> bytes:
    """An image file's bytes: of one grey value and ``size``, or of an array."""
    pixels = value if isinstance(value, np.ndarray) else np.full(size[::-1], value, np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(written, kind)
    return written.getvalue()


def put(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Write files below a folder, and return it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder
