"""Compare the speed of training with its limit and with other libraries: milliseconds per step, ratios to the limit.

    python benchmarks/training.py [--archive PATH.tar] [--backbone shufflenet_v2_x0_5] [--side 64] [--batch 16]
      [--precision auto] [--steps 60] [--rounds 5] [--device auto]

Each round runs every contestant once, on the same steps * batch images, with the parameters of params.yaml and the same
initial weights:
  limit           forward, backward, clipping and NAdam on one batch that is already on the device; nothing is read
  ours            core.network.training.fit with its augmentation; validation is not timed
  Lightning       its Trainer with our network, loss, NAdam and augmentation, and the images in memory; no validation
  fastai          the same with its Learner and Recorder; the DataLoader is torch's, which reads whole batches
  original way    as in the original: one process decodes each image from its PNG at each access, the loss is read at
                  each step, and a second pass over the training images measures accuracy; both passes are timed
The first epoch is not timed (limit and original way: the first steps). Without --archive the images are those of
data/prepared (run dvc repro first). "make peers" installs Lightning and fastai.
"""

import argparse
import gc
import io
import logging
import statistics
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from ratios import spread

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "stages"))
sys.path.append(str(TOP / ".venv" / "peers"))  # last, so that the project's locked versions come first

from core.images import decoder  # noqa: E402
from core.images.preparation import Preparation  # noqa: E402
from core.network import batches, devices, inference, networks, training  # noqa: E402
from core.pipeline import files, provenance, tables  # noqa: E402
from core.pipeline.schemas import params_yaml  # noqa: E402

PREPARED = Path("data/prepared/images.npy")
WARM = 3  # untimed first steps

Contestant = Callable[["Job"], float]  # returns seconds per step


class Job:
    """What all contestants share: images, labels, initial weights, loss, training parameters and clock."""

    def __init__(
        self,
        asked: argparse.Namespace,
        chosen: params_yaml.Params,
        contents: list[bytes],
        labels: np.ndarray,
        folder: Path,
    ) -> None:
        self.device = devices.get_device(asked.device)
        self.precision = devices.precision(asked.precision, self.device)
        self.model, self.seed, self.side, self.steps = chosen.model, chosen.seed, asked.side, asked.steps
        self.backbone = asked.backbone
        self.rules = chosen.train.model_copy(update={
            "epochs": 2, "early_stopping": 1_000_000, "batch_size": asked.batch, "freeze_backbone": False,
            "device": str(self.device), "precision": self.precision,
        })  # fmt: skip
        decoded = [decoder.pixels(content, Preparation(asked.side)) for content in contents]
        shape = (asked.side, asked.side, max(pixels.shape[-1] for pixels in decoded))
        turn = np.arange(asked.steps * asked.batch) % len(contents)
        self.images = np.stack([np.broadcast_to(pixels, shape) for pixels in decoded])[turn]
        self.labels = labels[turn]
        for number, content in enumerate(contents):
            (folder / f"{number}.png").write_bytes(content)
        self.paths = [folder / f"{number}.png" for number in turn]
        self.cast = devices.autocast(self.precision, self.device)
        self.weight = torch.tensor(self.rules.pos_weight, device=self.device)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def classifier(self, layout: torch.memory_format = torch.channels_last) -> networks.Classifier:
        torch.manual_seed(self.seed)
        return networks.Classifier(self.backbone, self.model.head, self.side).to(self.device, memory_format=layout)

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.NAdam(
            network.parameters(), self.rules.lr, weight_decay=self.rules.weight_decay, decoupled_weight_decay=True
        )

    def loss(self, logit: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logit.float(), target, pos_weight=self.weight)

    def step(self, network: nn.Module, optimiser: torch.optim.Optimizer, batch: Tensor, target: Tensor) -> Tensor:
        with self.cast:
            logit = network(batch)
        loss = self.loss(logit, target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.rules.grad_clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.rules.grad_clip_norm)
        optimiser.step()
        return loss

    def augmentation(self) -> Callable[[Tensor], Tensor]:
        """The augmentation of uint8 images (B, H, W, C) on the device, as the loader returns them."""
        random = torch.Generator().manual_seed(self.seed)
        return lambda images: batches.augment(images.permute(0, 3, 1, 2), self.rules.augment, random)

    def loader(self, workers: int) -> DataLoader:
        return DataLoader(
            InMemory(self.images, self.labels), self.rules.batch_size, shuffle=True, num_workers=workers,
            collate_fn=as_it_is, persistent_workers=workers > 0, pin_memory=self.device.type == "cuda",
        )  # fmt: skip


class InMemory(Dataset):
    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels.astype(np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.images[rows]), torch.from_numpy(self.labels[rows])


def as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


class Files(Dataset):
    def __init__(self, paths: list[Path], labels: np.ndarray, side: int) -> None:
        self.paths, self.labels = paths, labels.astype(np.float32)
        normalise = transforms.Normalize(networks.MEAN, networks.STD)
        self.change = transforms.Compose([transforms.Resize((side, side)), transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Tensor, np.float32]:
        with Image.open(self.paths[row]) as image:
            return self.change(image.convert("RGB")), self.labels[row]


def limit(job: Job) -> float:
    one_step = limit_step(job)
    for _ in range(WARM):
        one_step()
    began = job.now()
    for _ in range(job.steps):
        one_step()
    return (job.now() - began) / job.steps


def limit_step(job: Job) -> Callable[[], Tensor]:
    batch = torch.from_numpy(job.images[: job.rules.batch_size]).to(job.device).permute(0, 3, 1, 2)
    target = torch.from_numpy(job.labels[: job.rules.batch_size].astype(np.float32)).to(job.device)
    classifier = job.classifier()
    return partial(job.step, classifier, job.optimiser(classifier), batch, target)


def ours(job: Job) -> float:
    """The time from the first to the last step of the second epoch, as with the peers; validation is not timed."""
    seen: list[float] = []
    step = training.Trainer.train_step

    def timed(*args: object) -> None:
        seen.append(job.now() if len(seen) == job.steps else 0)
        step(*args)

    rows = {"train": np.arange(len(job.images)), "val": np.arange(2)}
    ended: list[float] = []
    score = inference.score
    with (
        patch.object(training.Trainer, "train_step", timed),
        patch.object(inference, "score", lambda *given: ended.append(job.now()) or score(*given)),
    ):
        training.fit(job.classifier(), training.Data(job.images, job.labels, rows), job.rules, job.seed)
    return (ended[1] - seen[job.steps]) / job.steps


def lightning(job: Job, workers: int) -> float:
    from lightning.pytorch import LightningModule, Trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # after the import, which sets another level

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.classifier, self.augment = job.classifier(), job.augmentation()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return job.optimiser(self.classifier)

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            images, target = batch
            return job.loss(self.classifier(self.augment(images)), target)

        def on_train_epoch_start(self) -> None:
            self.began = job.now()

        def on_train_epoch_end(self) -> None:
            self.took = job.now() - self.began

    cuda = job.device.type == "cuda"
    module = Module()
    Trainer(
        accelerator="gpu" if cuda else "cpu", devices=[job.device.index or 0] if cuda else 1, max_epochs=2,
        precision="bf16-mixed" if job.precision == "bf16" else "32-true", gradient_clip_val=job.rules.grad_clip_norm,
        deterministic="warn",  # as devices.seed_everything sets it for all contestants
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ).fit(module, job.loader(workers))  # fmt: skip
    return module.took / job.steps


def fastai(job: Job, workers: int) -> float:
    from fastai.callback.core import Callback, CancelValidException
    from fastai.callback.fp16 import AMPMode, MixedPrecision
    from fastai.callback.training import GradientClip
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    augment = job.augmentation()

    class Epoch(Callback):
        def before_train(self) -> None:
            self.began = job.now()

        def before_batch(self) -> None:
            self.learn.xb = (augment(self.learn.xb[0]),)

        def after_train(self) -> None:
            self.took = job.now() - self.began

        def before_validate(self) -> None:
            raise CancelValidException

    classifier, loader, epoch = job.classifier(), job.loader(workers), Epoch()
    callbacks = [epoch]
    if job.rules.grad_clip_norm is not None:
        callbacks.append(GradientClip(job.rules.grad_clip_norm))
    if job.precision == "bf16":
        callbacks.append(MixedPrecision(AMPMode.BF16))
    optimiser = OptimWrapper(opt=job.optimiser(classifier))
    learner = Learner(DataLoaders(loader, loader), classifier, job.loss, optimiser, job.rules.lr, cbs=callbacks)
    with learner.no_bar(), learner.no_logging():
        learner.fit(2)
    return epoch.took / job.steps


def original(job: Job) -> float:
    """The time of both passes, divided by the steps of the first."""
    network = nn.Sequential(job.classifier(torch.contiguous_format).network, nn.Flatten(0))
    optimiser = job.optimiser(network)
    loader = DataLoader(Files(job.paths, job.labels, job.side), job.rules.batch_size, shuffle=True)
    network.train()
    for batch, target in islice(loader, WARM):
        job.step(network, optimiser, batch.to(job.device), target.to(job.device)).item()
    began = job.now()
    loss, right = 0.0, 0
    for batch, target in loader:
        loss += job.step(network, optimiser, batch.to(job.device), target.to(job.device)).item()
    network.eval()
    with torch.no_grad(), job.cast:
        for batch, target in loader:
            right += ((network(batch.to(job.device)) > 0) == (target.to(job.device) > 0.5)).sum().item()
    return (job.now() - began) / job.steps


def given(asked: argparse.Namespace) -> tuple[list[bytes], np.ndarray]:
    """The image files (at most steps * batch) and their labels."""
    most = asked.steps * asked.batch
    if asked.archive:
        with tarfile.open(files.require(asked.archive)) as archive:
            table = pd.read_csv(archive.extractfile("data.csv"))[:most]
            contents = [archive.extractfile(f"Images/{name}").read() for name in table["Filename"]]
        return contents, table["Target"].to_numpy()
    contents = []
    for pixels in files.read_array(PREPARED)[:most]:
        written = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(written, "PNG")
        contents.append(written.getvalue())
    split = tables.read("data/split.csv", tables.SPLIT).sort_values("row")
    return contents, split["label"].to_numpy()[:most]


def contestants(workers: list[int], precision: str, device: torch.device) -> tuple[dict[str, Contestant], list[str]]:
    """The contestants that can run here, in the order of a round, and why the others can't."""
    found: dict[str, Contestant] = {"limit": limit, "ours": ours}
    absent = []
    for name, module, peer in (("Lightning", "lightning.pytorch", lightning), ("fastai", "fastai.learner", fastai)):
        try:
            import_module(module)
        except ImportError as error:
            absent.append(f"{name}: not measured: {error} (run make peers)")
            continue
        if peer is fastai and precision == "bf16" and device.type == "cpu":
            absent.append("fastai: not measured: its bf16 needs CUDA")
            continue
        found |= {f"{name}, {count} worker{'s'[: count != 1]}": partial(peer, workers=count) for count in workers}
    return found | {"original way": original}, absent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, help="tar file with data.csv (columns Filename, Target) and Images/")
    parser.add_argument("--backbone", default="shufflenet_v2_x0_5")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--steps", type=int, default=60, help="steps per epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="DataLoader workers to try for peers")
    parser.add_argument("--peak-tflops", type=float, default=989, help="dense bf16 peak of the GPU (989: H100, H200)")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # Lightning suggests more workers; torch warns of nondeterminism
    chosen = params_yaml.load()
    devices.seed_everything(chosen.seed, chosen.train.reproducible, chosen.train.threads)
    contents, labels = given(asked)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        job = Job(asked, chosen, contents, labels, Path(folder))
        named, absent = contestants(asked.workers, job.precision, job.device)
        times, memory = measure(job, named, asked.rounds)
        with FlopCounterMode(display=False) as counter:
            limit_step(job)()
    print(
        f"{len(job.images)} images ({len(contents)} files) of {' x '.join(map(str, job.images.shape[1:]))}, "
        f"{asked.backbone}, batch {asked.batch}, {job.precision}, {job.device}; {asked.rounds} rounds"
    )
    print(f"{'':24} {'ms/step':>10} {'images/s':>9}   ratio to the limit, median (min to max)")
    for name, own in times.items():
        median = statistics.median(own)
        line = f"{name:24} {1e3 * median:10.2f} {asked.batch / median:9.1f}   {spread(ratios(own, times['limit']))}"
        if name == "original way":
            line += f"; ours / original, per epoch: {spread(ratios(times['ours'], own))}"
        print(line + (f"; {memory[name] / 2**30:.2f} GiB peak" if job.device.type == "cuda" else ""))
    print("\n".join([*absent, ""]))
    print(f"ours, speed / speed of the limit       {spread(ratios(times['limit'], times['ours']))}")
    peers = [name for name in times if name.startswith(("Lightning", "fastai"))]
    if peers:
        faster = min(peers, key=lambda name: statistics.median(times[name]))
        print(f"ours, time / time of the faster peer   {spread(ratios(times['ours'], times[faster]))}: {faster}")
    print(f"ours, time / time of the original way  {spread(ratios(times['ours'], times['original way']))}")
    flops = counter.get_total_flops()
    rate = flops / statistics.median(times["limit"]) / 1e12
    share = (
        f", {rate / asked.peak_tflops:.1%} of the peak of {asked.peak_tflops:g} in bf16"
        if job.device.type == "cuda"
        else ""
    )
    print(f"limit: {flops / 1e9:.2f} GFLOP per step, {rate:.3f} TFLOP/s{share}")
    machine = provenance.machine()
    versions = [f"{name} {version(name)}" for name in ("torch", "lightning", "fastai") if name in sys.modules]
    print("; ".join([machine.get("gpu") or machine["processor"], f"{machine['threads']} threads", *versions]))


def measure(job: Job, named: dict[str, Contestant], rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds per step of each contestant in each round, and on CUDA its peak memory in bytes."""
    times: dict[str, list[float]] = {name: [] for name in named}
    memory = dict.fromkeys(named, 0)
    for number in range(rounds):
        for name, contestant in named.items():
            gc.collect()
            if job.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(job.device)
            times[name].append(contestant(job))
            if job.device.type == "cuda":
                memory[name] = max(memory[name], torch.cuda.max_memory_allocated(job.device))
            print(f"round {number + 1}, {name}: {1e3 * times[name][-1]:.2f} ms/step", file=sys.stderr, flush=True)
    return times, memory


def ratios(times: list[float], others: list[float]) -> list[float]:
    return [one / other for one, other in zip(times, others, strict=True)]


if __name__ == "__main__":
    main()
