"""Section split."""

from typing import Annotated, Literal

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
    def _a_fold_there_is(self) -> "Split":
        if self.folds is not None:
            if self.strategy == "predefined":
                raise ValueError("folds must be null for strategy predefined, whose lists define the test set")
            if self.fold > self.folds:
                raise ValueError(f"fold must be from 1 to folds ({self.folds}), not {self.fold}")
        return self

    @model_validator(mode="after")
    def _one_whole(self) -> "Split":
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + val + test must be 1, not {total:g}")
        for name in SPLITS:
            if getattr(self, name) == 0:
                raise ValueError(f"{name} must be above 0: training, early stopping and testing each need images")
        return self
