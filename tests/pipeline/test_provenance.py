import json
import shutil
from pathlib import Path

from core.pipeline import provenance
from core.pipeline.errors import PipelineError

import pytest
import torch

from conftest import TOP, change_parameters


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A copy of the code, with something as data."""
    shutil.copytree(TOP / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(TOP / name, tmp_path)
    for name in ("data/raw/lists.csv", "data/prepared/index.csv", "data/audit/clusters.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    provenance.inputs.cache_clear()
    yield tmp_path
    provenance.inputs.cache_clear()


def fingerprint():
    provenance.inputs.cache_clear()
    return provenance.fingerprint(provenance.inputs("split"))


def test_the_fingerprint_changes_with_parameters_code_and_data_of_the_stage_and_with_nothing_else(place):
    first = fingerprint()
    change_parameters(place / "params.yaml", {"train.lr": 0.5})
    (place / "stages/core/network/training.py").write_text("")
    (place / "stages/core/split/__pycache__").mkdir()
    (place / "stages/core/split/__pycache__/leakage.cpython-311.pyc").write_bytes(b"compiled")
    (place / "params.yaml").write_text("# a comment\n" + (place / "params.yaml").read_text())
    assert fingerprint() == first
    seen = {first}
    change_parameters(place / "params.yaml", {"seed": 7})
    seen.add(fingerprint())
    (place / "stages/core/split/leakage.py").write_text("# changed\n")
    seen.add(fingerprint())
    (place / "data/audit/clusters.csv").write_text("changed")
    seen.add(fingerprint())
    assert len(seen) == 4


def test_the_record_names_versions_and_machine_and_no_time_or_path(place):
    provenance.inputs("split")
    provenance.record("split")
    text = (place / "metrics/provenance/split.json").read_text()
    content = json.loads(text)
    assert content["fingerprint"] == fingerprint() and content["stage"] == "split"
    assert content["packages"]["numpy"] == __import__("numpy").__version__
    assert str(place) not in text and "/" not in text
    provenance.record("split")
    assert (place / "metrics/provenance/split.json").read_text() == text


def test_the_record_names_the_processor_only_where_the_bytes_depend_on_it(monkeypatch):
    here = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2].splitlines()[0]
    assert provenance.machine()["processor"] == "any x86-64 with AVX2"
    assert "instructions" not in provenance.machine()
    # PyTorch is loaded, so its instructions count.
    assert torch.__version__.startswith(provenance.machine()["packages"]["torch"])
    monkeypatch.delenv("MKL_CBWR")
    assert provenance.machine()["processor"] == here and provenance.machine()["instructions"]


def test_code_and_parameters_that_change_during_a_run_are_an_error(place):
    """DVC hashes them after the run, so the lock would vouch for code that the result is not of."""
    provenance.inputs("split")
    (place / "stages/core/split/leakage.py").write_text("# changed\n")
    with pytest.raises(PipelineError, match="stages/core/split/leakage.py changed while split ran"):
        provenance.record("split")
    provenance.inputs.cache_clear()
    provenance.inputs("split")
    change_parameters(place / "params.yaml", {"split.train": 0.6, "split.val": 0.2})
    with pytest.raises(PipelineError, match="split changed while split ran"):
        provenance.record("split")
    assert not (place / "metrics").exists()


def test_a_missing_input_is_named_before_anything_runs(place):
    (place / "data/audit/clusters.csv").unlink()
    with pytest.raises(PipelineError, match="data/audit/clusters.csv is missing: create it with dvc repro"):
        provenance.inputs("split")
