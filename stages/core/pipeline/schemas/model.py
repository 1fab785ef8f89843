"""Section model."""

from typing import Literal

from core.pipeline.schemas.base import Section


class Model(Section):
    backbone: str
    weights: str
    head: Literal["linear", "selu"]
