"""Train networks for three steps, here and on an emulated processor, and compare the bytes of their weights.

    python benchmarks/backbones.py [PROCESSOR]      default: Haswell
    python benchmarks/backbones.py --here           one line of JSON per network

The recipe is that of train.reproducible: everywhere. Four images of 64 pixels a step, NAdam, clipped gradients, one
thread.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.network import devices, networks

import torch

import pinned
import processors

SIDE, IMAGES, STEPS = 64, 4, 3
REGISTERS = {"init_values": 1e-5, "mlp_layer": "SwiGLUPacked", "act_layer": "silu", "reg_tokens": 4}
NETWORKS: dict[str, dict[str, Any]] = {
    "shufflenet_v2_x0_5": {}, "resnet18": {}, "resnet50": {}, "densenet121": {}, "mobilenet_v3_small": {},
    "efficientnet_b0": {}, "efficientnet_v2_s": {}, "regnet_y_400mf": {}, "squeezenet1_1": {}, "vgg11_bn": {},
    "convnext_tiny": {}, "swin_t": {}, "swin_v2_t": {}, "timm/vit_tiny_patch16_224": {},
    "timm/vit_tiny_patch16_224 as UNI": {"init_values": 1e-5, "dynamic_img_size": True},
    "timm/vit_tiny_patch16_224 as UNI2-h, Virchow": REGISTERS,
    "timm/eva02_tiny_patch14_224": {}, "timm/tiny_vit_5m_224": {}, "timm/test_convnext2": {}, "timm/test_nfnet": {},
    "timm/test_efficientnet_evos": {}, "timm/test_maxvit": {}, "timm/test_coatnet": {}, "timm/test_mambaout": {},
}  # fmt: skip


def training_hash(name: str, arguments: dict[str, Any]) -> str:
    """The hash of the weights after STEPS steps, and of the logits of the same images in evaluation mode."""
    devices.seed_everything(1, "everywhere", threads=1)
    backbone = name.partition(" ")[0]
    classifier, optimiser = pinned.with_optimiser(networks.Classifier(backbone, "linear", SIDE, arguments=arguments))
    images = torch.randint(256, (IMAGES, 3, SIDE, SIDE), dtype=torch.uint8)
    for _ in range(STEPS):
        pinned.step(classifier, optimiser, images)
    with torch.inference_mode():
        logits = classifier.eval()(images)
    values = [*classifier.state_dict().values(), logits]
    return hashlib.sha256(b"".join(value.contiguous().numpy().tobytes() for value in values)).hexdigest()


def print_hashes() -> None:
    for name, arguments in NETWORKS.items():
        print(json.dumps([name, training_hash(name, arguments)]), flush=True)


def hashes(emulator: list[str]) -> dict[str, str]:
    """The hash of each network, from a process that ``emulator`` starts; an empty list: on this processor."""
    process = subprocess.run(
        [*emulator, sys.executable, __file__, "--here"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return dict(json.loads(line) for line in process.stdout.splitlines())


def main() -> None:
    if sys.argv[1:] == ["--here"]:
        return print_hashes()
    processor = (sys.argv[1:] or ["Haswell"])[0]
    native, emulated = hashes([]), hashes(processors.command(processor))
    print(f"| network | three steps here and on {processor} |\n| --- | --- |")
    for name in native:
        print(f"| {name} | {'equal' if emulated[name] == native[name] else '**differ**'} |")
    return None


if __name__ == "__main__":
    main()
