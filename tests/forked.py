"""Runs commands of DVC in forks of a process that has imported DVC. It takes half of the time, because most of a short
command is imports.

``run`` starts this file as such a process, one for each process of pytest. A fork does what the program dvc does.
Stages run as users run them: provenance and checkpoints name what a process has imported.
"""

import gc
import importlib
import json
import os
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


def can_run(arguments: list[str]) -> bool:
    return not {"-f", "--force"} & {*arguments}  # a stage reads these from the command line of DVC


def run(arguments: list[str], cwd: Path, env: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """What subprocess.run(["dvc", *arguments], capture_output=True, text=True) returns, if ``can_run``."""
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("stdout", "stderr")]
        print(json.dumps([arguments, str(cwd), env, paths]), file=server.stdin, flush=True)
        if not select.select([server.stdout], [], [], timeout)[0]:
            server.kill()
            _server.cache_clear()
            raise subprocess.TimeoutExpired(["dvc", *arguments], timeout)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(Path(path).read_text() for path in paths))


@cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, __file__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def serve() -> None:
    from dvc.cli import main, parser

    parser.get_main_parser()  # imports all commands
    for name in MODULES:
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
            sys.argv = ["dvc", *arguments]
            sys.exit(main(arguments))
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
