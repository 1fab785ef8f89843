"""Measure the cost of equal bytes on every processor: the time of a training step with and without the pins.

    python benchmarks/pinned.py [--rounds 3] [--threads 1]

Each round runs one process with train.reproducible = everywhere and one with machine. Prints the ratio of their median
times of a step, per network.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.network import devices, networks
from core.network.optimiser import NAdam

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ratios import spread

MODES = ("everywhere", "machine")
BATCH = 16
# Pixels of a side, and steps.
NETWORKS = {
    "shufflenet_v2_x0_5": (64, 100), "resnet50": (128, 6), "efficientnet_v2_s": (128, 6),
    "timm/vit_tiny_patch16_224": (224, 4),
}  # fmt: skip


def with_optimiser(classifier: networks.Classifier) -> tuple[networks.Classifier, NAdam]:
    """A network as the stage trains it, and its optimiser."""
    classifier.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    return classifier, NAdam(list(classifier.parameters()), 0.001, 0.0)


def step(classifier: networks.Classifier, optimiser: NAdam, images: torch.Tensor) -> None:
    """Take a training step; every second image is positive."""
    target = torch.arange(len(images)).remainder(2).float()
    optimiser.zero_grad()
    binary_cross_entropy_with_logits(classifier(images), target).backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(optimiser.gather(), 1.0)
    optimiser.step()


def step_time(mode: str, threads: int, backbone: str) -> float:
    """The median time of a training step in this process, in seconds, after two that are not counted."""
    devices.seed_everything(1, mode, threads)
    side, steps = NETWORKS[backbone]
    classifier, optimiser = with_optimiser(networks.Classifier(backbone, "linear", side))
    images = torch.randint(256, (BATCH, 3, side, side), dtype=torch.uint8)
    times = []
    for _ in range(2 + steps):
        start = time.perf_counter()
        step(classifier, optimiser, images)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)  # mode and network of a process
    args = parser.parse_args()
    if args.worker:
        print(step_time(args.worker[0], args.threads, args.worker[1]))
        return
    print(f"time of a step, everywhere / machine, {args.threads} threads: median (min to max)")
    for backbone, (side, _) in NETWORKS.items():
        ratios = []
        for _ in range(args.rounds):
            command = [sys.executable, __file__, "--threads", str(args.threads), "--worker"]
            times = [float(subprocess.check_output([*command, mode, backbone])) for mode in MODES]
            ratios.append(times[0] / times[1])
        print(f"{backbone}, {side} px: {spread(ratios)}", flush=True)


if __name__ == "__main__":
    main()
