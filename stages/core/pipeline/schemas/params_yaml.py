"""The schema of a whole params.yaml. Every stage checks the file with it before it starts, so that a mistake in any
section is reported at once; a stage then reads its own sections (core.pipeline.params)."""

from pathlib import Path
from typing import cast

from core.pipeline import params
from core.pipeline.schemas.base import Section, Seed
from core.pipeline.schemas.data import Data
from core.pipeline.schemas.evaluate import Evaluate
from core.pipeline.schemas.external import External
from core.pipeline.schemas.model import Model
from core.pipeline.schemas.prepare import Prepare
from core.pipeline.schemas.report import Report
from core.pipeline.schemas.runtime import Runtime
from core.pipeline.schemas.split import Split
from core.pipeline.schemas.train import Train

from pydantic import create_model


class Params(Section):
    seed: Seed
    data: Data
    prepare: Prepare
    split: Split
    model: Model
    train: Train
    evaluate: Evaluate
    report: Report
    runtime: Runtime
    external: External  # of another set, in a folder of its own


def load(path: str | Path = params.PATH) -> Params:
    """Read and check all sections that the file has. Raises PipelineError: one line for each mistake, with the key, its
    value and what is allowed, or with the new name of a key that was renamed."""
    values = params.read(path)
    fields = {name: (field.annotation, ...) for name, field in Params.model_fields.items() if name in values}
    schema: type[Section] = create_model("Sections", __base__=Section, **fields)  # type: ignore[call-overload]
    return cast(Params, params.validate(schema, values, path))
