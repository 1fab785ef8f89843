"""Section report."""

from core.pipeline.schemas.base import Section


class Report(Section):
    images: bool
    planning: bool
    checklist: bool
