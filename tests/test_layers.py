"""The packages of core: who imports from whom, what docstrings say of arrays, and what a machine needs to train."""

import ast
import re
import subprocess
import sys

import pytest

import layers
from conftest import TOP

# What a machine with PyTorch for training need not have; DESIGN asks for no DVC there.
ABSENT = ["dvc", "dvclive", "kagglehub", "imagehash", "pydantic", "ruamel"]
ARRAY = re.compile("ndarray|Tensor")
PACKAGES = sorted(set().union(*layers.LAYERS))
CODE = [path for name in ("stages", "tests", "benchmarks", ".ci") for path in (TOP / name).rglob("*.py")]


def test_every_package_stands_on_one_floor():
    there = {path.name for path in layers.CORE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert there == set(PACKAGES) and sum(map(len, layers.LAYERS)) == len(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_from_floors_below_only(package):
    used = {other for here, other in layers.dependency_pairs() if here == package}
    assert {other for other in used if layers.level(other) >= layers.level(package)} == set()


def test_a_forbidden_import_is_seen_however_it_is_written(tmp_path):
    for line, expected in (
        ("from core.audit import copies, hashes", {"audit/copies.py", "audit/hashes.py"}),
        ("from core.split.leakage import find", {"split/leakage.py"}),
        ("def late():\n    from core.network import ood as strange", {"network/ood.py"}),
    ):
        (tmp_path / "script.py").write_text(line)
        modules = {path.relative_to(layers.CORE).as_posix() for path in layers.imports(tmp_path / "script.py")}
        assert modules == expected


def test_core_is_imported_in_the_one_way_that_the_floors_are_read_from():
    for path in CODE:
        for node in layers.nodes(path.read_text()):
            if isinstance(node, ast.Import):
                assert not [alias.name for alias in node.names if alias.name.split(".")[0] == "core"], path
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module != "core", path


def test_core_never_imports_a_script():
    scripts = {path.stem for path in layers.STAGES.glob("*.py")}
    for path in layers.CORE.rglob("*.py"):
        for node in layers.nodes(path.read_text()):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & scripts, path


def test_there_are_at_most_65_imports_between_rooms():
    assert len(layers.dependency_pairs()) <= 65


def test_each_package_says_at_its_door_what_lives_there_and_holds_no_code_there():
    for package in PACKAGES:
        body = ast.parse((layers.CORE / package / "__init__.py").read_text()).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr), package


def test_the_tests_mirror_the_packages():
    for path in (TOP / "tests").rglob("test_*.py"):
        if path.parent.name not in ("tests", "gpu"):
            assert (layers.CORE / path.parent.name / path.name.removeprefix("test_")).is_file(), path


def lacking(function, documented):
    """The arrays that a function takes or returns without a line in a section of the docstring (numpydoc's form)."""
    parts = re.split(r"\n\n(\w+)\n-+\n", ast.get_docstring(documented) or "")
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    entries = re.findall(r"^(\w[\w, ]*)", sections.get("Parameters", ""), re.MULTILINE)
    listed = {name.strip() for entry in entries for name in entry.split(",")}
    args = [node for node in ast.walk(function.args) if isinstance(node, ast.arg) and node.annotation]
    arrays = [arg.arg for arg in args if ARRAY.search(ast.unparse(arg.annotation)) and arg.arg not in listed]
    returns = function.returns is not None and ARRAY.search(ast.unparse(function.returns))
    return arrays + (["Returns"] if returns and not {"Returns", "Yields"} & sections.keys() else [])


def test_public_functions_list_the_arrays_that_they_take_and_return_in_sections_of_their_docstrings():
    for path in layers.STAGES.rglob("*.py"):
        body = ast.parse(path.read_text()).body
        owners = [node for node in body if isinstance(node, ast.ClassDef)]
        pairs = [(node, owner) for owner in owners for node in owner.body if getattr(node, "name", "") == "__init__"]
        pairs += [(node, node) for scope in (body, *(owner.body for owner in owners)) for node in scope]
        for function, documented in pairs:
            if isinstance(function, ast.FunctionDef) and not re.match("_|forward$", documented.name):
                assert lacking(function, documented) == [], f"{path}: {documented.name}"


@pytest.mark.slow
def test_training_and_scoring_need_neither_dvc_nor_the_schema():
    hidden = f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))"
    code = (
        f"{hidden}; from core.network import training, inference, networks; from core.evidence import metrics; "
        "from core.report import plots"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=TOP / "stages", capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
