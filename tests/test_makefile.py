"""What a new user meets first: the two commands, on a machine that lacks something."""

import os
import subprocess

import pytest

from conftest import TOP


@pytest.fixture
def make(tmp_path):
    """Run make on the project's Makefile in an empty folder, with some commands of the machine replaced."""
    (tmp_path / "Makefile").write_text((TOP / "Makefile").read_text())
    (tmp_path / "requirements.lock").write_text("")
    (tmp_path / "bin").mkdir()

    def run(*arguments, **replaced):
        for name, script in replaced.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        process = subprocess.run(
            ["make", *arguments], cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PATH": path}
        )
        return process.returncode, process.stdout + process.stderr

    return run


def test_help_lists_every_target_that_has_a_description(make):
    code, output = make("help")
    assert code == 0
    for target in (
        "repro",
        "test",
        "test-long",
        "test-all",
        "test-fast",
        "lint",
        "check",
        "exps",
        "audit",
        "demo",
        "export",
        "bench",
        "lock",
        "clean",
    ):
        assert f"\n{target} " in f"\n{output}"


def test_an_older_python_is_named_with_the_way_out(make):
    code, output = make("repro", python3='[ "$1" = --version ] && { echo Python 3.9.1; exit; }; exit 1')
    assert code and "Python 3.11 or later is needed, and python3 is Python 3.9.1" in output
    assert "make repro PYTHON=python3.12" in output


def test_no_python_at_all_is_said(make):
    code, output = make("repro", "PYTHON=python-that-is-not-there")
    assert code and "Python 3.11 or later is needed, and python-that-is-not-there is missing" in output


def test_too_little_disk_is_said_before_anything_is_installed(make, tmp_path):
    code, output = make("repro", df="echo Filesystem; echo disk 9 9 1000000 9% /")
    assert code and "8 GB of disk are needed" in output and "1 GB are free here" in output
    assert not (tmp_path / ".venv").exists()
