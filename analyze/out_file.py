"""The one new file that a command is asked for with `--out`: whether it may lie there, and a table in it."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from probecache.store.errors import InputError
from probecache.store.storage.replace_file import replaced_file

if TYPE_CHECKING:
    import pandas as pd


def require_new(path: str | os.PathLike[str]) -> Path:
    """The file, `~` being the home folder; InputError where one is there, or no folder for it.

    Called before any work.
    """
    path = Path(path).expanduser()
    if path.exists():
        raise InputError(f"{path} exists already: name another --out, or remove it")
    if not path.parent.is_dir():
        raise InputError(f"got --out {path}, and there is no folder {path.parent}; make it, or name another")
    return path


def require_new_table(path: str | os.PathLike[str]) -> Path:
    """As `require_new`, of a file that `write_table` can write."""
    suffix = Path(path).suffix
    if suffix not in (".csv", ".parquet"):
        raise InputError(f"got --out {path}; allowed: a file ending in .csv or .parquet")
    found = require_new(path)
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise InputError(f"got --out {path}, and pyarrow is not installed; install it, or write .csv")
    return found


def write_table(table: "pd.DataFrame", path: str | os.PathLike[str]) -> None:
    """A new .csv or .parquet file, whole or not at all; InputError as `require_new_table` says."""
    with replaced_file(require_new_table(path)) as made:
        if Path(path).suffix == ".csv":
            table.to_csv(made, index=False)
        else:
            table.to_parquet(made, index=False)
