"""Section evaluate."""

from typing import Literal

from core.pipeline.schemas.base import Fraction, Geometry, Section


class Decision(Section):
    """What the stage evaluate reads."""

    threshold: Fraction | Literal["validation"]
    calibration: Literal["none", "temperature"]
    tta: Geometry
    combine: Literal["mean", "max", "validation"]


class Evaluate(Decision):
    primary: Literal[
        "roc_auc", "pr_auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1", "brier"
    ]
