"""Which format a table is of, and its columns."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError
from probecache.store.importing.tables.arrays import read_arrays
from probecache.store.importing.tables.csv_table import read_csv
from probecache.store.importing.tables.json_lines import read_json_lines
from probecache.store.importing.tables.parquet import read_parquet

Array = np.ndarray[Any, Any]
TABLES: dict[str, Callable[[Path, str | None], Mapping[str, Any]]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".npy": read_arrays,
    ".npz": read_arrays,
}


def read_table(path: Path, encoding: str | None = None) -> Mapping[str, Any]:
    """Columns by name, each with one value (or a row of several) per row of the file.

    Parquet files and archives of arrays give each column when it is asked for: features may lie beside it.
    A plain .npy array is the one column "". InputError says what is wrong with the file.
    """
    path = path.expanduser()
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}" if not path.exists() else f"{str(path)!r} is no file")
    reader = TABLES.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{str(path)!r} is of no known format: allowed {', '.join(TABLES)}")
    return reader(path, encoding)
