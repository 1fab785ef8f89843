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
    def _fold_exists(self) -> "Split":
        if self.folds is not None:
            if self.strategy == "predefined":
                raise ValueError(messages.folds_of_lists())
            if self.fold > self.folds:
                raise ValueError(messages.no_such_fold(self.fold, self.folds))
        return self

    @model_validator(mode="after")
    def _sum_to_one(self) -> "Split":
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(messages.fractions(total))
        for name in SPLITS:
            if getattr(self, name) == 0:
                raise ValueError(messages.empty_split(name))
        return self
