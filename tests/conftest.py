"""Fixtures and helpers for several tests: image files, changed parameters, clones of the project, and real images."""

import fcntl
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from core.pipeline.errors import PipelineError
from core.pipeline.schemas import params_yaml

import hypothesis
import numpy as np
import pytest
from PIL import Image

import forked
import parameters

TOP = Path(__file__).resolve().parents[1]
SHARED = TOP.parent / "shared" / "data"
STAGES = ["download", "prepare", "audit", "split", "train", "evaluate", "report"]
STAGES_OF_FIRST_RUN = "stages-of-first-run"  # a file beside the clone that is copied
FOREIGN = ("DVC_", "GIT_", "PYTHONDONTWRITEBYTECODE")  # environment variables that a user does not have: removed
SMALL = {
    "data.phantom.images": 160, "data.phantom.patients": 20, "data.phantom.side": 32, "prepare.image_size": 32,
    "train.epochs": 1, "train.ensemble_size": 2, "train.batch_size": 16, "model.backbone": "shufflenet_v2_x0_5",
}  # fmt: skip
CALIBRATED = {"evaluate.threshold": "validation", "evaluate.calibration": "temperature"}


# The same examples on every run: a pull request does not fail by chance
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.hookimpl(trylast=True)  # after -m has taken items away
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with most slow tests first (a long one counts as ten), so that several processes finish at about
    the same time. Of the files that use the clone, all but one wait for those that do not: the others' processes would
    wait for its first run."""
    long, slow = (Counter(item.path for item in items if item.get_closest_marker(name)) for name in ("long", "slow"))
    slow.update({path: 9 * count for path, count in long.items()})
    cloning = Counter(item.path for item in items if "clone" in item.fixturenames)
    first = max(slow.keys() & cloning.keys(), key=lambda path: (slow[path], path), default=None)
    items.sort(
        key=lambda item: (not slow[item.path], item.path != first, cloning[item.path] > 0, -slow[item.path], item.path)
    )


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, outside the repository. Skips the test if it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"the folder of real images is missing: {SHARED}")
    return SHARED


def change_parameters(path: Path, changes: dict[str, Any]) -> Path:
    """Write parameters with ``changes`` to ``path``, for example ``{"data.source": "folder"}``.

    They are read from ``path`` if it exists, otherwise from the project's params.yaml.
    """
    if not path.exists():
        shutil.copy(TOP / "params.yaml", path)
    parameters.change(path, changes)
    return path


@pytest.fixture
def make_params(tmp_path: Path) -> Callable[[dict[str, Any]], params_yaml.Params]:
    """A function that returns the project's parameters with changes, checked by the schema."""

    def change(changes: dict[str, Any]) -> params_yaml.Params:
        path = change_parameters(tmp_path / "changed.yaml", changes)
        try:
            return params_yaml.load(path)
        finally:
            path.unlink()

    return change


def image(value: int | np.ndarray = 0, size: tuple[int, int] = (8, 8), kind: str = "PNG", mode: str = "L") -> bytes:
    """The bytes of an image file: an image of ``size`` (width, height) in one grey value, or an array of pixels."""
    pixels = value if isinstance(value, np.ndarray) else np.full(size[::-1], value, np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(written, kind)
    return written.getvalue()


@cache
def huge_image() -> bytes:
    """A valid grey PNG of 30,000 x 30,000 black pixels. Compressing 900 MB would take seconds: a thousand rows are
    compressed, and their bytes repeated."""
    side, rows = 30_000, 1000
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(rows * (1 + side))) + packer.flush(zlib.Z_FULL_FLUSH)
    adler = struct.pack(">HH", side * (1 + side) % 65_521, 1)  # of zeros alone
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": b"\x78\xda" + block * (side // rows) + b"\x03\x00" + adler, b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks.items()
    )


def put(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Write files below a folder, and return the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def stages(output: str) -> list[str]:
    """The stages that DVC ran or restored from its cache, read from its ``output``."""
    return [stage for stage in STAGES if f"Running stage '{stage}'" in output or f"Stage '{stage}' is cached" in output]


class Clone:
    """A clone of the working tree in a new git repository, as a user has it."""

    def __init__(self, folder: Path, template: Path | None = None) -> None:
        self.folder, self.template = folder, template

    def run(self, *command, good=True, inside="."):
        program, *arguments = map(str, command)
        env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        where = {"cwd": self.folder / inside, "env": env, "timeout": 600}
        if program == "dvc" and forked.can_run(arguments):
            process = forked.run(arguments, **where)
        else:
            process = subprocess.run([program, *arguments], capture_output=True, text=True, **where)
        assert (process.returncode == 0) is good, f"{command}\n{process.stdout}\n{process.stderr}"
        return process.stdout + process.stderr

    def run_queue(self):
        """Run the experiments of the queue, and wait until its worker has ended: it would take what is queued next."""
        self.run("dvc", "exp", "run", "--run-all")  # exits with 0 even if one failed
        self.run("dvc", "queue", "stop")
        while "0 active, 0 idle" not in self.run("dvc", "queue", "status"):
            time.sleep(1)  # asking takes a third of a CPU second

    def ran(self, *command):
        """The stages that a DVC command ran or restored from the cache."""
        return stages(self.run(*command))

    def metrics(self, name, inside="."):
        """The details of a stage."""
        return json.loads((self.folder / inside / "data/detail" / f"{name}.json").read_text())

    def reset(self):
        """Restore the committed state, and forget the runs since: DVC would restore their outputs in another test.

        Outputs are copied from the clone that this one was copied from: dvc checkout would take half a second.
        """
        self.run("git", "checkout", "-q", "-f", "main")
        self.run("git", "clean", "-fdq")
        for name in ("data", "models", "plots", "reports", ".dvc/cache/runs"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            shutil.copytree(self.template / name, self.folder / name)

    def change(self, key, value):
        """Set one key of params.yaml."""
        change_parameters(self.folder / "params.yaml", {key: value})


def call(script: ModuleType, folder: Path, *arguments, good=True, **options) -> str:
    """What a script prints when its main runs in ``folder``, in this process, which has imported the libraries."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as output, redirect_stderr(output):
        patch.chdir(folder)
        patch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
        try:
            script.main(**options)
        except PipelineError as error:
            assert not good, error
            print(error)
        else:
            assert good, output.getvalue()
    return output.getvalue()


def clone_to(folder: Path, small: dict[str, Any] = SMALL) -> Clone:
    """A new repository with one commit of all files that git tracks or would track, without a DVC cache."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (TOP / name).is_file():
            put(folder, {name: (TOP / name).read_bytes()})
    clone = Clone(folder)
    clone.run("git", "init", "-q", "-b", "main")
    clone.run("git", "config", "user.name", "Test")
    clone.run("git", "config", "user.email", "test@example.org")
    change_parameters(folder / "params.yaml", small)
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "As cloned")
    return clone


@pytest.fixture(scope="session")
def clone(tmp_path_factory, worker_id):
    """A clone with a committed run of the small pipeline. It is made once and copied for each process of pytest."""
    base = tmp_path_factory.getbasetemp()
    template = (base if worker_id == "master" else base.parent) / "template"
    with template.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            first = clone_to(template)
            (template.parent / STAGES_OF_FIRST_RUN).write_text("\n".join(first.ran("dvc", "repro")))
            first.run("git", "add", "-A")
            first.run("git", "commit", "-qm", "Small run")
    clone = Clone(shutil.copytree(template, tmp_path_factory.mktemp("clone") / "clone", symlinks=True), template)
    clone.run("git", "status", "--short")  # refresh the index: otherwise git rewrites every copied file
    return clone


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory):
    """Compile the template of a page once: that takes nine tenths of the time of a page."""
    from core.report import html  # a machine for make test-gpu needs no Jinja

    from jinja2 import Environment, FileSystemBytecodeCache

    with pytest.MonkeyPatch.context() as patch:
        cache = FileSystemBytecodeCache(tmp_path_factory.mktemp("templates"))
        patch.setattr(html, "Environment", partial(Environment, bytecode_cache=cache))
        yield


@pytest.fixture(scope="session")
def calibrated(clone):
    """A branch of the clone with a threshold chosen on validation and a temperature, run and committed; the stages that
    ran for it."""
    clone.run("git", "checkout", "-q", "-b", "calibrated")
    change_parameters(clone.folder / "params.yaml", CALIBRATED)
    ran = clone.ran("dvc", "repro")
    clone.run("git", "commit", "-qam", "Threshold of validation, and a temperature")
    clone.reset()
    return ran


@pytest.fixture(scope="session")
def leaking(clone):
    """Run the experiment "leaking" in the clone, with a split by image that ignores patients and copies.

    Returns the output of DVC.
    """
    changes = ["split.strategy=image", "split.duplicates=keep", "split.on_leak=report"]
    output = clone.run(
        "dvc", "exp", "run", "--name", "leaking", *[word for change in changes for word in ("-S", change)]
    )
    clone.reset()
    return output


@pytest.fixture(autouse=True)
def restored(request):
    """Reset the clone to the committed state after each test that uses it."""
    yield
    if "clone" in request.fixturenames:
        request.getfixturevalue("clone").reset()
