import signal

from core.pipeline import tables
from core.pipeline.errors import PipelineError
from core.split import assignment, leakage, queries

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_assignment import IMAGES, clusters, index, rules

NO_LISTS = pd.DataFrame(columns=tables.LISTED)


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
    with queries.opened(tmp_path) as known:
        known.add_file("images", tmp_path / "index.csv", tables.INDEX[:4])
        found = known.frame("from images order by row")
        assert found.equals(tables.read(tmp_path / "index.csv", tables.INDEX[:4]))
        assert known.frame("from images where row > 9").dtypes.equals(found.dtypes)


@pytest.mark.parametrize("lines", ["0,a,1,p\nx,b,0,q\n", "0,a,1,p\n1,b\n", '0,"a,1,p\n'])
def test_a_damaged_file_is_named(tmp_path, lines):
    (tmp_path / "index.csv").write_text("row,file,label,patient\n" + lines)
    with queries.opened(tmp_path) as known, pytest.raises(PipelineError, match=r"index\.csv is damaged .* dvc repro"):
        known.add_file("images", tmp_path / "index.csv", tables.INDEX[:4])
        known.frame("from images")


def test_a_file_without_a_column_is_damaged(tmp_path):
    (tmp_path / "index.csv").write_text("row,file,label\n0,a,1\n")
    with queries.opened(tmp_path) as known, pytest.raises(PipelineError, match="it lacks the columns patient"):
        known.add_file("images", tmp_path / "index.csv", tables.INDEX[:4])


def test_what_is_larger_than_the_limit_of_memory_goes_to_the_disk_and_is_removed(tmp_path):
    numbers = np.random.RandomState(0).permutation(4_000_000)  # 32 MB
    with queries.opened(tmp_path, memory="20MB") as known:
        for start in range(0, len(numbers), 1_000_000):
            known.append("numbers", pd.DataFrame({"number": numbers[start : start + 1_000_000]}))
        first = 0
        for some in known.chunks("from numbers order by number"):
            assert (some["number"] == np.arange(first, first + len(some))).all()
            first += len(some)
        assert first == len(numbers) and sum(file.stat().st_size for file in tmp_path.rglob("*")) > 10_000_000
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_of_the_disk(tmp_path):
    with queries.opened(tmp_path, memory="20MB") as known, pytest.raises(OSError, match="No space|offload|memory"):
        known.frame("set max_temp_directory_size = '1MB'")
        known.append("numbers", pd.DataFrame({"number": np.arange(8_000_000)}))


def test_a_signal_interrupts_a_query(tmp_path):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with queries.opened(tmp_path) as known, pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            known.frame(
                "select sum(a.range * b.range) from range(20000) a, range(20000) b where (a.range + b.range) % 7 = 3"
            )
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not list(tmp_path.iterdir())


@settings(max_examples=60, deadline=None)
@given(
    rows=IMAGES, seed=st.integers(0, 9), strategy=st.sampled_from(["patient", "stable"]),
    duplicates=st.sampled_from(["together", "drop", "keep"]), folds=st.sampled_from([None, 3]),
)  # fmt: skip
def test_images_gathered_by_patient_are_split_as_each_image_alone(rows, seed, strategy, duplicates, folds):
    every = index(rows).assign(
        pixels_sha256=lambda table: table["pixels_sha256"].where(table.index % 3 == 0, table["file"])
    )
    copied, chosen = clusters(every), rules(strategy=strategy, duplicates=duplicates, folds=folds)
    every = every[tables.INDEX[:4]]
    told = []
    with queries.opened(None) as known:
        known.add("images", every)
        known.add("clusters", copied)
        known.add("listed", NO_LISTS)
        for singly, given_rows in enumerate([queries.condensed(known), queries.singly(known)]):
            try:
                split = assignment.assign(given_rows, copied, chosen, seed)
            except PipelineError as mistake:
                told.append(str(mistake))
                continue
            figures = assignment.summarise(split, chosen), leakage.measure(split, copied), leakage.left_out(split)
            spread = queries.spread(every, split, ["cluster", "component", "split"])
            told.append((figures, spread[tables.SPLIT].to_csv()))
            assert singly == (len(split) == len(every)) or len(every) == every["patient"].nunique()
    assert told[0] == told[1]
