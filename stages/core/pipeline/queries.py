"""SQL over tables that may be larger than memory. DuckDB keeps within MEMORY and puts what is more on the disk."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.pipeline import files, messages, tables
from core.pipeline.errors import PipelineError

import duckdb
import pandas as pd
from pandas.api.types import is_numeric_dtype

MEMORY, THREADS = "128MB", 2  # each thread needs memory of its own
LINE = 1 << 18  # most bytes of a line
BUFFER = 1 << 21  # bytes of a file that are read at once
VECTORS = 4  # of 2,048 rows, which ``Tables.chunks`` gives at once

_TYPES = {"int64": "BIGINT", "Int64": "BIGINT", "float64": "DOUBLE", "boolean": "BOOLEAN", "string": "VARCHAR"}


class Tables:
    """Tables that queries can name. Make one with ``opened``."""

    def __init__(self, engine: duckdb.DuckDBPyConnection, folder: Path) -> None:
        self._engine, self._folder, self._paths = engine, folder, list[Path]()

    def add_file(self, name: str, path: str | Path, columns: list[str]) -> None:
        """Name ``columns`` of a file that tables.write wrote. It is read anew by each query."""
        with files.undamaged(path, ValueError) as found:
            header = tables.header(found, columns)
        kinds = ", ".join(f"'{column}': '{_TYPES[tables.kind(column)]}'" for column in header)
        quoted = str(found).replace("'", "''")
        self._engine.execute(
            f"create view {name} as select {', '.join(map(_quoted, columns))} from read_csv('{quoted}', "
            f"columns = {{{kinds}}}, header = true, delim = ',', quote = '\"', escape = '\"', auto_detect = false, "
            f"max_line_size = {LINE}, buffer_size = {BUFFER})"
        )
        self._paths.append(found)

    def add(self, name: str, table: pd.DataFrame) -> None:
        """Name a table in memory."""
        self._engine.register(name, table)

    def append(self, name: str, table: pd.DataFrame) -> None:
        """Add rows to a table that can be larger than memory. The first ones create it."""
        self._engine.register("added", table)
        with self._errors():
            self._engine.execute(f"create table if not exists {name} as from added limit 0")
            self._engine.execute(f"insert into {name} from added")

    def frame(self, query: str, *values: object) -> pd.DataFrame:
        """The rows that a query finds; text is of the type that tables.read gives. Raises PipelineError if a file is
        damaged, OSError if the disk is full."""
        return pd.concat(list(self.chunks(query, *values)), ignore_index=True)

    def chunks(self, query: str, *values: object) -> Iterator[pd.DataFrame]:
        """The same a few thousand rows at a time, the first perhaps without rows."""
        with self._errors():
            self._engine.execute(query, list(values))
            table = self._engine.fetch_df_chunk(VECTORS)
        while True:
            yield table.astype(dict.fromkeys(table.columns[~table.dtypes.map(is_numeric_dtype)], "string"))
            with self._errors():
                table = self._engine.fetch_df_chunk(VECTORS)
            if table.empty:
                return

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            reason = str(error).partition("\n")[0][:200]
            if isinstance(error, duckdb.DataError | duckdb.InvalidInputException):  # in the lines of a file
                names = " or ".join(map(str, self._paths))
                raise PipelineError(messages.damaged(names, reason)) from None
            if isinstance(error, duckdb.OperationalError):  # no place for what does not fit into MEMORY
                raise OSError(errno.ENOSPC, reason, str(self._folder)) from None
            raise
        except RuntimeError as error:
            if "interrupted" in str(error):  # what DuckDB makes of a signal
                raise KeyboardInterrupt from None
            raise


def _quoted(column: str) -> str:
    return f'"{column}"'


@contextmanager
def opened(folder: str | Path | None, name: str = "queries", memory: str = MEMORY) -> Iterator[Tables]:
    """An empty set of tables, with temporary files in ``folder`` (None: the system's). Of those of one process that are
    open at a time, each needs another ``name``."""
    with files.scratch(folder or tempfile.gettempdir(), name) as spilled:
        engine = duckdb.connect(
            config={
                "memory_limit": memory,
                "threads": THREADS,
                "temp_directory": str(spilled / "duckdb"),
                # more free memory than this is given back to the system
                "allocator_flush_threshold": "1MB",
                "allocator_bulk_deallocation_flush_threshold": "1MB",
            }
        )
        try:
            yield Tables(engine, spilled.parent)
        finally:
            engine.close()


def are_synthetic(known: Tables) -> bool:
    """Whether all images in the view ``images`` are phantoms."""
    found = known.frame("select count(*) as images from images where not starts_with(file, ?)", tables.SYNTHETIC)
    return not found["images"][0]


def condensed(known: Tables) -> pd.DataFrame:
    """The images in the view ``images``, in few rows: the images of one patient and label are one row, except those in
    the view ``clusters``, which have copies.

    Columns row and file (of the first image), label, patient, single (the file, if the row is of one image only) and
    images (their number), in the order of row.
    """
    single = "case when file in (select file from clusters) then file end"
    return known.frame(
        f"""select min(row) as row, arg_min(file, row) as file, label, patient, single, count(*) as images
        from (select *, {single} as single from images) group by label, patient, single order by min(row)"""
    )


def singly(known: Tables) -> pd.DataFrame:
    """The images in the view ``images``, one row each: row, file, label, patient and listed (their part in the view
    ``listed``, missing if they are on no list). File is missing for images that are not in the view ``clusters``: names
    would take most of the memory."""
    patients: dict[str, str] = {}  # one string for all images of a patient, for the same reason
    parts = []
    for some in known.chunks(
        """select row, case when file in (select file from clusters) then file end as file, label, patient,
        listed.split as listed from images left join listed using (file) order by row"""
    ):
        for column in ("patient", "listed"):
            some[column] = pd.array([patients.setdefault(name, name) for name in some[column]], dtype="string")
        parts.append(some)
    return pd.concat(parts, ignore_index=True)


def spread(images: pd.DataFrame, split: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """``images`` with more ``columns``: those of the row of ``split`` that each image is in. ``split`` has the rows of
    condensed or of singly."""
    if "single" not in split:
        return images.join(split[columns], on="row")
    keys = ["label", "patient", "single"]
    single = images["file"].where(images["file"].isin(split["single"]))
    return images.assign(single=single).merge(split[[*keys, *columns]], on=keys, how="left", validate="many_to_one")
