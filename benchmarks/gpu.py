"""Measure what needs a GPU, in nine minutes: tables for benchmarks/README.md, and what "auto" should choose.

    python benchmarks/gpu.py [--results gpu.json] [--minutes 9] [--rows N] [--toy]

Each finished row is stored in the file of results: run the command again until no row is left. The rows:
  limit           forward, backward, clipping and NAdam on one batch that is already on the GPU, in each precision;
                  without deterministic algorithms; compiled; and compiled with CUDA graphs
  ours            core.network.training.fit with its augmentation, and compiled
  Lightning       its Trainer with our network, loss and augmentation ("make peers" installs it)
  original way    as in the original: each image is decoded from its PNG at each access
  members         one, two or four trainings at the same time on one GPU, with their images per second in total
The networks are EfficientNetV2-S at 384 pixels with batches of 16 and 128, and the default network. --toy runs all rows
of the former on a CPU with a small network; its times mean nothing.
"""

import argparse
import gc
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "stages"))

from core.network import devices  # noqa: E402
from core.pipeline import files, provenance  # noqa: E402
from core.pipeline.schemas import params_yaml  # noqa: E402

import training as bench  # noqa: E402

LARGE, DEFAULT = ("efficientnet_v2_s", 384), ("shufflenet_v2_x0_5", 64)
TOY = ("shufflenet_v2_x0_5", 32)
IMAGES = 64  # image files; a job repeats them
SECONDS = {"compiled": 150}  # the longest time of a row whose name contains this word
OTHER_SECONDS = 40  # that of all other rows
HEAD = "| | ms a step | images a second | GiB | speed / limit |"
MIN_GAIN = 1.1  # the gain in speed from which a setting is recommended

Row = dict[str, Any]


class Setting:
    """A network, an image side, and a batch size."""

    def __init__(self, name: tuple[str, int], batch: int, toy: bool) -> None:
        self.backbone, self.side = TOY if toy else name
        self.batch = min(batch, 8) if toy else batch
        self.steps = 3 if toy else max(10, 480 // batch)
        self.device = "cpu" if toy else "cuda"
        self.toy = toy
        self.title = f"{name[0]}, {name[1]} px, batch {batch}"

    def job(self, precision: str, folder: Path, **changes: Any) -> bench.Job:
        options = {"backbone": self.backbone, "side": self.side, "batch": self.batch, "steps": self.steps}
        cfg = params_yaml.load(TOP / "params.yaml")
        cfg = cfg.model_copy(update={"train": cfg.train.model_copy(update={"reproducible": "machine"} | changes)})
        devices.seed_everything(cfg.seed, cfg.train.reproducible, cfg.train.threads)
        args = argparse.Namespace(device=self.device, precision=precision, **options)
        random = np.random.default_rng(1)
        contents = []
        for _ in range(min(IMAGES, self.steps * self.batch)):
            blocks = random.integers(0, 256, (self.side // 8, self.side // 8, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(buffer, "PNG")
            contents.append(buffer.getvalue())
        return bench.Job(args, cfg, contents, random.integers(0, 2, len(contents)), folder)


def limit(setting: Setting, job: bench.Job, mode: str = "") -> Row:
    """Seconds per step on one batch. ``mode`` is torch.compile's; the first steps then compile."""
    rows = slice(0, setting.batch)
    batch = torch.from_numpy(job.images[rows]).to(job.device).permute(0, 3, 1, 2)
    target = torch.from_numpy(job.labels[rows].astype(np.float32)).to(job.device)
    network: torch.nn.Module = job.classifier()
    optimiser = job.optimiser(network)
    if mode:
        torch._dynamo.reset()  # another row may have compiled this network
        compiler = {"backend": "eager"} if setting.toy else {"mode": mode}
        network = torch.compile(network, dynamic=False, **compiler)
    start = job.now()
    for _ in range(bench.WARMUP):
        job.step(network, optimiser, batch, target)
    compiling = job.now() - start if mode else 0.0
    start = job.now()
    for _ in range(setting.steps):
        job.step(network, optimiser, batch, target)
    return {"seconds": (job.now() - start) / setting.steps, "compiling": compiling}


def members(setting: Setting, count: int, folder: Path) -> Row:
    """Seconds of ``count`` trainings at the same time, for one step of all of them: each is a process of its own that
    waits until all are ready."""
    name = f"{setting.title}".partition(",")[0]
    command = [sys.executable, __file__, "--member", name, str(setting.batch), str(count), str(folder)]
    environment = os.environ | {"TOY": str(int(setting.toy))}
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    seconds = [float(process.communicate()[0].split()[-1]) for process in processes]
    return {"seconds": max(seconds) / count}


def member(name: str, batch: str, count: str, folder: str) -> None:
    """What a process of ``members`` runs."""
    setting = Setting(LARGE if name == LARGE[0] else DEFAULT, int(batch), os.environ["TOY"] == "1")
    with tempfile.TemporaryDirectory() as images:
        job = setting.job("auto", Path(images))
        (Path(folder) / f"ready-{os.getpid()}").touch()
        while len([*Path(folder).glob("ready-*")]) < int(count):
            time.sleep(0.01)
        print(bench.ours(job))


def table(toy: bool) -> dict[str, tuple[Setting, str, dict[str, Any], Callable[..., Row]]]:
    """All rows by name, the most important first: setting, precision, parameters, and what measures it."""
    rows: dict[str, tuple[Setting, str, dict[str, Any], Callable[..., Row]]] = {}

    def seconds(contestant: Callable[[bench.Job], float]) -> Callable[..., Row]:
        return lambda setting, job: {"seconds": contestant(job)}

    functions, absent = bench.find_contestants([2], "bf16", torch.device("cpu" if toy else "cuda"))
    peers = [name for name in functions if name.startswith("Lightning")]
    print("\n".join(absent))
    settings = [Setting(network, batch, toy) for network, batch in ((LARGE, 16), (LARGE, 128), (DEFAULT, 32))]
    if toy:
        settings.pop()  # all have the same network
    for setting in settings:
        for precision in ("fp32", "tf32", "fp16", "bf16"):
            rows[f"{setting.title}: limit, {precision}"] = setting, precision, {}, limit
        rows[f"{setting.title}: ours"] = setting, "auto", {}, seconds(bench.ours)
        rows[f"{setting.title}: original way"] = setting, "auto", {}, seconds(bench.original)
        for name in peers:
            rows[f"{setting.title}: {name}"] = setting, "auto", {}, seconds(functions[name])
        changes = {"reproducible": "none"}
        rows[f"{setting.title}: limit, bf16, not deterministic"] = setting, "bf16", changes, limit
    for setting in settings[::2]:  # each network once
        for count in (1, 2) if toy else (1, 2, 4):
            rows[f"{setting.title}: members, {count}"] = setting, "auto", {}, partial(members, count=count)
    for setting in settings:
        rows[f"{setting.title}: limit, bf16, compiled"] = setting, "bf16", {}, partial(limit, mode="default")
        graphs = partial(limit, mode="reduce-overhead")
        rows[f"{setting.title}: limit, bf16, compiled, CUDA graphs"] = setting, "bf16", {}, graphs
        if not toy:
            rows[f"{setting.title}: ours, compiled"] = setting, "auto", {"compile": True}, seconds(bench.ours)
    return rows


def measure(setting: Setting, precision: str, changes: dict[str, Any], function: Callable[..., Row]) -> Row:
    """A row: seconds per step, images per second, and peak memory; or the error that ended it."""
    gc.collect()
    if not setting.toy:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            if isinstance(function, partial) and function.func is members:
                row = function(setting, folder=Path(folder))
            else:
                job = setting.job("fp32" if precision == "tf32" else precision, Path(folder), **changes)
                torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
                row = function(setting, job)
    except Exception as error:  # out of memory, no compiler, a peer of another version: the other rows still count
        return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
    row["images_per_second"] = setting.batch / row["seconds"]
    unmeasured = setting.toy or (isinstance(function, partial) and function.func is members)  # a CPU; other processes
    row["gib"] = None if unmeasured else torch.cuda.max_memory_allocated() / 2**30
    return row


def report(rows: dict[str, Row]) -> str:
    """The tables, in Markdown."""
    lines = []
    for title in dict.fromkeys(name.partition(": ")[0] for name in rows):
        row_of = {name.partition(": ")[2]: row for name, row in rows.items() if name.startswith(f"{title}: ")}
        best = min(
            (row["seconds"] for name, row in row_of.items() if is_training_limit(name) and "seconds" in row),
            default=None,
        )
        lines += ["", f"**{title}**", "", HEAD, "|---|---|---|---|---|"]
        for name, row in row_of.items():
            if "error" in row:
                lines.append(f"| {name} | {row['error']} | | | |")
                continue
            share = f"{best / row['seconds']:.2f}" if best else ""
            gib = "" if row["gib"] is None else f"{row['gib']:.1f}"
            lines.append(f"| {name} | {1e3 * row['seconds']:.2f} | {row['images_per_second']:.0f} | {gib} | {share} |")
    return "\n".join(lines)


def is_training_limit(name: str) -> bool:
    """Whether this is the limit in a precision that training offers."""
    return name in ("limit, fp32", "limit, fp16", "limit, bf16")


def advice(rows: dict[str, Row]) -> str:
    """What ``auto`` should be, by these rows."""
    lines = []
    for title in dict.fromkeys(name.partition(": ")[0] for name in rows):
        row_of = {name.partition(": ")[2]: row for name, row in rows.items() if name.startswith(f"{title}: ")}
        row_of = {name: row for name, row in row_of.items() if "seconds" in row}
        precisions = {name: row["seconds"] for name, row in row_of.items() if is_training_limit(name)}
        if precisions:
            lines.append(f"{title}: train.precision {min(precisions, key=precisions.__getitem__).partition(', ')[2]}")
        base = row_of.get("limit, bf16", {}).get("seconds")
        for name in ("limit, bf16, compiled", "limit, bf16, compiled, CUDA graphs"):
            if base and name in row_of:
                gain, row = base / row_of[name]["seconds"], row_of[name]
                steps = row["compiling"] / max(base - row["seconds"], 1e-9)
                threshold = f"from {steps:,.0f} steps" if gain >= MIN_GAIN else "never"
                lines.append(f"{title}: {name.partition('bf16, ')[2]} {threshold} (speed x {gain:.2f})")
        if base and "limit, bf16, not deterministic" in row_of:
            gain = base / row_of["limit, bf16, not deterministic"]["seconds"]
            lines.append(f"{title}: train.reproducible none gives speed x {gain:.2f}")
        counts = {int(name.rpartition(" ")[2]): row["seconds"] for name, row in row_of.items() if "members" in name}
        if 1 in counts:
            best = min(counts, key=counts.__getitem__)
            gain = counts[1] / counts[best]
            lines.append(f"{title}: {best if gain >= MIN_GAIN else 1} members on a GPU at once (speed x {gain:.2f})")
    return "\n".join(lines)


def main() -> None:
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--rows", type=int, default=1000, help="measure at most so many in this run")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--member", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # Lightning suggests more workers; torch warns of nondeterminism
    if args.member:
        return member(*args.member)
    if not args.toy and not torch.cuda.is_available():
        raise SystemExit("This machine has no NVIDIA GPU: --toy tries the script on the CPU")
    rows, results = table(args.toy), files.read_json(args.results) if args.results.exists() else {}
    remaining = [name for name in rows if name not in results]
    for name in remaining[: args.rows]:
        needed = max((seconds for word, seconds in SECONDS.items() if word in name), default=OTHER_SECONDS)
        if not args.toy and time.monotonic() - start + needed > 60 * args.minutes:
            break
        results[name] = measure(*rows[name])
        files.write_json(args.results, results)
        print(name, json.dumps(results[name]), flush=True)
    remaining = [name for name in rows if name not in results]
    machine = provenance.machine()
    print(report({name: results[name] for name in rows if name in results}))
    if args.toy:
        print("\nTOY: a small network on a CPU; these times say nothing about a GPU")
    print(f"\n{machine.get('gpu') or machine['processor']}, torch {torch.__version__}\n")
    print(advice(results))
    print(f"{len(remaining)} rows are left: run it again" if remaining else "No row is left")


if __name__ == "__main__":
    main()
