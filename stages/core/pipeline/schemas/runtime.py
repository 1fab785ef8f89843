"""Section runtime: what changes no byte of any output. No stage depends on it."""

from typing import Annotated

from core.pipeline.schemas.base import Section

from pydantic import Field


class Runtime(Section):
    checkpoint_minutes: Annotated[float, Field(gt=0)]
