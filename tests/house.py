"""The layers of the packages of core, and the imports between packages and scripts; used by tests.

python tests/house.py      print the packages, the scripts and the imports between them
"""

import ast
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
STAGES = TOP / "stages"
CORE = STAGES / "core"
# The layers of core, lowest first. A package imports only from lower layers; scripts are the highest layer.
FLOORS = [{"pipeline"}, {"images", "split", "evidence", "report"}, {"audit", "network"}, {"commands"}]


def floor(room: str) -> int:
    """The number of a package's layer in FLOORS, from 0; scripts have the highest."""
    return next((height for height, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))


def modules(script: Path) -> set[Path]:
    """The modules of core that a file imports directly."""
    found = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "core":
            place = STAGES.joinpath(*node.module.split("."))
            found |= (
                {place / f"{alias.name}.py" for alias in node.names} if place.is_dir() else {place.with_suffix(".py")}
            )
    return found


def closure(script: Path) -> set[Path]:
    """The modules of core that a file imports, directly or through other modules of core."""
    seen: set[Path] = set()
    waiting = [script]
    while waiting:
        new = modules(waiting.pop()) - seen
        seen |= new
        waiting += new
    return seen


def dependencies(script: Path) -> set[str]:
    """The code that a stage script depends on, as listed in dvc.yaml.

    A package is listed as a folder if all of its modules are imported, otherwise file by file. A change in a module
    that the stage does not import then never reruns the stage.
    """
    used = closure(script)
    whole = {path for path in CORE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    whole = {path for path in whole if {*path.glob("*.py")} - {path / "__init__.py"} <= used}
    named = whole | {module for module in used if module.parent not in whole} | {script}
    return {path.relative_to(TOP).as_posix() for path in named}


def room(file: Path) -> str:
    """The name of a module's package, or the file name of a script."""
    return file.parent.name if file.is_relative_to(CORE) else file.name


def doors() -> set[tuple[str, str]]:
    """Pairs of packages or scripts: the first imports from the second."""
    files = [*STAGES.glob("*.py"), *CORE.glob("*/*.py")]
    between = {(room(file), room(module)) for file in files for module in modules(file)}
    scripts = {path.stem for path in STAGES.glob("*.py")}
    for file in STAGES.glob("*.py"):
        names = {node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)}
        between |= {(file.name, f"{name}.py") for name in names & scripts}
    return {(one, other) for one, other in between if one != other}


if __name__ == "__main__":
    found = doors()
    rooms = {package for level in FLOORS for package in level} | {path.name for path in STAGES.glob("*.py")}
    print(f"{len(rooms)} packages and scripts, {len(found)} imports between them")
    for one in sorted(rooms, key=lambda name: (-floor(name), name)):
        print(f"{one:12} {' '.join(sorted(other for here, other in found if here == one))}")
