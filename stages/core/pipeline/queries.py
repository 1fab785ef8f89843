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
BUFFER = 1 << 21  # bytes of a file that are read at a time
VECTORS = 4  # of 2,048 rows, which ``Database.chunks`` yields at a time

_TYPES = {"int64": "BIGINT", "Int64": "BIGINT", "float64": "DOUBLE", "boolean": "BOOLEAN", "string": "VARCHAR"}


def quoted(column: str) -> str:
    """The name of a column, which can contain anything, in a query."""
    return '"' + column.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class Database:
    """Tables and files that SQL queries can name. Create one with ``open_database``."""

    def __init__(self, engine: duckdb.DuckDBPyConnection, folder: Path) -> None:
        self._engine, self._folder, self._paths = engine, folder, list[Path]()

    def add_file(self, name: str, path: str | Path, columns: list[str], others: bool = False) -> None:
        """Name ``columns`` of a file that tables.write wrote, and with ``others`` all that it has besides. Each query
        reads the file again."""
        with files.undamaged(path, ValueError) as file, file.open(encoding="utf-8", newline="") as text:
            names = tables.header(text, columns)
        kinds = ", ".join(f"{_text(column)}: '{_TYPES[tables.kind(column)]}'" for column in names)
        selected = ", ".join(map(quoted, names if others else columns))
        self._engine.execute(
            f"create view {name} as select {selected} from read_csv({_text(str(file))}, "
            f"columns = {{{kinds}}}, header = true, delim = ',', quote = '\"', escape = '\"', auto_detect = false, "
            f"max_line_size = {LINE}, buffer_size = {BUFFER})"
        )
        self._paths.append(file)

    def add(self, name: str, table: pd.DataFrame) -> None:
        """Name a table in memory."""
        self._engine.register(name, table)

    def append(self, name: str, table: pd.DataFrame) -> None:
        """Add rows to a table that can be larger than memory. The first rows create it."""
        self._engine.register("added", table)
        with self._errors():
            self._engine.execute(f"create table if not exists {name} as from added limit 0")
            self._engine.execute(f"insert into {name} from added")

    def frame(self, query: str, *values: object) -> pd.DataFrame:
        """The rows of a query; ``$1``, ``$2``, ... in it are ``values``. Text is of the type string, as tables.read
        gives it. Raises PipelineError if a file is damaged, and OSError if the disk is full."""
        return pd.concat(list(self.chunks(query, *values)), ignore_index=True)

    def chunks(self, query: str, *values: object) -> Iterator[pd.DataFrame]:
        """Like ``frame``, a few thousand rows at a time. The first chunk can be empty."""
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
                raise PipelineError(messages.damaged(names, "", error)) from None
            if isinstance(error, duckdb.OperationalError):  # no place for what does not fit into MEMORY
                raise OSError(errno.ENOSPC, reason, str(self._folder)) from None
            raise
        except RuntimeError as error:
            if "interrupted" in str(error):  # what DuckDB makes of a signal
                raise KeyboardInterrupt from None
            raise


@contextmanager
def open_database(folder: str | Path | None, name: str = "queries", memory: str = MEMORY) -> Iterator[Database]:
    """Yield an empty database, which writes what does not fit into ``memory`` to temporary files in ``folder`` (None:
    the system's). Two databases that a process has open at the same time need different names."""
    with files.scratch(folder or tempfile.gettempdir(), name) as temporary:
        spill = str(temporary / "duckdb")
        # Free memory above 1 MB is returned to the system.
        flush = dict.fromkeys(("allocator_flush_threshold", "allocator_bulk_deallocation_flush_threshold"), "1MB")
        config = {"memory_limit": memory, "threads": THREADS, "temp_directory": spill, **flush}
        with duckdb.connect(config=config) as engine:  # type: ignore[arg-type]
            yield Database(engine, temporary.parent)


def are_synthetic(database: Database) -> bool:
    """Whether all images in the view ``images`` are phantoms."""
    real = database.frame("select count(*) as images from images where not starts_with(file, ?)", tables.SYNTHETIC)
    return not real["images"][0]


def by_patient(database: Database) -> pd.DataFrame:
    """The images in the view ``images``, one row for each patient and label, in the order of row.

    Images with copies, which are in the view ``clusters``, have a row each.

    Returns
    -------
    DataFrame
        row and file of the first image, label, patient, single (the file of an image with copies, otherwise missing),
        and images (their number).
    """
    single = "case when file in (select file from clusters) then file end"
    return database.frame(
        f"""select min(row) as row, arg_min(file, row) as file, label, patient, single, count(*) as images
        from (select *, {single} as single from images) group by label, patient, single order by min(row)"""
    )


def by_image(database: Database) -> pd.DataFrame:
    """The images in the view ``images``, one row each, in the order of row.

    Returns
    -------
    DataFrame
        row, file, label, patient, and listed (the split in the view ``listed``, missing if the image is on no list).
        file is missing for images without copies, which are not in the view ``clusters``: the names would take most of
        the memory.
    """
    interned: dict[str, str] = {}  # one string for all images of a patient, to save memory, too
    chunks = []
    for chunk in database.chunks(
        """select row, case when file in (select file from clusters) then file end as file, label, patient,
        listed.split as listed from images left join listed using (file) order by row"""
    ):
        for column in ("patient", "listed"):
            chunk[column] = pd.array([interned.setdefault(name, name) for name in chunk[column]], dtype="string")
        chunks.append(chunk)
    return pd.concat(chunks, ignore_index=True)


def expand(images: pd.DataFrame, split: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Add ``columns`` of ``split`` to ``images``: the values of the row of ``split`` that contains the image.

    Parameters
    ----------
    images : DataFrame with the columns row, file, label and patient
    split : DataFrame with the rows of ``by_patient`` or of ``by_image``
    """
    if "single" not in split:
        return images.join(split[columns], on="row")
    keys = ["label", "patient", "single"]
    single = images["file"].where(images["file"].isin(split["single"]))
    return images.assign(single=single).merge(split[[*keys, *columns]], on=keys, how="left", validate="many_to_one")
