"""What the sections of params.yaml have in common."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

SPLITS = ("train", "val", "test")

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Geometry = Literal["none", "hflip", "flips", "d4"]
OnBadImage = Literal["fail", "drop"]
# YAML reads 1 as a number, but a class folder or a CSV cell named 1 is a string.
Word = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value), Field(min_length=1)]


class Section(BaseModel):
    """A mapping of params.yaml. Unknown keys, other types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
