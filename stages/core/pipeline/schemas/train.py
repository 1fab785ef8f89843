"""Sections model and train: the same stages read both."""

from typing import Annotated, Literal

from core.pipeline.schemas.base import Count, Geometry, Section, Seed
from core.pipeline.schemas.device import Device

from pydantic import Field

Strength = Annotated[float, Field(ge=0, lt=1)]


class Model(Section):
    backbone: str
    weights: str
    head: Literal["linear", "selu"]


class Augment(Section):
    geometry: Geometry
    brightness: Strength
    contrast: Strength
    stain: Strength


class Train(Device):
    ensemble_size: Annotated[int, Field(ge=1, le=100)]
    seed: Seed | None
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["cosine", "plateau"]
    plateau_factor: Annotated[float, Field(gt=0, lt=1)]
    plateau_patience: Annotated[int, Field(ge=0)]
    early_stopping: Count
    pos_weight: Annotated[float, Field(gt=0)]
    grad_clip_norm: Annotated[float, Field(gt=0)] | None
    freeze_backbone: bool
    augment: Augment
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    compile: Literal["auto"] | bool
    nproc_per_node: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]
