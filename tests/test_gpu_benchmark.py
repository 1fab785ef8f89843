"""benchmarks/gpu.py at toy size, on a CPU: it runs, goes on where it ended, and prints its tables and its advice."""

import json
import subprocess
import sys

import pytest

import gpu
from conftest import TOP


@pytest.mark.long
@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_and_goes_on_where_it_ended(tmp_path):
    results = tmp_path / "gpu.json"

    def run(*options):
        command = [sys.executable, "benchmarks/gpu.py", "--toy", "--results", results, *options]
        return subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=500, check=True).stdout

    assert "rows are left: run it again" in run("--rows", "2")
    first = json.loads(results.read_text())
    assert len(first) == 2
    output = run()
    rows = json.loads(results.read_text())
    assert {name: rows[name] for name in first} == first and "No row is left" in output
    assert not [row for row in rows.values() if "error" in row]
    for title in ("efficientnet_v2_s, 384 px, batch 16", "efficientnet_v2_s, 384 px, batch 128"):
        assert f"**{title}**" in output and f"{title}: train.precision " in output
        for name in ("fp32", "tf32", "bf16", "bf16, compiled", "bf16, compiled, CUDA graphs"):
            assert f"| limit, {name} | " in output
    assert "members on a GPU at once" in output


def test_the_advice_follows_from_the_rows():
    def row(seconds, compiling=0.0):
        return {"seconds": seconds, "images_per_second": 1 / seconds, "gib": 1.0, "compiling": compiling}

    rows = {
        "a: limit, fp32": row(3.0), "a: limit, fp16": row(1.1), "a: limit, bf16": row(1.0), "a: ours": row(1.25),
        "a: limit, bf16, compiled": row(0.5, 60.0), "a: limit, bf16, compiled, CUDA graphs": row(0.95, 90.0),
        "a: members, 1": row(1.2), "a: members, 2": row(0.8), "a: members, 4": row(0.9),
        "a: Lightning, 2 workers": {"error": "ImportError: no module"},
    }  # fmt: skip
    assert gpu.advice(rows).splitlines() == [
        "a: train.precision bf16",
        "a: compiled from 120 steps (speed x 2.00)",
        "a: compiled, CUDA graphs never (speed x 1.05)",
        "a: 2 members on a GPU at once (speed x 1.50)",
    ]
    assert "| ours | 1250.00 | 1 | 1.0 | 0.80 |" in gpu.report(rows)
    assert "| Lightning, 2 workers | ImportError: no module | | | |" in gpu.report(rows)
