"""Section evaluate."""

from typing import Literal

from core.pipeline.schemas.base import Fraction, Section


class Evaluate(Section):
    threshold: Fraction | Literal["validation"]
    calibration: Literal["none", "temperature"]
