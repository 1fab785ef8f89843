import math

from core.pipeline import yaml12

import pytest
from dvc.utils.serialize import parse_yaml

from conftest import TOP


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-06", 1e-6), ("1E5", 1e5), ("-.5", -0.5), ("3.", 3.0), ("+.inf", math.inf), ("12", 12), ("-0", 0),
        ("017", 17), ("0o17", 15), ("0xfF", 255), ("1:30", "1:30"), ("on", "on"),
        ("yes", "yes"), ("No", "No"), ("true", True), ("FALSE", False), ("~", None), ("", None), ("Null", None),
        ("2020-01-01", "2020-01-01"), ("e5", "e5"), (".", "."), ("1e", "1e"), ("v1.2", "v1.2"), ("'1e-06'", "1e-06"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_the_core_schema_of_yaml_1_2(written, meant):
    """Expected by hand from YAML 1.2.2, section 10.3.2."""
    value = yaml12.load(f"key: {written}")["key"]
    assert value == meant and type(value) is type(meant)


def test_the_projects_own_files_are_read_as_dvcs_reader_reads_them():
    for name in ("params.yaml", "dvc.yaml", "dvc.lock", "gates.yaml"):
        text = (TOP / name).read_text()
        assert yaml12.load(text) == parse_yaml(text, name), name


@pytest.mark.parametrize("text", ["a: 1\na: 2", "b:\n  a: 1\n  a: 1", "- {a: 1, a: 2}", "1: x\n1: y"])
def test_a_key_given_twice_is_an_error_at_any_depth(text):
    with pytest.raises(yaml12.YAMLError, match="found duplicate key"):
        yaml12.load(text)


def test_anchors_and_merged_mappings_are_understood():
    assert yaml12.load("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}")["d"] == {"b": 1, "c": 3}


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.system [ls]", "a: !!python/name:os.system", "!!bool x", "!!int x", "!!float x"],
)
def test_what_is_no_plain_value_is_refused(text):
    with pytest.raises(yaml12.YAMLError):
        yaml12.load(text)
