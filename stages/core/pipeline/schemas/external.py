"""Section external, of another set of images in a folder of its own."""

from typing import Literal

from core.pipeline.schemas.base import Fraction, Geometry, Section


class External(Section):
    patients: Literal["same", "other"]


class Threshold(Section):
    """What the stage external reads of the first set's section evaluate."""

    threshold: Fraction | Literal["validation"]
    tta: Geometry
