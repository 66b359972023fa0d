import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ode_core.datasets.labelled_arrays import ArraysRefused
from ode_core.datasets.parquet_file import read_parquet

LIMIT = 1_000_000


def parquet(columns, **options):
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content, **options)
    return content.getvalue()


@pytest.fixture
def read(tmp_path):
    def read_content(content, label="label", limit=LIMIT):
        path = tmp_path / "upload"
        path.write_bytes(content)
        return read_parquet(path, label, limit)

    return read_content


@pytest.mark.parametrize("row_group_size", [None, 3])
def test_columns_of_numbers_become_features_in_their_order(read, row_group_size):
    x, y = np.linspace(0, 1, 10), np.arange(10, dtype=np.float32)
    content = parquet({"x": x, "label": np.arange(10) % 2, "y": y}, row_group_size=row_group_size)
    inputs, labels = read(content)
    assert np.array_equal(inputs, np.stack([x, y.astype(float)], axis=1))
    assert labels.tolist() == [0, 1] * 5


def test_the_column_of_labels_can_be_named(read):
    inputs, labels = read(parquet({"label": [1.5, 2.5], "class": [0, 1]}), label="class")
    assert (inputs.tolist(), labels.tolist()) == ([[1.5], [2.5]], [0, 1])


@pytest.mark.parametrize("kind", [pa.list_(pa.uint8(), 3), pa.list_(pa.uint8())])
def test_a_column_of_lists_becomes_the_inputs(read, kind):
    rows = [[1, 2, 3], [4, 5, 6]]
    inputs, _ = read(parquet({"pixels": pa.array(rows, kind), "label": [0, 1]}))
    assert inputs.dtype == np.uint8
    assert inputs.tolist() == rows


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [1.0]}, "no column 'label': name the column of labels, one of x"),
        ({"label": [1]}, "no column but the labels"),
        ({"x": ["a"], "label": [1]}, "'x' has type string"),
        ({"x": pa.array([1], pa.timestamp("s")), "label": [1]}, "'x' has type timestamp"),
        ({"x": [1.0], "label": ["cat"]}, "labels must be integers"),
        ({"x": [1.0, None], "label": [0, 1]}, "'x' has 1 missing values"),
        ({"x": [1.0, 2.0], "label": [0, None]}, "'label' has 1 missing values"),
        ({"x": [[1.0], [1.0, 2.0]], "label": [0, 1]}, "differ in length"),
        ({"x": [[1.0], None], "label": [0, 1]}, "missing values"),
        ({"x": [[1.0], [None]], "label": [0, 1]}, "missing values"),
        ({"x": [[1.0]], "y": [1.0], "label": [0]}, "must be the only one"),
        ({"x": [[["deep"]]], "label": [0]}, "numbers, or lists of numbers"),
        ({"x": [{"a": 1}], "label": [0]}, "numbers, or lists of numbers"),
        ({"x": [1.0], "label": [0], "__index_level_0__": [0]}, "index=False"),
    ],
)
def test_columns_that_are_no_numbers_are_refused(read, columns, message):
    with pytest.raises(ArraysRefused, match=message):
        read(parquet(columns))


def test_runs_that_would_be_large_unpacked_are_refused_before(read):
    content = parquet({"x": np.zeros(LIMIT), "label": np.zeros(LIMIT, dtype=np.int8)})
    assert len(content) < LIMIT / 10
    with pytest.raises(ArraysRefused, match="9,000,000 bytes unpacked") as refused:
        read(content)
    assert refused.value.too_large


def test_bytes_count_as_bytes(read):
    read(parquet({"x": np.zeros(LIMIT // 2, dtype=np.uint8), "label": np.zeros(LIMIT // 2, dtype=np.int8)}))


VALID = parquet({"x": np.linspace(0, 1, 50), "label": np.arange(50) % 2})


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", VALID[:-20], VALID[:40] + VALID[60:], b"PAR1" * 50])
def test_a_damaged_file_is_refused(read, content):
    with pytest.raises(ArraysRefused, match="not a whole Parquet file"):
        read(content)


@given(position=st.integers(0, len(VALID) - 1), value=st.integers(0, 255))
def test_a_changed_byte_gives_a_refusal_or_arrays_of_the_known_size(tmp_path_factory, position, value):
    damaged = bytearray(VALID)
    damaged[position] = value
    path = tmp_path_factory.mktemp("damaged") / "upload"
    path.write_bytes(bytes(damaged))
    try:
        inputs, labels = read_parquet(path, "label", LIMIT)
    except ArraysRefused:
        return
    assert inputs.nbytes + labels.nbytes <= LIMIT
