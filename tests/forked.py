"""Runs DVC and stages in forks of a process that has imported their packages: most of a short run is imports.

``run`` starts this file as that process, once for each process of pytest. A fork does what the program dvc, or
``python stages/NAME.py``, does. DVC's own stages are forks too: ``environment`` puts a program ``python`` before the
others, which passes them on to the process, and everything else to Python. All forks have one seed of Python's hashes:
where two runs are compared, one must not be a fork (conftest.Clone.run).
"""

import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, NoReturn

STAGES = Path(__file__).resolve().parents[1] / "stages"
MODULES = (
    "dulwich.porcelain", "dvc.api", "dvc.cachemgr", "dvc.compare", "dvc.data_cloud", "dvc.info", "dvc.render.match",
    "dvc.repo.checkout", "dvc.repo.datasets", "dvc.repo.experiments.executor.local",
    "dvc.repo.experiments.queue.celery", "dvc.repo.experiments.queue.tempdir",
    "dvc.repo.experiments.queue.workspace", "dvc.repo.experiments.run", "dvc.repo.experiments.show",
    "dvc.repo.fetch", "dvc.repo.index", "dvc.repo.metrics.diff", "dvc.repo.params.diff", "dvc.repo.plots.diff",
    "dvc.repo.reproduce", "dvc.repo.status", "dvc.stage.cache", "dvc.utils.hydra", "dvc.utils.strictyaml",
    "dvc_data.hashfile.db.local", "dvc_data.index.checkout", "networkx", "pygit2", "scmrepo.fs", "sklearn.neighbors",
)  # fmt: skip
PYTHON = """#!/bin/sh
case "$1" in stages/*.py | ../stages/*.py) exec {python} -IS {file} {address} "$@" ;; esac
exec {python} "$@"
"""


def run(command: list[str], cwd: Path, env: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run dvc, or python with a script of stages/, as subprocess.run(command, capture_output=True, text=True) would."""
    arguments = command if command[0] == "dvc" else command[1:]
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr, open(os.devnull) as stdin:
        numbers = [file.fileno() for file in (stdin, stdout, stderr)]
        try:
            with _request(_address(), arguments, str(cwd), environment(env), numbers, timeout) as answers:
                answers.readline()
                code = int(answers.readline())
        except TimeoutError:
            raise subprocess.TimeoutExpired(command, timeout) from None
        for file in (stdout, stderr):
            file.seek(0)
        return subprocess.CompletedProcess(command, code, stdout.read(), stderr.read())


def environment(env: dict[str, str]) -> dict[str, str]:
    """The environment in which ``python stages/NAME.py`` is a fork."""
    return env | {"PATH": f"{Path(_address()).parent}:{env['PATH']}"}


def _address() -> str:
    """The address of the process's socket, in a folder of its own."""
    return _server().args[-1]


@cache
def _server() -> subprocess.Popen[bytes]:
    """The process. It ends with this one, which holds its standard input."""
    folder = Path(tempfile.mkdtemp(prefix="forked-"))
    address = str(folder / "socket")
    (folder / "python").write_text(PYTHON.format(python=sys.executable, file=__file__, address=address))
    (folder / "python").chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, __file__, address]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    server.stdout.readline()  # it listens
    return server


def _request(
    address: str, arguments: list[str], cwd: str, env: dict[str, str], numbers: list[int], timeout: float | None = None
) -> IO[str]:
    """Ask the process for a fork with these standard files. It answers with two lines: its number, and its status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.settimeout(timeout)
        socket.send_fds(connection, [b"\n"], numbers)
        connection.sendall(json.dumps([arguments, cwd, env]).encode() + b"\n")
        return connection.makefile()


def _pass_on(address: str, arguments: list[str]) -> NoReturn:
    """Let the process run a script, with this one's files and signals; end as the fork does."""
    with _request(address, arguments, str(Path.cwd()), dict(os.environ), [0, 1, 2]) as answers:
        fork = int(answers.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: os.kill(fork, number))
        code = int(answers.readline())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def serve(address: str) -> None:
    """Fork for each request, and kill the fork of a client that has gone. Ends when the standard input is closed."""
    _import()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("listening", flush=True)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj == 0:
                return shutil.rmtree(Path(address).parent)
            if key.fileobj is listener:
                connection, _ = listener.accept()
                files = socket.recv_fds(connection, 1, 3)[1]
                request = json.loads(connection.makefile().readline())
                fork = os.fork()
                if not fork:
                    _become(*request, files)
                for number in files:
                    os.close(number)
                connection.sendall(f"{fork}\n".encode())
                selector.register(connection, selectors.EVENT_READ, fork)
                selector.register(os.pidfd_open(fork), selectors.EVENT_READ, (fork, connection))
            elif isinstance(key.data, int):
                if key.fd in selector.get_map():  # else its fork has just ended
                    selector.unregister(key.fd)
                    os.kill(key.data, signal.SIGKILL)
            else:
                fork, connection = key.data
                code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
                selector.unregister(key.fd)
                os.close(key.fd)
                if connection in selector.get_map():  # else the client has gone
                    selector.unregister(connection)
                    with suppress(OSError):
                        connection.sendall(f"{code}\n".encode())
                connection.close()


def _import() -> None:
    """Import all packages of DVC and of the stages, but no module of the stages: a clone has its own."""
    from dvc.cli import parser

    parser.get_main_parser()  # imports all commands
    sys.path.insert(0, str(STAGES))
    scripts = {path.stem for path in STAGES.glob("*.py")}
    for name in scripts:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] in scripts | {"core"}]:
        del sys.modules[name]
    sys.path.remove(str(STAGES))
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()  # so that a fork does not copy the memory of all modules


def _become(arguments: list[str], cwd: str, env: dict[str, str], files: list[int]) -> NoReturn:
    """Run dvc or a script in this process."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.modules["numpy"].random.seed()  # not the state that all forks have
    sys.argv = arguments
    if arguments[0] == "dvc":
        from dvc.cli import main

        sys.exit(main(arguments[1:]))
    script = Path(cwd, arguments[0]).resolve()
    sys.path[0] = str(script.parent)
    module = sys.modules["__main__"] = ModuleType("__main__")
    module.__file__ = str(script)
    exec(compile(script.read_bytes(), script, "exec"), module.__dict__)
    sys.exit()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        _pass_on(sys.argv[1], sys.argv[2:])
