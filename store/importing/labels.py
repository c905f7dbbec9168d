"""Labels in a file, in the order of the activations: whole numbers, or texts that become classes."""

from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError, close_names
from probecache.store.importing.formats.open import FORMATS, find_files
from probecache.store.importing.tables.read import TABLES, read_table

Array = np.ndarray[Any, Any]


def read_labels(text: str, what: str) -> Array:
    """(samples,) whole numbers, or texts as objects (None where empty), of FILE[:COLUMN] or a pattern."""
    paths, key = find_files(text, what)
    try:
        parts = [_column(path, key) for path in paths]
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
    kinds = {part.dtype.kind for part in parts}
    if "O" in kinds and len(kinds) > 1:
        raise InputError(f"{what}: some of the {len(paths)} files hold texts, others numbers")
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _column(path: Path, key: str | None) -> Array:
    if path.suffix.lower() in TABLES:
        values = _of_table(path, key)
    elif path.suffix.lower() in FORMATS:
        matrix = FORMATS[path.suffix.lower()](path, key)
        values = np.asarray(matrix[slice(0, matrix.shape[0])]) if len(matrix.shape) == 1 else matrix
    else:
        allowed = ", ".join(sorted({*TABLES, *FORMATS}))
        raise InputError(f"{str(path)!r} is of no known format: allowed {allowed}")
    if len(values.shape) != 1:
        raise InputError(f"{str(path)!r} holds labels {values.shape}: use (samples,), one per row")
    values = np.asarray(values)
    if values.dtype.kind == "S":
        try:
            values = np.char.decode(values, "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{str(path)!r} holds texts that are not UTF-8 ({error.reason})") from None
    return values.astype(object) if values.dtype.kind in "UT" else values


def _of_table(path: Path, key: str | None) -> Any:
    columns = read_table(path)
    if list(columns) == [""]:
        if key is not None:
            raise InputError(f"{str(path)!r} holds one array: leave :{key} out")
        return columns[""]
    if key is None:
        key = next(iter(columns)) if len(columns) == 1 else "label"
    if key not in columns:
        raise InputError(
            f"{str(path)!r} has no column {key!r:.60} (FILE:COLUMN); {close_names(key, columns)}"
        )
    return np.asarray(columns[key], object) if isinstance(columns[key], list) else columns[key]
