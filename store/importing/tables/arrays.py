""".npy and .npz as tables: an array is a column; fields and the arrays of an archive are several."""

from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError

Array = np.ndarray[Any, Any]


def read_arrays(path: Path, encoding: str | None = None) -> dict[str, Any]:
    """Columns of a .npy or .npz; one plain array is the column "". Never unpickled."""
    try:
        found = np.load(path, allow_pickle=False)
        columns = {name: found[name] for name in found.files} if hasattr(found, "files") else {"": found}
    except (ValueError, OSError, EOFError) as error:
        reason = "it holds Python objects" if "pickle" in str(error) else str(error).split("\n")[0]
        raise InputError(f"{str(path)!r} holds no arrays ({reason:.120})") from None
    out = {}
    for name, array in columns.items():
        fields = array.dtype.names or ()
        out.update({field: array[field] for field in fields} if fields else {name: array})
    for name, array in out.items():
        if array.ndim not in (1, 2):
            raise InputError(
                f"{str(path)!r}: array {name!r} has shape {array.shape}: use (samples,) or (samples, columns)"
            )
    if len({len(array) for array in out.values()}) != 1:
        raise InputError(
            f"{str(path)!r} holds arrays of {', '.join(str(len(a)) for a in out.values()):.60} rows"
        )
    return out
