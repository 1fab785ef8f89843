"""Move images from the memory map to the device, and augment them there, one batch at a time."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from core.network import messages
from core.pipeline.errors import PipelineError

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:  # pydantic is not needed to train
    from core.pipeline.schemas.train import Augment

# Optical densities of haematoxylin, eosin and residual per channel of RGB:
# Ruifrok and Johnston, Quantification of histochemical staining by color deconvolution (2001), table 1.
HED = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])

READ_AHEAD = 2  # batches that are read into memory before they are needed
ADVISED_AHEAD = 6  # batches that the system is told to read from disk in advance


class ImageLoader:
    """Reads batches of images and moves them to the device.

    A GPU holds the whole array if it takes less than half of the free GPU memory. Otherwise batches are read from the
    memory map ahead of their use.

    Parameters
    ----------
    images : (N, H, W, C) uint8, or (N, h, w, D) float32, features of a frozen backbone; an array or a memory map
    """

    def __init__(self, images: np.ndarray, device: torch.device) -> None:
        self.images, self.device = images, device
        self.mapped = images.base if isinstance(images, np.memmap) and isinstance(images.base, mmap.mmap) else None
        if self.mapped:
            self.mapped.madvise(mmap.MADV_RANDOM)  # shuffled images: no read-ahead
        self.resident: Tensor | None = None
        if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
            self.resident = torch.from_numpy(np.ascontiguousarray(images)).to(device)

    def stream(self, batches: list[np.ndarray]) -> Iterator[Tensor]:
        """Yield the images of each batch, on the device.

        Parameters
        ----------
        batches : list of (B,) int64, row numbers

        Yields
        ------
        (B, C, H, W), of the dtype of the images
        """
        if self.resident is not None:
            for rows in batches:
                yield self.resident[torch.tensor(rows, device=self.device)].permute(0, 3, 1, 2)
            return
        for rows in batches[READ_AHEAD:ADVISED_AHEAD]:
            self._advise_readahead(rows)
        with ThreadPoolExecutor(1) as reader:
            waiting = [reader.submit(self._read, rows) for rows in batches[:READ_AHEAD]]
            for number in range(len(batches)):
                batch = waiting.pop(0).result()
                if number + ADVISED_AHEAD < len(batches):
                    self._advise_readahead(batches[number + ADVISED_AHEAD])
                if number + READ_AHEAD < len(batches):
                    waiting.append(reader.submit(self._read, batches[number + READ_AHEAD]))
                yield batch.to(self.device, non_blocking=True).permute(0, 3, 1, 2)

    def _advise_readahead(self, rows: np.ndarray) -> None:
        """Ask the system to read these images into its cache, all at once: reading page by page takes far longer."""
        if self.mapped:
            size = self.images[0].nbytes
            offset = self.images.offset % mmap.ALLOCATIONGRANULARITY
            for row in rows.tolist():
                begin = (offset + row * size) // mmap.PAGESIZE * mmap.PAGESIZE
                self.mapped.madvise(mmap.MADV_WILLNEED, begin, offset + (row + 1) * size - begin)

    def _read(self, rows: np.ndarray) -> Tensor:
        batch = torch.from_numpy(self.images[rows])
        return batch.pin_memory() if self.device.type == "cuda" else batch


def make_batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Split rows into batches of ``size``.

    A single last row is added to the batch before it, because batch normalisation can't train on one image.

    Parameters
    ----------
    rows : (N,) int64

    Returns
    -------
    list of (B,) int64, B at most ``size`` + 1
    """
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def augment(
    images: Tensor, cfg: Augment, generator: torch.Generator, batch_size: int | None = None, start: int = 0
) -> Tensor:
    """Augment each image separately.

    Random numbers are drawn on the CPU, so they are the same for every device.

    Parameters
    ----------
    images : (B, C, H, W), uint8 or float32 in [0, 1]
    batch_size, start : of the batch that ``images`` are a part of, and the number in it of the first of them
        Each is then changed as in the whole batch.

    Returns
    -------
    (B, C, H, W) float32, in [0, 1]

    Raises
    ------
    PipelineError
        For stain jitter on grey images.
    """
    if images.dtype == torch.uint8:
        images = images.float() / 255
    size, part = batch_size or len(images), slice(start, start + len(images))

    def factors(strength: float, columns: int = 1) -> Tensor:
        drawn = 1 + strength * (2 * torch.rand(size, columns, generator=generator) - 1)
        return drawn[part].to(images.device)

    if cfg.geometry != "none":
        flips = torch.randint(2, (3, size), generator=generator)[:, part] == 1
        images = _flip(images, cfg.geometry, flips.to(images.device))
    if cfg.stain:
        if images.shape[1] != 3:
            raise PipelineError(messages.STAIN_NEEDS_COLOUR)
        images = _stain_jitter(images, factors(cfg.stain, 3))
    if cfg.contrast:
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = mean + (images - mean) * factors(cfg.contrast).view(-1, 1, 1, 1)
    if cfg.brightness:
        images = images * factors(cfg.brightness).view(-1, 1, 1, 1)
    return images.clamp(0, 1)


def _flip(images: Tensor, geometry: str, flips: Tensor) -> Tensor:
    """Flip each image left-right, flip it top-bottom, and transpose it, as ``flips`` says: bool (3, B), in this order.
    With geometry "d4", these are the eight symmetries of a square; "flips" does not transpose, and "hflip" only flips
    left-right."""
    horizontal, vertical, transposed = flips.view(3, -1, 1, 1, 1)
    images = torch.where(horizontal, images.flip(3), images)
    if geometry != "hflip":
        images = torch.where(vertical, images.flip(2), images)
    if geometry == "d4":
        images = torch.where(transposed, images.transpose(2, 3), images)
    return images


def symmetries(images: Tensor, geometry: str) -> list[Tensor]:
    """The images, and all others that ``augment`` can make of them with this ``geometry``.

    Parameters
    ----------
    images : (B, C, H, W), of any dtype; with "d4", H = W

    Returns
    -------
    list of 1, 2, 4 or 8 (B, C, H, W), of the same dtype, the images first
    """
    views = [images]
    for dim in {"none": (), "hflip": (3,), "flips": (3, 2), "d4": (3, 2)}[geometry]:
        views += [view.flip(dim) for view in views]
    return views + [view.transpose(2, 3) for view in views if geometry == "d4"]


def _stain_jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the amounts of the three stains: (B, 3, H, W) by (B, 3). Transmitted light decreases exponentially with the
    amount of stain (Beer-Lambert law), so the amounts are linear in the logarithm of the light."""
    stains = (HED / HED.norm(dim=1, keepdim=True)).to(images.device)
    density = -torch.log(images.clamp(min=1 / 255))
    # amounts = density @ inverse(stains). Scaling them and transforming back is one 3 x 3 matrix per image.
    matrix = torch.linalg.inv(stains) @ torch.diag_embed(factors) @ stains
    return torch.exp(-torch.einsum("bchw,bcd->bdhw", density, matrix))
