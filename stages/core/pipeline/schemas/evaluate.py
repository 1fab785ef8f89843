"""Section evaluate."""

from typing import Literal

from core.pipeline.schemas.base import Fraction, Geometry, Section


class Evaluate(Section):
    threshold: Fraction | Literal["validation"]
    primary: Literal[
        "roc_auc", "pr_auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1", "brier"
    ]
    tta: Geometry
    calibration: Literal["none", "temperature"]
