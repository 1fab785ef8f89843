"""Section split."""

from typing import Annotated, Literal

from core.pipeline.schemas import messages
from core.pipeline.schemas.base import SPLITS, Count, Fraction, Section, Seed

from pydantic import Field, model_validator


class Split(Section):
    strategy: Literal["patient", "stable", "image", "predefined"]
    duplicates: Literal["together", "drop", "keep"]
    on_leak: Literal["fail", "report"]
    train: Fraction
    val: Fraction
    test: Fraction
    folds: Annotated[int, Field(ge=2)] | None
    fold: Count
    seed: Seed | None

    @model_validator(mode="after")
    def _a_test_set_exists(self) -> "Split":
        if self.folds is not None:
            if self.strategy == "predefined":
                raise ValueError(messages.FOLDS_OF_LISTS)
            if self.fold > self.folds:
                raise ValueError(messages.NO_SUCH_FOLD.format(folds=self.folds, fold=self.fold))
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(messages.FRACTIONS.format(total=total))
        for split in SPLITS:
            if getattr(self, split) == 0:
                raise ValueError(messages.EMPTY_SPLIT.format(split=split))
        return self
