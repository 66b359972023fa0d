"""Reads Parquet files as inputs and labels: numeric columns, or one column of equally long lists."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ode_core.datasets.labelled_arrays import ArraysRefused

Array = npt.NDArray[Any]

MAGIC = b"PAR1"
MOST_COLUMNS = 20_000


def read_parquet(path: Path, label: str, limit: int) -> tuple[Array, Array]:
    """Return inputs ``(rows, features)`` and labels ``(rows,)``.

    Args:
        path: the file.
        label: name of the column of labels; all others are features.
        limit: bytes that the unpacked columns may take together.

    Raises:
        ArraysRefused: the file is damaged or too large, or a column is not of numbers.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            features = _feature_columns(schema, label)
            _check_size(file.metadata, schema, limit)
            table = file.read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, ArraysRefused):
            raise
        raise ArraysRefused(f"the file is not a whole Parquet file ({str(error)[:100]}): write it anew") from None
    labels = _values(table, label)
    if not _is_number(schema.field(features[0]).type):
        return _lists(table, features[0]), labels
    columns = [_values(table, name) for name in features]
    common = np.result_type(*columns)
    return np.stack([column.astype(common, copy=False) for column in columns], axis=1), labels


def _feature_columns(schema: pa.Schema, label: str) -> list[str]:
    names = schema.names
    if len(names) > MOST_COLUMNS:
        raise ArraysRefused(f"there are {len(names):,} columns: use one column of lists, or at most {MOST_COLUMNS:,}")
    if len(set(names)) != len(names):
        raise ArraysRefused("two columns have the same name: rename one")
    if label not in names:
        shown = ", ".join(names[:10])[:200]
        raise ArraysRefused(f"there is no column {label[:80]!r}: name the column of labels, one of {shown}")
    features = [name for name in names if name != label]
    if not features:
        raise ArraysRefused("there is no column but the labels: add the inputs")
    if not _is_number(schema.field(label).type):
        raise ArraysRefused(f"the column {label[:80]!r} has type {schema.field(label).type}: labels must be integers")
    lists = [name for name in features if not _is_number(schema.field(name).type)]
    for name in features:
        if re.fullmatch(r"__index_level_\d+__", name):
            raise ArraysRefused("the table's index would become a feature: write it with index=False")
    for name in lists:
        kind = schema.field(name).type
        if not ((pa.types.is_list(kind) or _is_fixed_list(kind)) and _is_number(kind.value_type)):
            raise ArraysRefused(f"the column {name[:80]!r} has type {kind}: it must be numbers, or lists of numbers")
    if lists and len(features) > 1:
        raise ArraysRefused(f"the column {lists[0][:80]!r} of lists must be the only one beside the labels")
    return features


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _is_fixed_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))


def _check_size(metadata: pq.FileMetaData, schema: pa.Schema, limit: int) -> None:
    """Refuse what would be too large unpacked. Dictionaries and runs can make it far larger than the file."""
    kinds = [
        field.type if _is_number(field.type) else getattr(field.type, "value_type", field.type) for field in schema
    ]
    unpacked = 0
    for group in range(metadata.num_row_groups):
        # Columns of numbers and of lists of numbers have one leaf each, in the schema's order.
        leaves = [metadata.row_group(group).column(leaf) for leaf in range(metadata.num_columns)]
        unpacked += sum(leaf.num_values * max(1, kind.bit_width // 8) for leaf, kind in zip(leaves, kinds, strict=True))
    if unpacked > limit:
        raise ArraysRefused(
            f"the columns take {unpacked:,} bytes unpacked, more than the {limit:,} allowed: upload fewer rows",
            too_large=True,
        )


def _values(table: pa.Table, name: str) -> Array:
    column = table.column(name).combine_chunks()
    if column.null_count:
        raise ArraysRefused(f"the column {name[:80]!r} has {column.null_count:,} missing values: leave such rows out")
    values: Array = column.to_numpy(zero_copy_only=False)
    return values


def _lists(table: pa.Table, name: str) -> Array:
    column = table.column(name).combine_chunks()
    lengths = set(pc.list_value_length(column).unique().to_pylist())
    flat = column.flatten()
    if column.null_count or flat.null_count:
        raise ArraysRefused(f"the column {name[:80]!r} has missing values: leave such rows out")
    if len(lengths) != 1:
        raise ArraysRefused(f"the lists of the column {name[:80]!r} differ in length: make them equally long")
    values: Array = flat.to_numpy(zero_copy_only=False)
    return values.reshape(len(column), lengths.pop())
