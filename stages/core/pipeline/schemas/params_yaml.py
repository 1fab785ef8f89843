"""The schema of a whole params.yaml. Every stage checks the file with it before it starts, so that a mistake in any
section is reported at once; a stage then reads its own sections (core.pipeline.params)."""

from pathlib import Path
from typing import Annotated, cast

from core.pipeline import params
from core.pipeline.schemas.base import Section, Seed
from core.pipeline.schemas.data import Data
from core.pipeline.schemas.evaluate import Evaluate
from core.pipeline.schemas.external import External
from core.pipeline.schemas.prepare import Prepare
from core.pipeline.schemas.report import Report
from core.pipeline.schemas.split import Split
from core.pipeline.schemas.train import Model, Train

from pydantic import Field, create_model


class Runtime(Section):
    """What changes no byte of any output, so no stage depends on it."""

    checkpoint_minutes: Annotated[float, Field(gt=0)]


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
    """Read and check all sections that the file has. Raises PipelineError as params.load, and names renamed keys."""
    values = params.read(path)
    fields = {name: (field.annotation, ...) for name, field in Params.model_fields.items() if name in values}
    schema: type[Section] = create_model("Sections", __base__=Section, **fields)  # type: ignore[call-overload]
    return cast(Params, params.validate(schema, values, path))
