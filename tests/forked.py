"""Runs commands of DVC, and the scripts of the project that are no stages, in forks of processes that have imported the
libraries. It takes half of the time, because most of a short command is imports.

``run`` starts this file as such a process: one for DVC and one for scripts, for each process of pytest. A fork does
what the program dvc or python does. Nothing of a clone is imported before the fork. Stages run as users run them:
provenance and checkpoints name what a process has imported.
"""

import gc
import importlib
import json
import os
import runpy
import select
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

MODULES = (
    "dulwich.porcelain", "dvc.api", "dvc.cachemgr", "dvc.compare", "dvc.data_cloud", "dvc.info", "dvc.render.match",
    "dvc.repo.checkout", "dvc.repo.datasets", "dvc.repo.experiments.executor.local",
    "dvc.repo.experiments.queue.celery", "dvc.repo.experiments.queue.tempdir",
    "dvc.repo.experiments.queue.workspace", "dvc.repo.experiments.run", "dvc.repo.experiments.show",
    "dvc.repo.fetch", "dvc.repo.index", "dvc.repo.metrics.diff", "dvc.repo.params.diff", "dvc.repo.plots.diff",
    "dvc.repo.reproduce", "dvc.repo.status", "dvc.stage.cache", "dvc.utils.hydra", "dvc.utils.strictyaml",
    "dvc_data.hashfile.db.local", "dvc_data.index.checkout", "networkx", "pygit2", "scmrepo.fs",
)  # fmt: skip


LIBRARIES = (
    "duckdb", "dvc.api", "pandas", "pydantic", "safetensors.torch", "scipy.optimize", "scipy.stats", "torch",
)  # fmt: skip
SCRIPTS = ("check", "compare", "exps", "export", "judge", "predict")


def can_run(program: str, arguments: list[str]) -> bool:
    if program == "dvc":  # a stage reads these from the command line of DVC
        return not {"-f", "--force"} & {*arguments}
    return program == "python" and arguments[0] in [f"stages/{name}.py" for name in SCRIPTS]


def run(
    program: str, arguments: list[str], cwd: Path, env: dict[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """What subprocess.run([program, *arguments], capture_output=True, text=True) returns, if ``can_run``."""
    server = _server(program)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("stdout", "stderr")]
        print(json.dumps([arguments, str(cwd), env, paths]), file=server.stdin, flush=True)
        if not select.select([server.stdout], [], [], timeout)[0]:
            server.kill()
            _server.cache_clear()
            raise subprocess.TimeoutExpired([program, *arguments], timeout)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(Path(path).read_text() for path in paths))


@cache
def _server(program: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, program]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def serve(program: str) -> None:
    if program == "dvc":
        from dvc.cli import main, parser

        parser.get_main_parser()  # imports all commands
    for name in MODULES if program == "dvc" else LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # so that a fork does not copy the memory of all modules
    for line in sys.stdin:
        arguments, cwd, env, paths = json.loads(line)
        process = os.fork()
        if not process:
            for number, path in enumerate([os.devnull, *paths]):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
            os.environ.clear()
            os.environ.update(env)
            os.chdir(cwd)
            if program == "dvc":
                sys.argv = ["dvc", *arguments]
                sys.exit(main(arguments))
            sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent.resolve())
            runpy.run_path(arguments[0], run_name="__main__")
            sys.exit()
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
