import signal

from core.pipeline import queries, tables
from core.pipeline.errors import PipelineError

import numpy as np
import pandas as pd
import pytest


def images(names):
    rows = [(row, file, row % 2, patient) for row, (file, patient) in enumerate(names)]
    return tables.frame(rows, tables.INDEX[:4])


def test_a_file_reads_as_pandas_reads_it(tmp_path):
    odd = [
        ("a,b.png", "NA"),
        ('q"uo"te.png', None),
        ("new\nline é.png", " null "),
        ("it's", "007"),
        ('"', "'"),
    ]
    tables.write(images(odd), tmp_path / "index.csv", tables.INDEX[:4])
    with queries.open_database(tmp_path) as database:
        database.add_file("images", tmp_path / "index.csv", tables.INDEX[:4])
        table = database.frame("from images order by row")
        assert table.equals(tables.read(tmp_path / "index.csv", tables.INDEX[:4]))
        assert database.frame("from images where row > 9").dtypes.equals(table.dtypes)


@pytest.mark.parametrize("lines", ["0,a,1,p\nx,b,0,q\n", "0,a,1,p\n1,b\n", '0,"a,1,p\n'])
def test_a_damaged_file_is_named(tmp_path, lines):
    (tmp_path / "index.csv").write_text("row,file,label,patient\n" + lines)
    with (
        queries.open_database(tmp_path) as database,
        pytest.raises(PipelineError, match=r"index\.csv is damaged .* dvc repro"),
    ):
        database.add_file("images", tmp_path / "index.csv", tables.INDEX[:4])
        database.frame("from images")


def test_a_file_without_a_column_is_damaged(tmp_path):
    (tmp_path / "index.csv").write_text("row,file,label\n0,a,1\n")
    with (
        queries.open_database(tmp_path) as database,
        pytest.raises(PipelineError, match="it lacks the columns patient"),
    ):
        database.add_file("images", tmp_path / "index.csv", tables.INDEX[:4])


def test_what_is_larger_than_the_limit_of_memory_goes_to_the_disk_and_is_removed(tmp_path):
    numbers = np.random.RandomState(0).permutation(4_000_000)  # 32 MB
    with queries.open_database(tmp_path, memory="20MB") as database:
        for start in range(0, len(numbers), 1_000_000):
            database.append("numbers", pd.DataFrame({"number": numbers[start : start + 1_000_000]}))
        first = 0
        for chunk in database.chunks("from numbers order by number"):
            assert (chunk["number"] == np.arange(first, first + len(chunk))).all()
            first += len(chunk)
        assert first == len(numbers) and sum(file.stat().st_size for file in tmp_path.rglob("*")) > 10_000_000
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_of_the_disk(tmp_path):
    with (
        queries.open_database(tmp_path, memory="20MB") as database,
        pytest.raises(OSError, match="No space|offload|memory"),
    ):
        database.frame("set max_temp_directory_size = '1MB'")
        database.append("numbers", pd.DataFrame({"number": np.arange(8_000_000)}))


def test_a_signal_interrupts_a_query(tmp_path):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with queries.open_database(tmp_path) as database, pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            database.frame(
                "select sum(a.range * b.range) from range(20000) a, range(20000) b where (a.range + b.range) % 7 = 3"
            )
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not list(tmp_path.iterdir())


def test_a_column_can_have_any_name(tmp_path):
    names = ["group_Patient's Age", 'group_a "quoted" name']
    (tmp_path / "groups.csv").write_text('file,group_Patient\'s Age,"group_a ""quoted"" name"\na.png,old,1\n')
    with queries.open_database(tmp_path) as database:
        database.add_file("groups", tmp_path / "groups.csv", ["file"], others=True)
        assert list(database.frame("from groups").columns) == ["file", *names]
        assert database.frame(f"select {queries.quoted(names[1])} as level from groups")["level"][0] == "1"
