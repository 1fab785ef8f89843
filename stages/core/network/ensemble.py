"""Several networks of one kind, whose mean probability is the result."""

from pathlib import Path
from typing import Any

from core.network import batches, messages, pretrained
from core.network.networks import Classifier
from core.pipeline.errors import PipelineError

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid


class Ensemble(nn.Module):
    """Networks of the same backbone, head and image size. ``forward`` takes what a Classifier takes, and returns the
    logit of the mean of their probabilities, float32 (B,). The probability of each network is the mean over the
    symmetries ``tta`` (batches.symmetries) of the image."""

    def __init__(self, members: list[Classifier], tta: str = "none") -> None:
        super().__init__()
        self.tta = tta
        self.members = nn.ModuleList(members)
        self.description: dict[str, Any] = members[0].description | {"members": len(members)}

    def forward(self, images: Tensor) -> Tensor:
        return mean_logit(self.member_logits(images))

    def member_logits(self, images: Tensor) -> Tensor:
        """The logit of each member.

        Parameters
        ----------
        images : (B, C, H, W), as for ``forward``

        Returns
        -------
        (B, members) float32
        """
        views = batches.symmetries(images, self.tta)
        return torch.stack([mean_logit(torch.stack([*map(member, views)], dim=1)) for member in self.members], dim=1)

    def with_features(self, images: Tensor) -> Tensor:
        """The logit of each member, then the features of each (Classifier.with_features).

        Parameters
        ----------
        images : (B, C, H, W), as for ``forward``

        Returns
        -------
        (B, members + F) float32, where F is members * (A + D)
        """
        outputs = [member.with_features(images) for member in self.members]  # type: ignore[operator]
        logits = torch.stack([output[:, 0] for output in outputs], dim=1)
        logits = logits if self.tta == "none" else self.member_logits(images)
        return torch.cat([logits] + [output[:, 1:] for output in outputs], dim=1)

    def contents(self) -> dict[str, Tensor]:
        """The weights, as safetensors stores them.

        Returns
        -------
        dict of Tensor, on the CPU and contiguous, by name
        """
        return {name: value.cpu().contiguous() for name, value in self.state_dict().items()}

    def views(self, features: int) -> list[int]:
        """How many of the ``features`` belong to each view of each member (Classifier.views)."""
        views: list[int] = self.members[0].views(features // len(self.members))  # type: ignore[operator]
        return views * len(self.members)


def mean_logit(logits: Tensor) -> Tensor:
    """The logit of the mean probability, without overflow.

    Parameters
    ----------
    logits : (B, members) float32

    Returns
    -------
    (B,) float32
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    return torch.logsumexp(logsigmoid(logits), dim=1) - torch.logsumexp(logsigmoid(-logits), dim=1)


def load_ensemble(weights: str | Path, description: dict[str, Any], tta: str = "none") -> Ensemble:
    """Load the ensemble of models/. ``description`` is the content of its model.json, with backbone, head, image_size
    (pixels), mean, std, arguments and members. Raises PipelineError if the weights belong to another network."""
    names = ("backbone", "head", "image_size", "mean", "std", "arguments")
    arguments = {name: description[name] for name in names if name in description}
    ensemble = Ensemble([Classifier(**arguments) for _ in range(description.get("members", 1))], tta)
    try:
        ensemble.load_state_dict(pretrained.read(Path(weights)))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise PipelineError(messages.WRONG_WEIGHTS.format(path=weights, error=reason)) from None
    return ensemble
