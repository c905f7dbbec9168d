""".parquet: a column of lists, or columns of numbers side by side, streamed by batches of rows."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError, close_names, first_line
from probecache.store.importing.formats.matrix import Matrix, Sequential, missing_library

Array = np.ndarray[Any, Any]
_ROWS = 1024


def open_parquet(path: Path, key: str | None) -> Matrix:
    """`key`: the column of lists, or a pattern of columns of numbers, in the file's order."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise missing_library(repr(str(path)), "pyarrow") from None
    try:
        file = pq.ParquetFile(path)
        schema, n = file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{str(path)!r} is no parquet file ({first_line(error):.120})") from None
    columns = _chosen(schema, key, path, pa)
    kinds = {_value(schema.field(c).type) for c in columns}
    if len(kinds) != 1:
        held = ", ".join(sorted(map(str, kinds)))
        raise InputError(f"{str(path)!r}: columns of {held}: use columns of one dtype")
    kind = kinds.pop()
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise InputError(f"{str(path)!r}, column {columns[0]!r}: holds {kind}, not numbers")
    dtype = np.dtype(kind.to_pandas_dtype())

    def start() -> Any:
        # buffered and not read ahead: a row group may be larger than memory
        opened = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        return _Rows(opened.iter_batches(_ROWS, columns=columns, use_threads=False), columns, path)

    first = start().take(min(n, 1))
    return Sequential((n, first.shape[1]), dtype, start, lambda rows, count: rows.take(count))


def _chosen(schema: Any, key: str | None, path: Path, pa: Any) -> list[str]:
    names = schema.names
    listed = [n for n in names if _is_list(schema.field(n).type)]
    if key is not None:
        found = [n for n in names if n == key] or [n for n in names if fnmatchcase(n, key)]
        if not found:
            raise InputError(f"{str(path)!r} has no column {key!r:.80}; {close_names(key, names)}")
        if len(found) > 1 and set(found) & set(listed):
            raise InputError(f"{str(path)!r}: {key!r:.60} names several columns of lists: name one")
        return found
    if len(listed) == 1:
        return listed
    numbers = [n for n in names if pa.types.is_floating(schema.field(n).type)]
    if not listed and numbers == names:
        return numbers
    shown = ", ".join(names[:10])
    raise InputError(
        f"{str(path)!r} has {len(names)} columns ({shown:.200}): name the one that holds lists, or a "
        "pattern of those that are neurons (FILE:f_*)"
    )


def _is_list(kind: Any) -> bool:
    return hasattr(kind, "value_type") and not hasattr(kind, "index_type")


def _value(kind: Any) -> Any:
    return kind.value_type if _is_list(kind) else kind


class _Rows:
    """Batches cut into as many rows as are asked for."""

    def __init__(self, batches: Any, columns: list[str], path: Path) -> None:
        self._batches, self._columns, self._path = iter(batches), columns, path
        self._left: Array | None = None

    def take(self, rows: int) -> Array:
        parts: list[Array] = []
        lacking = rows
        while lacking or not parts:
            block = self._left if self._left is not None and len(self._left) else self._next()
            parts.append(block[:lacking])
            self._left = block[lacking:]
            lacking -= len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _next(self) -> Array:
        batch = next(self._batches, None)
        if batch is None:
            raise InputError(f"{str(self._path)!r} ends early")
        out = []
        for name in self._columns:
            column = batch.column(self._columns.index(name))
            if column.null_count:
                raise InputError(f"{str(self._path)!r}, column {name!r}: {column.null_count} missing values")
            if _is_list(column.type):
                return self._lists(column, name)
            out.append(column.to_numpy(zero_copy_only=False))
        return np.stack(out, axis=1)

    def _lists(self, column: Any, name: str) -> Array:
        flat = column.flatten()
        if flat.null_count:
            raise InputError(
                f"{str(self._path)!r}, column {name!r}: {flat.null_count} missing values in its lists"
            )
        width, ragged = divmod(len(flat), max(1, len(column)))
        lengths = {width} if not hasattr(column, "value_lengths") else set(column.value_lengths().to_numpy())
        if ragged or lengths != {width}:
            raise InputError(
                f"{str(self._path)!r}, column {name!r}: lists of {min(lengths)} to {max(lengths)} values: "
                "one length is needed"
            )
        return flat.to_numpy(zero_copy_only=False).reshape(len(column), width)
