"""Every parameter of params.yaml is read by the code, shown by the type checker: without the field, it finds the code
that reads it."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from core.pipeline.schemas.base import SPLITS

import annotated_types
import pydantic
import pydantic_core
import pytest
import typing_inspection

from conftest import TOP

SCHEMAS = "stages/core/pipeline/schemas"
# Read by a name in a variable.
INDIRECT = {("Split", name) for name in SPLITS} | {("Lists", name) for name in SPLITS}


def without_fields(source):
    """A module of schemas without its fields, and without the validators, which read fields too; and the fields."""
    tree, fields = ast.parse(source), set()
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or ast.unparse(node.bases[0]) == "NamedTuple":
            continue
        names = [entry for entry in node.body if isinstance(entry, ast.AnnAssign)]
        leaves = [entry for entry in names if not re.fullmatch("[A-Z][a-z]+", ast.unparse(entry.annotation)) or
                  ast.unparse(entry.annotation) in ("Fraction", "Count", "Strength", "Percent", "Seed")]  # fmt: skip
        fields |= {(node.name, entry.target.id) for entry in leaves}
        node.body = [
            entry for entry in node.body
            if entry not in leaves
            and not (isinstance(entry, ast.FunctionDef) and "validator" in ast.unparse(entry).partition("def ")[0])
        ] or [ast.Pass()]  # fmt: skip
    return ast.unparse(tree), fields


@pytest.mark.slow
def test_every_parameter_is_read_by_code_that_has_its_section(tmp_path):
    shutil.copytree(TOP / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    fields = set()
    for path in sorted((tmp_path / SCHEMAS).glob("*.py")):
        if path.name not in ("__init__.py", "base.py", "messages.py"):
            text, names = without_fields(path.read_text())
            path.write_text(text)
            fields |= names
    # Of all packages, only that of the schemas is read: with torch and others, it would take ten times as long.
    (tmp_path / "packages").mkdir()
    for module in (annotated_types, pydantic, pydantic_core, typing_inspection):
        folder = Path(module.__file__).parent
        (tmp_path / "packages" / folder.name).symlink_to(folder)
    options = [
        "--no-site-packages",
        "--ignore-missing-imports",
        "--no-error-summary",
        "--cache-dir",
        tmp_path / "cache",
    ]
    shown = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *sorted((tmp_path / "stages").glob("*.py"))],
        cwd=tmp_path / "stages", capture_output=True, text=True, env=os.environ | {"MYPYPATH": tmp_path / "packages"},
    ).stdout  # fmt: skip
    read = set(re.findall(r'"(\w+)" has no attribute "(\w+)"', shown))
    pages = "".join(path.read_text() for path in (TOP / "stages/core").rglob("*.html"))
    read |= {(section.capitalize(), key) for section, key in re.findall(r"parameters\.(\w+)\.(\w+)", pages)}
    assert len(fields) > 60
    assert fields - read - INDIRECT == set(), shown[-2000:]
