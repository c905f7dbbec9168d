"""Labels and names of rows in files, in the order of the activations."""

from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError, close_names
from probecache.store.importing.formats.open import FORMATS, find_files, open_file
from probecache.store.importing.tables.read import TABLES, read_table
from probecache.store.importing.tables.text import read_lines

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


def read_names(text: str, what: str) -> list[str]:
    """What identifies each row: the texts or whole numbers of FILE[:COLUMN], or the lines of a text file."""
    paths, key = find_files(text, what)
    names: list[str] = []
    for path in paths:
        if path.suffix.lower() in {*TABLES, *FORMATS}:
            try:
                values = _column(path, key, "sample").tolist()
            except InputError as error:
                raise InputError(f"{what}: {error}") from None
        else:
            values = read_lines(path)
        lacking = [i for i, value in enumerate(values) if value is None or isinstance(value, float)]
        if lacking:
            raise InputError(
                f"{what}: row {lacking[0]} of {str(path)!r} is {values[lacking[0]]}: name every row"
            )
        names += map(str, values)
    return names


def _column(path: Path, key: str | None, usual: str = "label") -> Array:
    if path.suffix.lower() in TABLES:
        values = _of_table(path, key, usual)
    elif path.suffix.lower() in FORMATS:
        matrix = open_file(path, key)
        values = np.asarray(matrix[slice(0, matrix.shape[0])]) if len(matrix.shape) == 1 else matrix
    else:
        allowed = ", ".join(sorted({*TABLES, *FORMATS}))
        raise InputError(f"{str(path)!r} is of no known format: allowed {allowed}")
    if len(values.shape) != 1:
        raise InputError(f"{str(path)!r} holds {usual}s {values.shape}: use (samples,), one per row")
    values = np.asarray(values)
    if values.dtype.kind == "S":
        try:
            values = np.char.decode(values, "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{str(path)!r} holds texts that are not UTF-8 ({error.reason})") from None
    return values.astype(object) if values.dtype.kind in "UT" else values


def _of_table(path: Path, key: str | None, usual: str) -> Any:
    columns = read_table(path)
    if list(columns) == [""]:
        if key is not None:
            raise InputError(f"{str(path)!r} holds one array: leave :{key} out")
        return columns[""]
    if key is None:
        key = next(iter(columns)) if len(columns) == 1 else usual
    if key not in columns:
        raise InputError(
            f"{str(path)!r} has no column {key!r:.60} (FILE:COLUMN); {close_names(key, columns)}"
        )
    return np.asarray(columns[key], object) if isinstance(columns[key], list) else columns[key]
