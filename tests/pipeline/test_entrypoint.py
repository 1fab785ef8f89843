import os
import signal
import subprocess
import sys
import time

from core.pipeline import entrypoint, files
from core.pipeline.errors import Interrupted

import pytest

from conftest import TOP


def run(tmp_path, body, **options):
    """A script of its own process that runs ``body`` as its main."""
    lines = "\n    ".join(body.splitlines())
    script = tmp_path / "script.py"
    script.write_text(
        f"import time\nfrom core.pipeline import files, entrypoint\ndef main():\n    {lines}\nentrypoint.script(main)\n"
    )
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    environment = os.environ | {"PYTHONPATH": str(TOP / "stages")}
    return subprocess.Popen([sys.executable, script], cwd=tmp_path, text=True, env=environment, **options)


@pytest.mark.parametrize(
    ("argument", "status", "message"),
    [("--help", 0, "\n\nLook for copies.\n"), ("--seed=2", 2, "--set-param KEY=VALUE\nstage.py: error: unrecognized")],
)
def test_a_stage_says_what_it_does_and_takes_no_arguments(tmp_path, argument, status, message):
    script = tmp_path / "stage.py"
    script.write_text(
        '"""Look for copies."""\nfrom core.pipeline import entrypoint\nentrypoint.stage(lambda: print("ran"))\n'
    )
    result = subprocess.run(
        [sys.executable, script, argument], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(TOP / "stages")},
    )  # fmt: skip
    assert result.returncode == status and message in result.stdout + result.stderr
    assert "ran" not in result.stdout


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            "OSError(28, 'No space left on device', 'a.csv')",
            "a.csv can't be written: No space left on device. The old file",
        ),
        (
            "PermissionError(13, 'Permission denied', 'a.csv')",
            "a.csv: Permission denied. Change its permissions",
        ),
        (
            "OSError(30, 'Read-only file system', 'a.csv')",
            "a.csv: Read-only file system. Change its permissions",
        ),
        ("FileNotFoundError(2, 'No such file or directory', 'a')", "a: No such file or directory"),
        ("MemoryError('9 GiB')", "Not enough memory (9 GiB)"),
    ],
)
def test_what_the_machine_did_is_one_line(tmp_path, raised, message):
    process = run(tmp_path, f"raise {raised}")
    out, err = process.communicate()
    assert process.returncode == 1 and out == "" and err.startswith(message) and err.count("\n") == 1


def test_what_the_code_did_wrong_still_shows_where(tmp_path):
    process = run(tmp_path, "raise KeyError('a')")
    assert "Traceback" in process.communicate()[1] and process.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_script_leaves_nothing_half_written_and_says_so(tmp_path, number):
    (tmp_path / "a.txt").write_text("old")
    body = (
        "with files.atomic_write('a.txt') as unfinished:\n"
        "    unfinished.write_text('ha')\n    print('now', flush=True)\n"
    )
    process = run(tmp_path, body + "    time.sleep(60)")
    assert process.stdout.readline() == "now\n"
    process.send_signal(number)
    assert "Interrupted: no unfinished file remains. Run it again" in process.communicate()[1]
    assert process.returncode == 130
    assert (tmp_path / "a.txt").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "script.py"]


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(tmp_path):
    body = (
        "with files.atomic_write('a.txt') as unfinished, files.scratch('.', 'b') as folder:\n"
        "    unfinished.write_text('ha')\n    (folder / 'c').write_text('c')\n"
        "    print('now', flush=True)\n    time.sleep(60)"
    )
    killed, living = run(tmp_path, body), run(tmp_path, body)
    assert killed.stdout.readline() == living.stdout.readline() == "now\n"
    killed.kill()
    killed.wait()
    with files.atomic_write(tmp_path / "a.txt") as unfinished, files.scratch(tmp_path, "b"):
        unfinished.write_text("whole")
        here = [path.name for path in tmp_path.iterdir() if "unfinished" in path.name]
        assert not [name for name in here if f".{killed.pid}." in name]
        assert len([name for name in here if f".{living.pid}." in name]) == 2
    living.send_signal(signal.SIGTERM)
    living.communicate()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "script.py"]


def test_a_sigterm_while_python_ends_shows_no_traceback(tmp_path):
    """As torchrun sends it to a process that is just giving up."""
    body = "import atexit\natexit.register(lambda: (print('ending', flush=True), time.sleep(60)))"
    process = run(tmp_path, body)
    assert process.stdout.readline() == "ending\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[1] == "" and process.returncode == -signal.SIGTERM


def test_output_that_nobody_reads_any_more_is_no_error(tmp_path):
    process = run(tmp_path, "print('x' * 100_000, flush=True)\nprint('x' * 100_000, flush=True)")
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 1


@pytest.mark.parametrize("output", [subprocess.PIPE, "file"])
def test_a_connection_to_a_process_that_died_is_an_error_with_a_message(tmp_path, output):
    """It ended without a word, as if the reader of the output had gone."""
    body = "import multiprocessing\na, b = multiprocessing.Pipe()\nb.close()\na.send(1)"
    with (tmp_path / "out.txt").open("w") as file:
        process = run(tmp_path, body) if output != "file" else run(tmp_path, body, stdout=file)
        err = process.communicate()[1]
    assert process.returncode == 1
    assert err == "Lost the connection to another process, which has ended: run it again\n"


def test_the_first_wish_to_stop_is_deferred_and_the_second_is_not():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), entrypoint.deferred_signals() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interruption_that_knows_how_to_go_on_says_it(capsys):
    def main():
        raise Interrupted("kept")

    with pytest.raises(SystemExit) as ended:
        entrypoint.script(main)
    assert ended.value.code == 130 and capsys.readouterr().err == "\nInterrupted: kept\n"


def test_a_second_run_of_a_stage_waits_for_the_first(tmp_path):
    script = tmp_path / "stage.py"
    script.write_text(
        "from core.pipeline import entrypoint\nfrom pathlib import Path\n"
        "lock = entrypoint._wait_for_lock(Path('stage.py'))\n"
        "print('in', flush=True)\ninput()\nprint('out', flush=True)\n"
    )
    start = {"cwd": tmp_path, "text": True, "env": os.environ | {"PYTHONPATH": str(TOP / "stages")}}
    start |= dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    first = subprocess.Popen([sys.executable, script], **start)
    assert first.stdout.readline() == "in\n"
    second = subprocess.Popen([sys.executable, script], **start)
    line = f"Another stage.py is running here: waiting for it to end (kill {first.pid} stops it)\n"
    assert second.stderr.readline() == line
    assert first.poll() is None
    assert first.communicate("\n")[0] == "out\n" and first.returncode == 0
    assert second.stdout.readline() == "in\n"
    third = subprocess.Popen([sys.executable, script], **start)
    second.kill()
    began = time.monotonic()
    assert third.stdout.readline() == "in\n" and time.monotonic() - began < 10
    third.communicate("\n")
    second.communicate()
