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
WARMUP = 3  # untimed first steps

Contestant = Callable[["Job"], float]  # returns seconds per step


class Job:
    """What all contestants share: images, labels, initial weights, loss, training parameters and clock."""

    def __init__(
        self,
        args: argparse.Namespace,
        params: params_yaml.Params,
        contents: list[bytes],
        labels: np.ndarray,
        folder: Path,
    ) -> None:
        self.device = devices.get_device(args.device)
        self.precision = devices.precision(args.precision, self.device)
        self.model, self.seed, self.side, self.steps = params.model, params.seed, args.side, args.steps
        self.backbone = args.backbone
        self.cfg = params.train.model_copy(update={
            "epochs": 2, "early_stopping": 1_000_000, "batch_size": args.batch, "freeze_backbone": False,
            "device": str(self.device), "precision": self.precision,
        })  # fmt: skip
        decoded = [decoder.pixels(content, Preparation(args.side)) for content in contents]
        shape = (args.side, args.side, max(pixels.shape[-1] for pixels in decoded))
        rows = np.arange(args.steps * args.batch) % len(contents)
        self.images = np.stack([np.broadcast_to(pixels, shape) for pixels in decoded])[rows]
        self.labels = labels[rows]
        for number, content in enumerate(contents):
            (folder / f"{number}.png").write_bytes(content)
        self.paths = [folder / f"{number}.png" for number in rows]
        self.autocast = devices.autocast(self.precision, self.device)
        self.pos_weight = torch.tensor(self.cfg.pos_weight, device=self.device)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def classifier(self, layout: torch.memory_format = torch.channels_last) -> networks.Classifier:
        torch.manual_seed(self.seed)
        return networks.Classifier(self.backbone, self.model.head, self.side).to(self.device, memory_format=layout)

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.NAdam(
            network.parameters(), self.cfg.lr, weight_decay=self.cfg.weight_decay, decoupled_weight_decay=True
        )

    def loss(self, logit: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logit.float(), target, pos_weight=self.pos_weight)

    def step(self, network: nn.Module, optimiser: torch.optim.Optimizer, batch: Tensor, target: Tensor) -> Tensor:
        with self.autocast:
            logit = network(batch)
        loss = self.loss(logit, target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.cfg.grad_clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.cfg.grad_clip_norm)
        optimiser.step()
        return loss

    def augmentation(self) -> Callable[[Tensor], Tensor]:
        """The augmentation of uint8 images (B, H, W, C) on the device, as the loader returns them."""
        random = torch.Generator().manual_seed(self.seed)
        return lambda images: batches.augment(images.permute(0, 3, 1, 2), self.cfg.augment, random)

    def loader(self, workers: int) -> DataLoader:
        return DataLoader(
            InMemory(self.images, self.labels), self.cfg.batch_size, shuffle=True, num_workers=workers,
            collate_fn=return_batch, persistent_workers=workers > 0, pin_memory=self.device.type == "cuda",
        )  # fmt: skip


class InMemory(Dataset):
    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels.astype(np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.images[rows]), torch.from_numpy(self.labels[rows])


def return_batch(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


class ImageFiles(Dataset):
    def __init__(self, paths: list[Path], labels: np.ndarray, side: int) -> None:
        self.paths, self.labels = paths, labels.astype(np.float32)
        normalise = transforms.Normalize(networks.MEAN, networks.STD)
        self.transform = transforms.Compose([transforms.Resize((side, side)), transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Tensor, np.float32]:
        with Image.open(self.paths[row]) as image:
            return self.transform(image.convert("RGB")), self.labels[row]


def limit(job: Job) -> float:
    train_step = limit_step(job)
    for _ in range(WARMUP):
        train_step()
    start = job.now()
    for _ in range(job.steps):
        train_step()
    return (job.now() - start) / job.steps


def limit_step(job: Job) -> Callable[[], Tensor]:
    batch = torch.from_numpy(job.images[: job.cfg.batch_size]).to(job.device).permute(0, 3, 1, 2)
    target = torch.from_numpy(job.labels[: job.cfg.batch_size].astype(np.float32)).to(job.device)
    classifier = job.classifier()
    return partial(job.step, classifier, job.optimiser(classifier), batch, target)


def ours(job: Job) -> float:
    """The time from the first to the last step of the second epoch, as with the peers; validation is not timed."""
    starts: list[float] = []
    train_step = training.Trainer.train_step

    def timed_step(*args: object) -> None:
        starts.append(job.now() if len(starts) == job.steps else 0)
        train_step(*args)

    rows = {"train": np.arange(len(job.images)), "val": np.arange(2)}
    ends: list[float] = []
    score = inference.score
    with (
        patch.object(training.Trainer, "train_step", timed_step),
        patch.object(inference, "score", lambda *args: ends.append(job.now()) or score(*args)),
    ):
        training.fit(job.classifier(), training.Data(job.images, job.labels, rows), job.cfg, job.seed)
    return (ends[1] - starts[job.steps]) / job.steps


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
            self.start = job.now()

        def on_train_epoch_end(self) -> None:
            self.seconds = job.now() - self.start

    cuda = job.device.type == "cuda"
    module = Module()
    Trainer(
        accelerator="gpu" if cuda else "cpu", devices=[job.device.index or 0] if cuda else 1, max_epochs=2,
        precision="bf16-mixed" if job.precision == "bf16" else "32-true", gradient_clip_val=job.cfg.grad_clip_norm,
        deterministic="warn",  # as devices.seed_everything sets it for all contestants
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ).fit(module, job.loader(workers))  # fmt: skip
    return module.seconds / job.steps


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
            self.start = job.now()

        def before_batch(self) -> None:
            self.learn.xb = (augment(self.learn.xb[0]),)

        def after_train(self) -> None:
            self.seconds = job.now() - self.start

        def before_validate(self) -> None:
            raise CancelValidException

    classifier, loader, epoch = job.classifier(), job.loader(workers), Epoch()
    callbacks = [epoch]
    if job.cfg.grad_clip_norm is not None:
        callbacks.append(GradientClip(job.cfg.grad_clip_norm))
    if job.precision == "bf16":
        callbacks.append(MixedPrecision(AMPMode.BF16))
    optimiser = OptimWrapper(opt=job.optimiser(classifier))
    learner = Learner(DataLoaders(loader, loader), classifier, job.loss, optimiser, job.cfg.lr, cbs=callbacks)
    with learner.no_bar(), learner.no_logging():
        learner.fit(2)
    return epoch.seconds / job.steps


def original(job: Job) -> float:
    """The time of both passes, divided by the steps of the first."""
    network = nn.Sequential(job.classifier(torch.contiguous_format).network, nn.Flatten(0))
    optimiser = job.optimiser(network)
    loader = DataLoader(ImageFiles(job.paths, job.labels, job.side), job.cfg.batch_size, shuffle=True)
    network.train()
    for batch, target in islice(loader, WARMUP):
        job.step(network, optimiser, batch.to(job.device), target.to(job.device)).item()
    start = job.now()
    loss, num_correct = 0.0, 0
    for batch, target in loader:
        loss += job.step(network, optimiser, batch.to(job.device), target.to(job.device)).item()
    network.eval()
    with torch.no_grad(), job.autocast:
        for batch, target in loader:
            num_correct += ((network(batch.to(job.device)) > 0) == (target.to(job.device) > 0.5)).sum().item()
    return (job.now() - start) / job.steps


def load_images(args: argparse.Namespace) -> tuple[list[bytes], np.ndarray]:
    """The image files (at most steps * batch) and their labels."""
    count = args.steps * args.batch
    if args.archive:
        with tarfile.open(files.require(args.archive)) as archive:
            table = pd.read_csv(archive.extractfile("data.csv"))[:count]
            contents = [archive.extractfile(f"Images/{name}").read() for name in table["Filename"]]
        return contents, table["Target"].to_numpy()
    contents = []
    for pixels in files.read_array(PREPARED)[:count]:
        buffer = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    split = tables.read("data/split.csv", tables.SPLIT).sort_values("row")
    return contents, split["label"].to_numpy()[:count]


def find_contestants(
    workers: list[int], precision: str, device: torch.device
) -> tuple[dict[str, Contestant], list[str]]:
    """The contestants that can run here, in the order of a round, and why the others can't."""
    contestants: dict[str, Contestant] = {"limit": limit, "ours": ours}
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
        contestants |= {f"{name}, {count} worker{'s'[: count != 1]}": partial(peer, workers=count) for count in workers}
    return contestants | {"original way": original}, absent


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
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # Lightning suggests more workers; torch warns of nondeterminism
    params = params_yaml.load()
    devices.seed_everything(params.seed, params.train.reproducible, params.train.threads)
    contents, labels = load_images(args)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        job = Job(args, params, contents, labels, Path(folder))
        contestants, absent = find_contestants(args.workers, job.precision, job.device)
        times, memory = measure(job, contestants, args.rounds)
        with FlopCounterMode(display=False) as counter:
            limit_step(job)()
    print(
        f"{len(job.images)} images ({len(contents)} files) of {' x '.join(map(str, job.images.shape[1:]))}, "
        f"{args.backbone}, batch {args.batch}, {job.precision}, {job.device}; {args.rounds} rounds"
    )
    print(f"{'':24} {'ms/step':>10} {'images/s':>9}   ratio to the limit, median (min to max)")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        line = f"{name:24} {1e3 * median:10.2f} {args.batch / median:9.1f}   {spread(ratios(seconds, times['limit']))}"
        if name == "original way":
            line += f"; ours / original, per epoch: {spread(ratios(times['ours'], seconds))}"
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
        f", {rate / args.peak_tflops:.1%} of the peak of {args.peak_tflops:g} in bf16"
        if job.device.type == "cuda"
        else ""
    )
    print(f"limit: {flops / 1e9:.2f} GFLOP per step, {rate:.3f} TFLOP/s{share}")
    machine = provenance.machine()
    versions = [f"{name} {version(name)}" for name in ("torch", "lightning", "fastai") if name in sys.modules]
    print("; ".join([machine.get("gpu") or machine["processor"], f"{machine['threads']} threads", *versions]))


def measure(job: Job, contestants: dict[str, Contestant], rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds per step of each contestant in each round, and on CUDA its peak memory in bytes."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    memory = dict.fromkeys(contestants, 0)
    for number in range(rounds):
        for name, contestant in contestants.items():
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
    return [time_ / other for time_, other in zip(times, others, strict=True)]


if __name__ == "__main__":
    main()
