"""What tests/network/test_ranks.py runs under torchrun: 50 steps of a network without batch statistics, their losses.

python -m torch.distributed.run --standalone --nproc-per-node 2 tests/sharing.py PARAMETERS LOSSES [fault]
"""

import json
import sys
from pathlib import Path

from core.network import devices, networks, ranks, state, training
from core.pipeline.schemas import params_yaml

import numpy as np
import torch
from torch import nn

IMAGES, STEPS = 83, 10  # 83 images in batches of 9: the last batch has two, fewer than three ranks


def main() -> None:
    parameters, output, *fault = sys.argv[1:]
    cfg = params_yaml.load(parameters).train
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, IMAGES + 20)
    grey = 60 + 120 * labels[:, None, None, None] + random.integers(0, 40, (len(labels), 32, 32, 3))
    images = grey.astype(np.uint8)
    rows = {"train": np.arange(IMAGES), "val": np.arange(IMAGES, IMAGES + 19)}
    devices.seed_everything(1)
    # Without ReLU and maximum, which now and then make another step from another rounding.
    classifier = networks.Classifier("timm/test_convnext", "linear", 32)
    for module in classifier.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    losses: list[list[float]] = []

    def on_epoch_end(member: int, epoch: state.Epoch) -> None:
        losses.append([*epoch])

    validate = training.Trainer.validate

    def validate_and_log(self: training.Trainer) -> state.Epoch:
        losses.append(self.dist.all_reduce(self.state.losses).tolist())
        return validate(self)

    training.Trainer.validate = validate_and_log
    with ranks.process_group(torch.device("cpu"), minutes=1) as dist:
        dist.check_equal(str(dist.rank if fault == ["differ"] else 0))
        result = training.fit(
            classifier, training.Data(images, labels, rows), cfg, 1, training.Callbacks(on_epoch_end), dist=dist
        )
        norms = [float(value.double().norm()) for value in result.best_state.values()]
        Path(output).with_suffix(f".{dist.rank}").write_text(json.dumps([losses, norms]))


main()
