"""Recipes as the pages use them, ``dvc exp run $(cat recipes/original.txt)``, and params.yaml as DVC writes it."""

import subprocess

from core.pipeline import yaml12

import pytest
from dvc.utils.hydra import to_hydra_overrides

from conftest import TOP

RECIPES = sorted(path.stem for path in (TOP / "recipes").glob("*.txt"))
PATTERNS = {  # patterns have brackets, question marks and quotes, which a shell could take for its own
    "amibr": {
        "data.file_column": "{dataset}_{uid}.png",
        "data.patient": "{dataset}_{slide}",
        "data.label_column": None,
        "data.groups": ["dataset"],
    },
    "breakhis": {
        "data.labels": "^SOB_[BM]_(?P<label>[A-Z]+)-",
        "data.patient": "-(?P<patient>[0-9]+-[0-9]+[A-Z]*)-",
        "data.positive": ["DC", "LC", "MC", "PC"],
        "data.negative": ["A", "F", "PT", "TA"],
    },
    "claimed": {"data.patient": "^(?P<patient>[^_]+)_"},
    "honest": {"data.patient": "^(?P<patient>[^_]+)_", "data.lists.train": None},
    "idc": {"data.patient": "^(?P<patient>[0-9]+)_", "train.pos_weight": 2.5},
    "original": {"data.patient": "^(?P<patient>[^_]+)_", "train.grad_clip_norm": None, "train.weight_decay": 0.0},
    "transfer": {"model.backbone": "timm/tf_efficientnet_lite0", "train.lr": 0.001},
}


def words(recipe):
    """The words that a shell makes of a recipe."""
    command = f'printf "%s\\n" $(cat recipes/{recipe}.txt)'
    return subprocess.run(["bash", "-c", command], cwd=TOP, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_shell_hands_a_recipe_to_dvc_without_changing_a_value(recipe, make_params):
    assert words(recipe) == (TOP / f"recipes/{recipe}.txt").read_text().split()
    assert set(words(recipe)[::2]) == {"--set-param"}
    values = {override.key_or_group: override.value() for override in to_hydra_overrides(words(recipe)[1::2])}
    assert {key: values[key] for key in PATTERNS[recipe]} == PATTERNS[recipe]
    make_params(values)


@pytest.fixture
def queue(clone):
    """Queue an experiment with options, and return its params.yaml, as text."""

    def params(*options):
        clone.run("dvc", "exp", "run", "--queue", *options)
        return clone.run("git", "show", "refs/exps/celery/stash:params.yaml")

    yield params
    clone.run("dvc", "queue", "remove", "--all")


@pytest.mark.slow
def test_a_parameter_after_a_recipe_wins(queue):
    values = yaml12.load(queue("--name", "original", *words("original"), "-S", "train.epochs=3"))
    assert values["train"]["epochs"] == 3 and values["train"]["lr"] == 0.002
    assert values["data"]["patient"] == "^(?P<patient>[^_]+)_" and values["train"]["grad_clip_norm"] is None


@pytest.mark.slow
def test_setting_a_parameter_changes_only_its_line_of_params_yaml(clone, queue):
    text = (TOP / "params.yaml").read_text()
    (clone.folder / "params.yaml").write_text(text)
    clone.run("git", "checkout", "-q", "-B", "commented")
    clone.run("git", "commit", "-qam", "With comments")
    for option, old, new in (
        ("train.lr=0.0005", "  lr: 0.003", "  lr: 0.0005"),
        ("model.backbone=resnet18", "  backbone: shufflenet_v2_x0_5", "  backbone: resnet18"),
        ("data.location=../my-images", "  location:", "  location: ../my-images"),
        ("report.images=true", "  images: false", "  images: true"),
        ("prepare.levels=[1,99]", "  - 0\n  - 100", "  - 1\n  - 99"),
    ):
        assert text.count(f"{old}\n") == 1, old
        assert queue("-S", option) == text.replace(f"{old}\n", f"{new}\n"), option
        numbers = clone.run("git", "diff", "--numstat", "HEAD", "refs/exps/celery/stash", "--", "params.yaml")
        assert numbers.split()[:2] == [str(1 + new.count("\n"))] * 2
    # The workspace, too, which a run that fails leaves as it was asked for. It fails in the first stage: earlier stages
    # would write their metrics.
    clone.run("dvc", "exp", "run", "-S", "train.seed=3", "-S", "data.phantom.images=0", good=False)
    assert clone.run("git", "diff", "--numstat").split() == ["2", "2", "params.yaml"]


@pytest.mark.slow
def test_the_parameters_of_another_set_are_in_the_form_that_dvc_writes(clone):
    text = (TOP / "recipes/external/params.yaml").read_text()
    folder = clone.folder / "hospital-b"
    clone.run("cp", "-r", "recipes/external", "hospital-b")
    clone.run("git", "checkout", "-q", "-B", "other")
    clone.run("git", "add", "hospital-b")
    clone.run("git", "commit", "-qm", "Another set")
    output = clone.run("dvc", "exp", "run", "-S", "hospital-b/params.yaml:data.location=mine", "hospital-b/dvc.yaml",
                     good=False)  # fmt: skip
    assert "location must be null for source phantom" in output
    assert (folder / "params.yaml").read_text() == text.replace("  location:\n", "  location: mine\n")
