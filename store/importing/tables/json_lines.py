"""JSON lines: an object per line; a column is a key, missing where a line has not got it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError
from probecache.store.importing.tables.text import read_lines

Array = np.ndarray[Any, Any]


def read_json_lines(path: Path, encoding: str | None = None) -> dict[str, Any]:
    """Columns of a JSON lines file, objects with None where missing, in the order in which keys appear."""
    rows: list[dict[str, Any]] = []
    for i, line in enumerate(read_lines(path, encoding), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{str(path)!r}, line {i}: no JSON ({str(error)[:80]})") from None
        if not isinstance(row, dict):
            raise InputError(f"{str(path)!r}, line {i}: a {type(row).__name__}, not an object of columns")
        rows.append(row)
    if not rows:
        raise InputError(f"{str(path)!r} has no rows")
    names = {name: None for row in rows for name in row}
    return {name: [row.get(name) for row in rows] for name in names}
