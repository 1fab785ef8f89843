"""What tests/network/test_ranks.py runs under torchrun: a training, the losses of its steps, and its weights.

python -m torch.distributed.run --standalone --nproc-per-node 2 tests/sharing.py PARAMETERS LOSSES [dies] [N]

dies: the last rank kills itself once, at its 17th step. N: images to train on.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

from core.network import checkpoints, devices, networks, ranks, state, training
from core.pipeline.schemas import params_yaml

import numpy as np
from safetensors.torch import save
from torch import nn

IMAGES = 82  # in batches of ten: the last batch has two, fewer than three ranks


def main() -> None:
    parameters, output, *options = sys.argv[1:]
    all_cfg = params_yaml.load(parameters)
    cfg = all_cfg.train
    count = next((int(option) for option in options if option.isdecimal()), IMAGES)
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, count + 20)
    grey = 60 + 120 * labels[:, None, None, None] + random.integers(0, 40, (len(labels), 32, 32, 3))
    images = grey.astype(np.uint8)
    rows = {"train": np.arange(count), "val": np.arange(count, count + 19)}
    devices.seed_everything(1)
    classifier = networks.Classifier(all_cfg.model.backbone, all_cfg.model.head, 32)
    for module in classifier.modules():
        if isinstance(module, nn.Dropout) and all_cfg.model.head == "linear":
            module.p = 0.0
    losses: list[list[float]] = []

    def on_epoch_end(member: int, epoch: state.Epoch) -> None:
        losses.append([*epoch])

    validate = training.Trainer.validate

    def validate_and_log(self: training.Trainer) -> state.Epoch:
        losses.append(self.dist.all_reduce(self.state.losses).tolist())
        return validate(self)

    training.Trainer.validate = validate_and_log
    with ranks.process_group(devices.get_device(cfg.device), minutes=1) as dist:
        steps: list[int] = []
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))

        def on_progress(images: int, text: str) -> None:
            steps.append(images)
            if "dies" in options and not restarted and dist.rank == dist.world_size - 1 and len(steps) == 17:
                os.kill(os.getpid(), signal.SIGKILL)

        folder = Path(f"{output}.checkpoints")
        folder.mkdir(exist_ok=True)
        store = checkpoints.Store(folder) if "dies" in options and dist.rank == 0 else None
        callbacks = training.Callbacks(on_epoch_end, on_progress)
        data = training.Data(images, labels, rows)
        result = training.fit(classifier, data, cfg, 1, callbacks, store, dist)
        norms = [float(value.double().norm()) for value in result.best_state.values()]
        digest = hashlib.sha256(save(result.best_state)).hexdigest()
        summary = [losses, norms, digest, restarted, result.epochs]
        Path(output).with_suffix(f".{dist.rank}").write_text(json.dumps(summary))


main()
