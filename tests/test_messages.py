"""What people read stands apart from what computes: .dvcignore names the modules that only speak."""

import ast
import re
from functools import cache

import pytest

import layers

SLOW = ("download", "prepare", "audit", "split", "train", "evaluate", "external")
SPEAKERS = sorted(path for path in layers.CORE.rglob("*.py") if layers.speaks(path))
TEXT = re.compile(r"[A-Za-z]{2,} [a-z]{2,}")  # two words
# What a module of messages may import: words, and types.
WORDS = {"re", "collections.abc", "pathlib", "typing", "core.pipeline.text", "core.pipeline"}
DOES = {
    "open",
    "exec",
    "eval",
    "setattr",
    "write_text",
    "write_bytes",
    "unlink",
    "mkdir",
    "replace_file",
    "seed",
    "run",
}


@cache
def spoken(source: str) -> list[str]:
    """The texts of two words or more that are raised, printed or warned of."""
    nodes = layers.nodes(source)
    calls: list[ast.AST] = [node.exc for node in nodes if isinstance(node, ast.Raise) and node.exc]
    names = ("print", "warnings.warn", "sys.stderr.write", "sys.stdout.write", "sys.exit", "parser.error")
    calls += [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) in names]
    texts = [node.value for call in calls for node in ast.walk(call) if isinstance(node, ast.Constant)]
    return [text for text in texts if isinstance(text, str) and TEXT.search(text)]


@pytest.mark.parametrize("stage", SLOW)
def test_no_module_that_a_slow_stage_depends_on_contains_messages(stage):
    script = layers.STAGES / f"{stage}.py"
    for path in {script, *layers.closure(script)}:
        assert spoken(path.read_text()) == [], path


def test_a_message_is_seen_wherever_it_is_spoken():
    for line in (
        'raise ValueError(f"{x} is wrong")',
        'print("all is well", 1)',
        'warnings.warn(why or "no such thing")',
    ):
        assert spoken(line), line
    assert not spoken('raise PipelineError(messages.no_archive("data/raw"))\nprint(messages.summary(1))')


@pytest.mark.parametrize(
    "path", [path for path in SPEAKERS if path.name == "messages.py"], ids=lambda path: path.parent.name
)
def test_messages_are_functions_that_return_text_and_do_nothing_else(path):
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) == "TYPE_CHECKING"
        elif isinstance(node, ast.ImportFrom):
            assert node.module in WORDS or node.module.endswith("messages"), node.module
        elif isinstance(node, ast.FunctionDef):
            assert node.returns and ast.unparse(node.returns) in ("str", "str | None", "list[str]"), node.name
        else:
            assert isinstance(node, ast.Import | ast.Assign | ast.AnnAssign | ast.Expr), ast.unparse(node)
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global | ast.Nonlocal | ast.Await | ast.With)
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func).rpartition(".")[2] not in DOES, ast.unparse(node)


def test_what_speaks_without_being_messages_is_named_one_by_one():
    others = {path.relative_to(layers.CORE).as_posix() for path in SPEAKERS if path.name != "messages.py"}
    runs = {"pipeline/entrypoint.py", "pipeline/errors.py", "pipeline/provenance.py", "pipeline/web.py"}
    assert others == runs | {"pipeline/schemas/params_yaml.py"}


def test_modules_that_compute_take_no_value_from_those_that_speak():
    """But for text, a download whose hash or content decides, the number of files that DVC saw, and fingerprints of
    checkpoints."""
    taken = {
        ast.unparse(node)
        for stage in SLOW
        for path in {layers.STAGES / f"{stage}.py", *layers.closure(layers.STAGES / f"{stage}.py")}
        for node in layers.nodes(path.read_text())
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("web", "provenance", "params_yaml")
    }
    assert taken == {
        "web.fetch", "provenance.files_before", "provenance.fingerprint", "provenance.inputs", "provenance.machine"
    }  # fmt: skip
