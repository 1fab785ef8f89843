"""The layers of the packages of core, and the imports between packages and scripts; used by tests.

python tests/layers.py      print the packages, the scripts and the imports between them
"""

import ast
import fnmatch
from functools import cache
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
STAGES = TOP / "stages"
CORE = STAGES / "core"
# The layers of core, lowest first. A package imports only from lower layers; scripts are the highest layer.
LAYERS = [{"pipeline"}, {"images", "split", "evidence", "report"}, {"audit", "network"}, {"commands"}]


def level(package: str) -> int:
    """The number of a package's layer in LAYERS, from 0; scripts have the highest."""
    return next((height for height, packages in enumerate(LAYERS) if package in packages), len(LAYERS))


def imports(script: Path, typing: bool = True) -> set[Path]:
    """The modules of core that a file imports directly; without ``typing``, not those for type annotations only."""
    return _imports(script.read_text(), typing)


@cache
def nodes(source: str) -> list[ast.AST]:
    """All nodes of a module. Several tests read all modules, and each is parsed once."""
    return list(ast.walk(ast.parse(source)))


@cache
def _imports(source: str, typing: bool) -> set[Path]:
    tree = ast.parse(source)
    if not typing:
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        ]
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "core":
            place = STAGES.joinpath(*node.module.split("."))
            modules |= (
                {place / f"{alias.name}.py" for alias in node.names} if place.is_dir() else {place.with_suffix(".py")}
            )
    return modules


def ignored() -> list[str]:
    """The patterns of .dvcignore for files in stages/: what only speaks, so that no stage depends on it."""
    lines = (TOP / ".dvcignore").read_text().splitlines()
    return [line.removeprefix("/") for line in lines if line.startswith("/stages/")]


def speaks(module: Path) -> bool:
    """Whether .dvcignore hides a module from DVC."""
    return any(fnmatch.fnmatch(module.relative_to(TOP).as_posix(), pattern) for pattern in ignored())


def closure(script: Path) -> set[Path]:
    """The modules of core that can change what a file computes: those that it imports, directly or through others, but
    for those that only speak."""
    seen: set[Path] = set()
    waiting = [script, CORE / "__init__.py"]
    while waiting:
        new = {module for module in imports(waiting.pop(), typing=False) if not speaks(module)} - seen
        seen |= new
        waiting += new
    return seen


def dependencies(script: Path) -> set[str]:
    """The code that a stage script depends on, as listed in dvc.yaml.

    A package is listed as a folder if all of its modules are imported (.dvcignore hides those that only speak),
    otherwise file by file. A change in a module that the stage does not import then never reruns the stage.
    """
    used = closure(script)
    folders = {path for path in CORE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    folders = {
        path
        for path in folders
        if {module for module in path.rglob("*.py") if module.name != "__init__.py" and not speaks(module)} <= used
    }
    named = folders | {module for module in used if package(module) not in {path.name for path in folders}}
    named |= {script, CORE / "__init__.py"}
    return {path.relative_to(TOP).as_posix() for path in named}


def package(file: Path) -> str:
    """The name of a module's package, or the file name of a script."""
    return file.relative_to(CORE).parts[0] if file.is_relative_to(CORE) else file.name


@cache
def dependency_pairs() -> set[tuple[str, str]]:
    """Pairs of packages or scripts: the first imports from the second."""
    files = [*STAGES.glob("*.py"), *(path for path in CORE.rglob("*.py") if path.parent != CORE)]
    pairs = {(package(file), package(module)) for file in files for module in imports(file)}
    scripts = {path.stem for path in STAGES.glob("*.py")}
    for file in STAGES.glob("*.py"):
        names = {node.module for node in nodes(file.read_text()) if isinstance(node, ast.ImportFrom)}
        pairs |= {(file.name, f"{name}.py") for name in names & scripts}
    return {(importer, imported) for importer, imported in pairs if importer != imported}


if __name__ == "__main__":
    pairs = dependency_pairs()
    nodes = {name for packages in LAYERS for name in packages} | {path.name for path in STAGES.glob("*.py")}
    print(f"{len(nodes)} packages and scripts, {len(pairs)} imports between them")
    for importer in sorted(nodes, key=lambda name: (-level(name), name)):
        print(f"{importer:12} {' '.join(sorted(imported for name, imported in pairs if name == importer))}")
