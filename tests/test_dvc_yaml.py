"""dvc.yaml and the scripts must say the same, or a change would rerun too little."""

import ast
import importlib

from core.pipeline import yaml12
from core.pipeline.schemas import params_yaml
from core.pipeline.schemas.base import Section

import pytest

import layers
from conftest import TOP

DVC = yaml12.load((TOP / "dvc.yaml").read_text())
STAGES = DVC["stages"]


DETAIL = {f"metrics/detail/{stage}.json" for stage in ("audit", "split", "train", "evaluate")}


def constants(stage: str) -> set[str]:
    """The paths that stand in capitals at the top of a stage's script."""
    tree = ast.parse((TOP / "stages" / f"{stage}.py").read_text())
    values = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    return {value.value for value in values if isinstance(value, ast.Constant)}


def plain(entries) -> set[str]:
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries or []}


def data(stage: str) -> set[str]:
    return {dep for dep in STAGES[stage]["deps"] if not dep.startswith(("stages/", "${"))}


def written(stage: str) -> set[str]:
    return plain(STAGES[stage].get("outs")) | plain(STAGES[stage].get("metrics"))


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_that_a_stage_imports_is_its_dependency_and_no_other(stage):
    """A package by its folder where the stage imports all of it, else file by file."""
    declared = [dep for dep in STAGES[stage]["deps"] if dep.startswith("stages/")]
    assert sorted(declared) == sorted(layers.dependencies(TOP / "stages" / f"{stage}.py"))


PARAMS = yaml12.load((TOP / "params.yaml").read_text())


def leaves(section, above=()) -> set[str]:
    """The dotted names of all values below a mapping, or of all fields below a schema."""
    if isinstance(section, dict):
        inner = section.items()
    elif isinstance(section, type) and issubclass(section, Section):
        inner = [(name, field.annotation) for name, field in section.model_fields.items()]
    else:
        return {".".join(above)}
    return set().union(*(leaves(value, (*above, name)) for name, value in inner))


def below(key: str) -> set[str]:
    """The dotted names of all values of a key of params.yaml."""
    value = PARAMS
    for name in key.split("."):
        value = value[name]
    return leaves(value, tuple(key.split(".")))


def schema(stage: str) -> set[str]:
    """The keys that a stage's script can read, but for those of runtime, which change no byte."""
    script = importlib.import_module(stage)
    return (
        {key for key in leaves(script.Params) if not key.startswith("runtime.")} if hasattr(script, "Params") else set()
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_can_read_exactly_the_parameters_that_it_declares(stage):
    declared = set().union(*(below(key) for key in STAGES[stage].get("params", [])))
    assert schema(stage) == declared


def test_the_schema_has_the_keys_of_params_yaml_and_no_stage_declares_runtime():
    declared = leaves(params_yaml.Params)
    assert declared - leaves(PARAMS) == {"external.patients"} and leaves(PARAMS) < declared
    assert not [stage for stage in STAGES if "runtime" in str(STAGES[stage].get("params"))]


@pytest.mark.parametrize("stage", STAGES)
def test_every_path_of_a_script_is_declared_and_every_declared_path_is_in_the_script(stage):
    declared = data(stage) | written(stage)
    assert constants(stage) == declared


def test_every_data_dependency_is_written_by_an_earlier_stage():
    earlier: set[str] = set()
    for stage in STAGES:
        assert data(stage) <= earlier
        earlier |= written(stage)


def test_what_shows_patients_pixels_is_never_in_git():
    for stage in STAGES.values():
        for entry in stage["outs"]:
            if isinstance(entry, dict):
                path, options = next(iter(entry.items()))
                assert options == {"cache": False}
                assert path in ("plots/train", "plots/evaluate", "metrics/verdict.md") or path in DETAIL


def test_dvc_can_bring_back_each_run_that_takes_long():
    """DVC passes over the run cache where an output that is neither metric nor plot is not in its own cache."""
    of_git = {name for name, stage in STAGES.items() for entry in stage["outs"] if isinstance(entry, dict)}
    assert of_git == {"report"}


def test_plots_name_files_that_stages_write():
    folders = set().union(*(written(stage) for stage in STAGES))
    for plot in DVC["plots"]:
        paths = [plot] if isinstance(plot, str) else list(next(iter(plot.values()))["y"])
        for path in paths:
            assert any(path == folder or path.startswith(f"{folder}/") for folder in folders), path


def test_the_original_recipe_is_the_published_one(make_params):
    """Each value stands in the original's README: sections Model Architecture, Preprocessing, Training."""
    import shlex

    words = shlex.split((TOP / "recipes" / "original.txt").read_text())[1::2]
    cfg = make_params({key: yaml12.load(value) for key, value in (word.split("=", 1) for word in words)})
    assert (cfg.model.backbone, cfg.model.weights, cfg.model.head) == ("efficientnet_v2_s", "imagenet", "selu")
    assert (cfg.train.epochs, cfg.train.early_stopping, cfg.train.batch_size, cfg.train.lr) == (60, 12, 16, 0.002)
    assert (cfg.train.plateau_factor, cfg.train.plateau_patience) == (0.3, 7)
    assert (cfg.split.strategy, cfg.split.train, cfg.split.val, cfg.split.test) == ("image", 0.7, 0.1, 0.2)
    assert cfg.prepare.image_size == 384
    off = cfg.train
    assert (off.weight_decay, off.pos_weight, off.grad_clip_norm, off.freeze_backbone) == (0, 1, None, False)
    assert off.augment.geometry == "none" and set(off.augment.model_dump(exclude={"geometry"}).values()) == {0}


def test_the_committed_default_run_is_synthetic_leaks_nothing_and_learned_something():
    import json

    details = {
        name: json.loads((TOP / "metrics/detail" / f"{name}.json").read_text()) for name in ("split", "evaluate")
    }
    assert all(block["synthetic"] for block in details.values())
    assert set(details["split"]["leak"].values()) == {0}
    assert 0.80 <= details["evaluate"]["test"]["roc_auc"]["value"] <= 0.95


OTHER = yaml12.load((TOP / "recipes/external/dvc.yaml").read_text())["stages"]


def of_first(path: str) -> bool:
    return path.startswith("../") and "stages" not in path and "${" not in path


@pytest.mark.parametrize("stage", OTHER)
def test_a_stage_for_another_set_depends_on_the_same_code(stage):
    declared = [dep.removeprefix("../") for dep in OTHER[stage]["deps"] if dep.startswith("../stages")]
    assert sorted(declared) == sorted(layers.dependencies(TOP / "stages" / f"{stage}.py"))


@pytest.mark.parametrize("stage", ["download", "prepare", "audit"])
def test_another_set_goes_through_the_same_stages(stage):
    declared = {dep for dep in OTHER[stage]["deps"] if not dep.startswith("../")}
    assert declared == data(stage) and plain(OTHER[stage]["outs"]) == plain(STAGES[stage]["outs"])
    assert OTHER[stage]["cmd"].split()[:2] == ["python", f"../stages/{stage}.py"]


def test_judging_another_set_declares_its_paths_and_its_parameters():
    stage = OTHER["external"]
    declared = {dep for dep in stage["deps"] if of_first(dep) or not dep.startswith("../")}
    paths = constants("external") - {"../params.yaml"}
    assert paths == declared | plain(stage["outs"]) | plain(stage["metrics"])
    import external

    own, first = stage["params"][:-1], stage["params"][-1]["../params.yaml"]
    assert leaves(external.Params) == {"seed", "external.patients"} == set(own) - {"external"} | {"external.patients"}
    assert leaves(external.FirstParams) == set(first)


def test_the_report_of_both_sets_reads_all_of_the_first_and_the_figures_of_the_other():
    deps = OTHER["report"]["deps"]
    assert {dep.removeprefix("../") for dep in deps if of_first(dep)} == data("report")
    assert {dep for dep in deps if not dep.startswith("../")} < data("report")
    assert OTHER["report"]["params"] == [{"../params.yaml": STAGES["report"]["params"]}]


def test_the_other_set_is_described_by_the_same_keys():
    def keys(section):
        return {name: keys(value) if isinstance(value, dict) else None for name, value in section.items()}

    first, other = (yaml12.load((TOP / path / "params.yaml").read_text()) for path in (".", "recipes/external"))
    assert keys(first["data"]) == keys(other["data"])
    assert params_yaml.load(TOP / "recipes/external/params.yaml").external.patients == "other"
