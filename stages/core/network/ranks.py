"""Several processes that train one network: each a rank, started by torchrun, which starts all again where one died.

A training looks the same from one process or several: what concerns all of them goes through ``Ranks``, and alone that
is no work. Nothing that they exchange is ever unpickled.
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

import numpy as np
import torch
from torch import Tensor, distributed

from core.pipeline.errors import Interrupted, Mistake

RESTARTS = 3  # of all processes, after one of them died
ENDED = "TRAINING_ENDED"  # names the file in which a rank says what only a person can mend
PR_SET_PDEATHSIG = 1  # of Linux' prctl


class Ranks:
    """The processes of a training, of which this is number ``rank`` of ``count``, from 0. The first is the one whose
    machine runs DVC (else the first of torchrun, which numbers machines by their names): it writes what is written."""

    def __init__(self) -> None:
        self.rank, self.count, self.leader = 0, 1, 0
        if distributed.is_initialized():
            self.rank, self.count = distributed.get_rank(), distributed.get_world_size()
            runs_dvc = "DVC_STAGE" in os.environ and os.environ["LOCAL_RANK"] == "0"
            self.leader = int(self.each(torch.tensor(int(runs_dvc))).argmax())
            self.rank = (self.rank - self.leader) % self.count
            os.environ["RANK"] = str(self.rank)

    def share(self, rows: np.ndarray) -> slice:
        """This rank's part of a batch of all ranks: as equal as can be, in order, empty where they are too few."""
        return slice(len(rows) * self.rank // self.count, len(rows) * (self.rank + 1) // self.count)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, on each of them."""
        if self.count > 1:
            tensor = tensor.clone()
            distributed.all_reduce(tensor)
        return tensor

    def any(self, true: bool) -> bool:
        return true if self.count == 1 else bool(self.sum(torch.tensor(int(true))))

    def of_first(self, tensor: Tensor) -> Tensor:
        """What the first rank has, on each of them."""
        if self.count > 1:
            distributed.broadcast(tensor, self.leader)
        return tensor

    def bytes_of_first(self, content: bytes) -> bytes:
        if self.count == 1:
            return content
        size = int(self.of_first(torch.tensor(len(content))))
        given = (
            torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
        )
        return self.of_first(given if self.rank == 0 else torch.empty(size, dtype=torch.uint8)).numpy().tobytes()

    def each(self, tensor: Tensor) -> Tensor:
        """What each rank has, stacked in their order: (count, ...)."""
        if self.count == 1:
            return tensor[None]
        found = [torch.empty_like(tensor) for _ in range(self.count)]
        distributed.all_gather(found, tensor)
        return torch.stack(found[self.leader :] + found[: self.leader])

    def agree(self, text: str, what: str) -> None:
        """Raise Mistake where ``text`` is not the same on all of them."""
        digest = torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
        found = self.each(digest)
        others = [str(rank) for rank in range(self.count) if not torch.equal(found[rank], found[0])]
        if others:
            raise Mistake(
                f"{what} of process {', '.join(others)} differ from those of process 0: bring all machines to the same "
                "commit and parameters, and run dvc pull on each"
            )


def number() -> int | None:
    """Which of several processes this is; None where it was not started by torchrun."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def machines() -> bool:
    """Whether the environment names other machines to train with, as torchrun reads it (PET_NNODES and so on)."""
    return os.environ.get("PET_NNODES", "1") != "1"


def wanted(processes: str | int, device: str) -> int:
    """How many processes to start on this machine. Raises Mistake where there are fewer GPUs."""
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if processes == "auto":
        return max(1, gpus) if device in ("auto", "cuda") else 1
    if gpus and int(processes) > 1 and (device not in ("auto", "cuda") or int(processes) > gpus):
        raise Mistake(
            f"train.processes is {processes}, each on a GPU of its own, and train.device is {device} on a machine of "
            f"{gpus} GPUs: use auto"
        )
    return int(processes)


def launch(count: int) -> None:
    """Run this script as ``count`` ranks here, and as those of other machines where the environment names them, until
    the training has ended. Raises Mistake or Interrupted as they do."""
    from torch.distributed import run  # torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    others = ["--rdzv-backend", "c10d"] if machines() else ["--standalone"]
    if machines() and "PET_RDZV_ENDPOINT" not in os.environ:
        raise Mistake("PET_NNODES is set, and PET_RDZV_ENDPOINT is not: it names the first machine, as gpu1:29400")
    if machines() and "DVC_STAGE" in os.environ:
        os.environ.setdefault("PET_RDZV_CONF", "is_host=1")  # torchrun knows a machine by its name alone
    asked = [*others, "--nproc-per-node", str(count), "--max-restarts", str(RESTARTS), *sys.argv]
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # else those started again find the addresses of the dead
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said"
        os.environ[ENDED] = str(said)
        try:
            run.run(run.parse_args(asked))  # type: ignore[no-untyped-call]
        except SignalException:
            raise Interrupted(
                "training stopped, and what the last checkpoint holds is kept. Run the same command again, and it goes "
                "on from there; dvc repro --force starts anew"
            ) from None
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            if not said.exists():
                raise Mistake(
                    f"Process {rank} of the training ended {RESTARTS + 1} times with exit status {failure.exitcode}: "
                    "its last words stand above. What the last checkpoint holds is kept"
                ) from None
        except RendezvousError as error:
            raise Mistake(
                f"The machines did not find each other, or lost the first one ({error}): see PET_RDZV_ENDPOINT. Run "
                "the same command on each again, and training goes on from the last checkpoint"
            ) from None
        if said.exists():
            raise Mistake(said.read_text(encoding="utf-8"))


@contextmanager
def joined(device: torch.device, minutes: float) -> Iterator[Ranks]:
    """This process among its like, where torchrun started it; alone otherwise. One that is silent for ``minutes``, or
    half of one, is given up."""
    if number() is None:
        yield Ranks()
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a rank whose torchrun was killed must not go on
    said = Path(os.environ[ENDED]) if ENDED in os.environ else None  # None: torchrun was called by hand
    if said and said.exists():  # another one has ended for good
        sys.exit(0)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(backend, timeout=timedelta(minutes=max(minutes, 0.5)))
        yield Ranks()
        distributed.destroy_process_group()
    except Mistake as mistake:
        if said is None:
            raise
        said.write_text(str(mistake), encoding="utf-8")
        sys.exit(0)  # else torchrun would start all again, in vain
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        reason = str(error).splitlines()[0].partition(". ")[0]
        print(f"Process {number()} lost another one: {reason}", file=sys.stderr, flush=True)
        sys.exit(1)
