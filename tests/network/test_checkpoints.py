import shutil
import subprocess
import sys

from core.network import checkpoints
from core.network.checkpoints import Checkpoint

import pytest
import torch

from conftest import TOP


def checkpoint(value):
    return Checkpoint({"a": torch.full((2, 3), value)}, {"epochs": [[1, 0.1 + 0.2]], "best": float("inf")})


def equal(loaded, value):
    expected = checkpoint(value)
    return torch.equal(loaded.tensors["a"], expected.tensors["a"]) and loaded.facts == expected.facts


@pytest.fixture
def store(tmp_path):
    with checkpoints.opened(tmp_path, "f" * 64, "m") as store:
        yield store


def test_the_newest_comes_back_exactly_and_two_are_kept(store):
    for epoch, step, value in ((0, 9, 1.0), (0, 10, 2.0), (1, 0, 3.0), (10, 0, 0.1)):
        store.save(epoch, step, checkpoint(value))
    assert equal(store.load(), 0.1)
    assert [path.name[:16] for path in store.paths()] == ["000010-000000000", "000001-000000000"]


def test_parts_of_one_tensor_and_other_memory_layouts_come_back_equal(store):
    vector = torch.arange(24.0)
    tensors = {
        "first": vector[:8],
        "rest": vector[8:],
        "last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    tensors |= {"number": torch.tensor(3), "none": torch.empty(0), "bytes": torch.get_rng_state()}
    store.save(1, 0, Checkpoint(tensors, {}))
    loaded = store.load().tensors
    assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at:][1:]


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-1], lambda content: b"", lambda content: flipped(content, 0),
     lambda content: flipped(content, len(content) - 1)],
)  # fmt: skip
def test_a_damaged_one_is_set_aside_with_a_message_and_the_one_before_it_used(store, capsys, damage):
    store.save(1, 0, checkpoint(1.0))
    store.save(2, 0, checkpoint(2.0))
    newest = store.paths()[0]
    newest.write_bytes(damage(newest.read_bytes()))
    assert equal(store.load(), 1.0)
    error = capsys.readouterr().err
    assert f"{newest} is damaged: renamed to damaged-{newest.name}" in error and error.count("\n") == 1
    assert newest.with_name(f"damaged-{newest.name}").is_file()
    store.paths()[0].write_bytes(b"")
    assert store.load() is None


def test_another_fingerprint_finds_nothing(tmp_path):
    with checkpoints.opened(tmp_path, "a" * 64, "m") as store:
        store.save(1, 0, checkpoint(1.0))
    with checkpoints.opened(tmp_path, "b" * 64, "m") as other:
        assert other.load() is None
    with checkpoints.opened(tmp_path, "a" * 64, "m") as again:
        assert equal(again.load(), 1.0)
        again.clear()
    assert list(tmp_path.iterdir()) == []  # nothing is left of trainings that ended


def test_what_another_machine_kept_is_named_and_not_used(tmp_path, capsys):
    with checkpoints.opened(tmp_path, "a" * 64, "this") as store:
        store.save(1, 0, checkpoint(1.0))
    with checkpoints.opened(tmp_path, "a" * 64, "other") as other:
        assert other.load() is None
    error = capsys.readouterr().err
    assert error == f"Checkpoints of other versions or other machines are not used: {store.folder}\n"


def test_a_folder_that_someone_removed_meanwhile_is_no_error(tmp_path):
    with checkpoints.opened(tmp_path / "c", "a" * 64, "m") as store:
        shutil.rmtree(tmp_path / "c")
        assert store.load() is None
        store.save(1, 0, checkpoint(1.0))
        assert equal(store.load(), 1.0)
        shutil.rmtree(tmp_path / "c")
        store.clear()
    assert not (tmp_path / "c").exists()


def test_two_processes_at_the_same_training_never_share_a_folder(tmp_path):
    with checkpoints.opened(tmp_path, "a" * 64, "m") as first, checkpoints.opened(tmp_path, "a" * 64, "m") as second:
        assert first.folder != second.folder
        first.save(1, 0, checkpoint(1.0))
        second.save(2, 0, checkpoint(2.0))
    with checkpoints.opened(tmp_path, "a" * 64, "m") as later:
        assert equal(later.load(), 1.0)


@pytest.mark.slow
def test_a_process_that_is_killed_frees_its_folder(tmp_path):
    code = (
        "import os, signal, torch; from core.network import checkpoints; from pathlib import Path\n"
        f"with checkpoints.opened(Path({str(tmp_path)!r}), 'a' * 64, 'm') as store:\n"
        "    store.save(3, 0, checkpoints.Checkpoint({'a': torch.ones(1)}, {}))\n"
        "    (store.folder / '.half.unfinished').mkdir()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=TOP / "stages").returncode == -9
    with checkpoints.opened(tmp_path, "a" * 64, "m") as store:
        assert store.load().tensors["a"] == 1
        assert sorted(path.name.partition("-")[0] for path in store.folder.iterdir()) == ["000003", "lock"]
