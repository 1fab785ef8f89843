"""Revisions from before the parameters, columns and metrics got their present names are still read."""

import json

from core.commands import revisions
from core.pipeline import tables
from core.pipeline.errors import PipelineError

import pytest

FORMER = {
    "metrics/evaluate.json": json.dumps({"threshold": 0.4, "calibration": {"temperature": 2.0, "applied": True}}),
    "data/split.csv": "row,file,label,patient,cluster,group,part\n0,a.png,1,p,,3,test\n",
    "params.yaml": "train:\n  members: 4\n  checkpoint_minutes: 5\nprepare:\n  fit: squeeze\n",
}


@pytest.fixture
def former(monkeypatch):
    def read(revision, path):
        if path not in FORMER:
            raise PipelineError(f"{path} of {revision} is missing")
        return FORMER[path]

    monkeypatch.setattr(revisions, "text", read)


def test_threshold_and_temperature_come_from_the_former_file(former):
    assert revisions.decisions("old", "metrics/detail/evaluate.json") == (0.4, 2.0)


def test_without_either_file_the_present_one_is_named(former, monkeypatch):
    monkeypatch.delitem(FORMER, "metrics/evaluate.json")
    with pytest.raises(PipelineError, match=r"metrics/detail/evaluate.json of old is missing"):
        revisions.decisions("old", "metrics/detail/evaluate.json")


def test_former_columns_are_read_under_their_present_names(former):
    table = revisions.table("old", "data/split.csv", tables.SPLIT)
    assert table.loc[0, ["component", "split"]].to_list() == [3, "test"]


def test_a_renamed_parameter_is_no_change(former):
    params = revisions.parameters("old", "params.yaml")
    assert params == {"train.ensemble_size": 4, "runtime.checkpoint_minutes": 5, "prepare.fit": "stretch"}
