import subprocess
import sys

from core.pipeline import files, tables
from core.pipeline.errors import PipelineError

import numpy as np
import pytest

from conftest import TOP


def test_a_file_is_whole_or_not_there_and_what_was_there_stays(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.atomic_write(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_json_reads_back_exactly_and_takes_no_nan(tmp_path):
    value = {"a": 0.1 + 0.2, "b": None, "ä": [1, True]}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert files.read_json(tmp_path / "a.json") == value


def test_what_another_stage_should_have_written_is_named_where_it_is_missing(tmp_path):
    for read in (files.read_json, files.read_array, lambda path: tables.read(path, tables.SPLIT)):
        with pytest.raises(PipelineError, match="gone is missing: create it with dvc repro"):
            read(tmp_path / "gone")


def test_an_array_on_disk_keeps_the_rows_that_are_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK_ROWS", 7)
    mask = np.random.RandomState(1).randint(2, size=100).astype(bool)
    for values in (np.arange(300).reshape(100, 3).astype(np.int16), range(100)):
        rows = files.select_rows(values, mask, tmp_path)
        assert isinstance(rows, np.memmap) and np.array_equal(rows, np.asarray(values)[mask])
        assert rows.dtype == np.asarray(values).dtype
    assert len(files.select_rows(range(100), ~mask & mask, tmp_path)) == 0 and not list(tmp_path.iterdir())


def test_the_hash_is_the_published_one(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert files.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_relative_locations_belong_to_dvcs_repository_when_it_runs_the_stage(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert files.root() / "x" == tmp_path / "x"
    assert files.root() / "/x" == tmp_path.__class__("/x")


def test_tables_keep_names_that_look_like_numbers_or_nothing_and_floats_exactly(tmp_path):
    rows = [(0, "NA", "007", 1, "test", 0.1 + 0.2, True, None), (1, "ä,b", None, 0, "val", 1e-300, False, None)]
    table = tables.frame(rows, tables.PREDICTIONS)
    tables.write(table, tmp_path / "p.csv", tables.PREDICTIONS)
    tables.write(table, tmp_path / "q.csv", tables.PREDICTIONS)
    back = tables.read(tmp_path / "p.csv", tables.PREDICTIONS)
    assert back.equals(table)
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "q.csv").read_bytes()
    assert b"\r" not in (tmp_path / "p.csv").read_bytes()


def test_what_another_process_takes_for_a_leftover_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    lock_file, removed = files.lock_file, []

    def late(path, wait):
        lock = lock_file(path, wait)
        if path not in removed:
            removed.append(path)
            path.unlink()
        return lock

    monkeypatch.setattr(files, "lock_file", late)
    with files.atomic_write(tmp_path / "a.txt") as unfinished, files.scratch(tmp_path, "b") as folder:
        assert unfinished.is_file() and (folder / files.LOCK).is_file() and len(removed) == 2
        unfinished.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_conflict_markers_in_json_and_tables_are_named_with_the_command_that_resolves_them(tmp_path):
    path = tmp_path / "metrics/a.json"
    path.parent.mkdir()
    for text, expected in (
        ("<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n", "run git checkout HEAD dvc.lock metrics plots && dvc repro"),
        ("{", "is damaged .*: delete it, then run dvc repro"),
    ):
        path.write_text(text)
        for read in (files.read_json, lambda path: tables.read(path, tables.LISTED)):
            with pytest.raises(PipelineError, match=expected) as caught:
                read(path)
            assert "\n" not in str(caught.value) and path.read_text() == text


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("repro", False), ("repro -f", True), ("repro --force train", True), ("repro -sf", True),
        ("exp run -S train.lr=1 -n fifth", False), ("exp run --temp -f", True), ("repro --force-downstream", False),
    ],
)  # fmt: skip
def test_force_is_read_from_the_command_line_of_dvc(tmp_path, command, expected):
    """A stand-in for DVC that runs a shell that runs this, as DVC does."""
    (tmp_path / "dvc").write_text(
        "import subprocess, sys\n"
        "code = 'from core.pipeline import files; print(files.forced())'\n"
        "subprocess.run(['/bin/sh', '-c', f'{sys.executable} -c \"{code}\"; true'])\n"
    )
    result = subprocess.run(
        [sys.executable, tmp_path / "dvc", *command.split()], cwd=TOP / "stages", capture_output=True, text=True
    )
    assert result.stdout.strip() == str(expected), result.stderr
