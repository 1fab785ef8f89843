"""Train one network with several processes. torchrun starts them as ranks, and restarts all of them if one dies.

The code of the training is the same for one process and for several: all exchange goes through ``DistributedContext``,
which does nothing for a single process. No data that the ranks exchange is unpickled.
"""

import ctypes
import hashlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from core.network import messages
from core.pipeline.errors import Interrupted, PipelineError

import numpy as np
import torch
from torch import Tensor, distributed

RESTARTS = 3  # how often all processes are restarted after one died
ERROR_FILE = "TRAINING_ENDED"  # environment variable: the file for an error that a restart can't fix
PR_SET_PDEATHSIG = 1  # of Linux's prctl


class DistributedContext:
    """The processes of a training. This one is number ``rank`` of ``world_size``, counted from 0. The first rank writes
    all files. It is on the machine that runs DVC. If no machine does, it is the first rank of torchrun, which orders
    machines by name. ``leader`` is its number in torchrun."""

    def __init__(self) -> None:
        self.rank, self.world_size, self.leader = 0, 1, 0
        if distributed.is_initialized():
            self.rank, self.world_size = distributed.get_rank(), distributed.get_world_size()
            runs_dvc = "DVC_STAGE" in os.environ and os.environ["LOCAL_RANK"] == "0"
            self.leader = int(self.all_gather(torch.tensor(int(runs_dvc))).argmax())
            self.rank = (self.rank - self.leader) % self.world_size
            os.environ["RANK"] = str(self.rank)

    def shard(self, rows: np.ndarray, min_size: int = 1) -> slice:
        """This rank's part of a batch: parts are in order and as equal as possible.

        If there are too few images for ``min_size`` in each part, the parts of the last ranks are empty.

        Parameters
        ----------
        rows : (B,) int64, the batch of all ranks
        """
        parts = min(self.world_size, max(1, len(rows) // min_size))
        rank = min(self.rank, parts)
        return slice(len(rows) * rank // parts, len(rows) * min(rank + 1, parts) // parts)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, on each rank; of a single process, ``tensor`` itself.

        Parameters
        ----------
        tensor : of any shape and number dtype, equal on all ranks

        Returns
        -------
        Tensor of the same shape and dtype
        """
        if self.world_size > 1:
            tensor = tensor.clone()
            distributed.all_reduce(tensor)
        return tensor

    def any(self, value: bool) -> bool:
        """Whether ``value`` is true on any rank."""
        return value if self.world_size == 1 else bool(self.all_reduce(torch.tensor(int(value))))

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The first rank's tensor, on each rank.

        Parameters
        ----------
        tensor : of any shape and dtype, equal on all ranks; the result is written into it

        Returns
        -------
        ``tensor``
        """
        if self.world_size > 1:
            distributed.broadcast(tensor, self.leader)
        return tensor

    def broadcast_bytes(self, content: bytes) -> bytes:
        """The first rank's bytes, on each rank."""
        if self.world_size == 1:
            return content
        size = int(self.broadcast(torch.tensor(len(content))))
        return self.broadcast(_to_tensor(content if self.rank == 0 else bytes(size))).numpy().tobytes()

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, stacked in order.

        Parameters
        ----------
        tensor : of any shape and dtype, equal on all ranks

        Returns
        -------
        (world_size, ...), of the same dtype
        """
        if self.world_size == 1:
            return tensor[None]
        tensors = [torch.empty_like(tensor) for _ in range(self.world_size)]
        distributed.all_gather(tensors, tensor)
        return torch.stack(tensors[self.leader :] + tensors[: self.leader])

    def check_equal(self, text: str) -> None:
        """Raise PipelineError if ``text``, which identifies parameters, data and code, differs between ranks."""
        digests = self.all_gather(_to_tensor(hashlib.sha256(text.encode()).digest())).tolist()
        others = [str(rank) for rank, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise PipelineError(messages.RANKS_DIFFER.format(ranks=", ".join(others)))


def _to_tensor(content: bytes) -> Tensor:
    return torch.from_numpy(np.array(bytearray(content)))


def global_rank() -> int | None:
    """The number of this process in torchrun; None if torchrun did not start it."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def is_restart() -> bool:
    """Whether torchrun has started this process again, because a rank died. To be called once, by the first rank:
    torchrun's own count also starts again when a machine comes or goes."""
    if ERROR_FILE not in os.environ:
        return False
    marker = Path(os.environ[ERROR_FILE]).with_name("started")
    if marker.exists():
        return True
    marker.touch()
    return False


def multi_node() -> bool:
    """Whether torchrun's environment variables (PET_NNODES and so on) ask for several machines."""
    return os.environ.get("PET_NNODES", "1") != "1"


def resolve_nproc(nproc: str | int, device: str, members: int) -> int:
    """How many processes share the batches of each of ``members`` networks on this machine, for train.nproc_per_node;
    1 if members can train side by side instead. Raises PipelineError if it has fewer GPUs."""
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if nproc == "auto":
        return gpus if gpus > members and device in ("auto", "cuda") else 1
    if gpus and int(nproc) > 1 and (device not in ("auto", "cuda") or int(nproc) > gpus):
        raise PipelineError(messages.TOO_FEW_GPUS.format(nproc=nproc, device=device, gpus=gpus))
    return int(nproc)


def launch(nproc: int) -> None:
    """Run this script as ``nproc`` ranks until the training ends, together with other machines if the environment names
    them. Raises the PipelineError or Interrupted of a rank."""
    from torch.distributed import run  # torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # else torchrun prints a warning; each process sets train.threads
    rendezvous = ["--rdzv-backend", "c10d"] if multi_node() else ["--standalone"]
    if multi_node() and "PET_RDZV_ENDPOINT" not in os.environ:
        raise PipelineError(messages.NO_ENDPOINT)
    if multi_node() and "DVC_STAGE" in os.environ:
        os.environ.setdefault("PET_RDZV_CONF", "is_host=1")  # torchrun identifies machines by name only
    args = [*rendezvous, "--nproc-per-node", str(nproc), "--max-restarts", str(RESTARTS), *sys.argv]
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # else restarted ranks get addresses of dead ones
    with tempfile.TemporaryDirectory() as folder:
        error_file = Path(folder) / "error"
        os.environ[ERROR_FILE] = str(error_file)
        try:
            run.run(run.parse_args(args))  # type: ignore[no-untyped-call]
        except SignalException:
            raise Interrupted(messages.STOPPED) from None
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            if not error_file.exists():
                text = messages.RANK_FAILED.format(rank=rank, attempts=RESTARTS + 1, status=failure.exitcode)
                raise PipelineError(text) from None
        except RendezvousError as error:
            raise PipelineError(messages.MACHINES_LOST.format(error=error)) from None
        if error_file.exists():
            raise PipelineError(error_file.read_text(encoding="utf-8"))


def die_with_parent() -> None:
    """Let the system kill this process when its parent has ended."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def process_group(device: torch.device, minutes: float) -> Iterator[DistributedContext]:
    """Connect this process to the others if torchrun started it; otherwise it is the only rank. A process that does not
    answer for ``minutes`` (at least half a minute) counts as lost."""
    if global_rank() is None:
        yield DistributedContext()
        return
    die_with_parent()  # a rank must not outlive its torchrun
    error_file = Path(os.environ[ERROR_FILE]) if ERROR_FILE in os.environ else None  # None: a person started torchrun
    if error_file and error_file.exists():  # another rank had an error that a restart can't fix
        sys.exit(0)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(backend, timeout=timedelta(minutes=max(minutes, 0.5)))
        yield DistributedContext()
        distributed.destroy_process_group()
    except PipelineError as error:
        if error_file is None:
            raise
        error_file.write_text(str(error), encoding="utf-8")
        sys.exit(0)  # otherwise torchrun would restart all ranks, which can't help
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        reason = messages.first_line(error).partition(". ")[0]
        print(messages.CONNECTION_LOST.format(rank=global_rank(), error=reason), file=sys.stderr, flush=True)
        sys.exit(1)
