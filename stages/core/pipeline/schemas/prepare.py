"""Section prepare, and what the stage prepare reads of data."""

from typing import Annotated, Literal

from core.pipeline.schemas import messages
from core.pipeline.schemas.base import OnBadImage, Percent, Section

from pydantic import Field, field_validator


class Prepare(Section):
    image_size: Annotated[int, Field(ge=8, le=4096)]
    fit: Literal["stretch", "pad", "crop", "breast"]
    levels: Literal["window"] | Annotated[list[Percent], Field(min_length=2, max_length=2)]

    @field_validator("levels")
    @classmethod
    def _rise(cls, levels: list[float] | str) -> list[float] | str:
        if isinstance(levels, list) and not levels[0] < levels[1]:
            raise ValueError(messages.PERCENTILES_FALL)
        return levels


class BadImages(Section):
    on_bad_image: OnBadImage
