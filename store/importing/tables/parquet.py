"""Parquet tables of labels (pip install 'probecache[formats]')."""

from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError
from probecache.store.importing.tables.csv_table import dict_of


def read_parquet(path: Path, encoding: str | None = None) -> dict[str, Any]:
    """Columns of a parquet file: numbers as they are, all else as objects with None where missing."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(f"{str(path)!r}: parquet needs pip install 'probecache[formats]'") from None
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{str(path)!r} is no parquet file ({str(error).splitlines()[0]:.120})") from None
    return dict_of(table.column_names, (_values(column, pa) for column in table.columns), path)


def _values(column: Any, pa: Any) -> Any:
    kind = column.type
    plain = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if plain and (pa.types.is_floating(kind) or not column.null_count):
        return column.to_numpy()
    out = np.empty(len(column), object)
    out[:] = column.to_pylist()
    return out
