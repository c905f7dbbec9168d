"""Parquet tables of labels (pip install 'probecache[formats]')."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError, first_line
from probecache.store.importing.tables.columns import Columns
from probecache.store.importing.tables.csv_table import dict_of


def read_parquet(path: Path, encoding: str | None = None) -> Mapping[str, Any]:
    """Columns of a parquet file, each read when it is asked for: numbers as they are, all else as objects
    with None where missing."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(f"{str(path)!r}: parquet needs pip install 'probecache[formats]'") from None

    def wrong(error: Exception) -> InputError:
        return InputError(f"{str(path)!r} is no parquet file ({first_line(error):.120})")

    def read(name: str) -> Any:
        try:
            return _values(pq.read_table(path, columns=[name]).column(name), pa)
        except (OSError, pa.ArrowException) as error:
            raise wrong(error) from None

    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise wrong(error) from None
    return Columns(list(dict_of(names, names, path)), read)


def _values(column: Any, pa: Any) -> Any:
    kind = column.type
    plain = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if plain and (pa.types.is_floating(kind) or not column.null_count):
        return column.to_numpy()
    out = np.empty(len(column), object)
    out[:] = column.to_pylist()
    return out
