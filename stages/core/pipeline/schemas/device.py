"""What the stages that only apply a network read of the section train."""

from typing import Annotated, Literal

from core.pipeline.schemas.base import Section

from pydantic import Field


class Device(Section):
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
    reproducible: Literal["everywhere", "machine", "none"]
    threads: Annotated[int, Field(ge=1, le=1024)]
