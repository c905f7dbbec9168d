""".zarr of version 2 or 3: an array, read by rows."""

from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError, first_line
from probecache.store.importing.formats.matrix import Matrix, pick, require_all_there, require_unpacked
from probecache.store.layout import DTYPES

Array = np.ndarray[Any, Any]


class _Bits:
    """A store's own bfloat16: uint16 in zarr, which has none."""

    def __init__(self, array: Any) -> None:
        self._array, self.shape, self.dtype = array, array.shape, DTYPES["bfloat16"]

    def __getitem__(self, rows: slice) -> Array:
        return np.asarray(self._array[rows]).view(self.dtype)


def open_zarr(path: Path, key: str | None) -> Matrix:
    import zarr

    try:
        node = zarr.open(str(path), mode="r")
        if isinstance(node, zarr.Group):
            if key is None:
                names = [
                    name for name, found in node.members(max_depth=None) if isinstance(found, zarr.Array)
                ]
                key = pick(names, None, repr(str(path)))
            found: Any = node.get(key)
        else:
            found = node if key is None else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r} is no zarr array or group ({first_line(error):.120})") from None
    if not isinstance(found, zarr.Array):
        raise InputError(f"{str(path)!r} has no array {key!r:.80}")
    where = f"{str(path)!r}: {found.path}"
    said = dict(found.attrs)
    if "_ARRAY_DIMENSIONS" in said and found.fill_value and found.dtype.kind in "fiu":
        said = {"_FillValue": found.fill_value} | said  # as xarray keeps it in version 2
    require_unpacked(said, where)
    require_all_there(found, said, where)  # type: ignore[arg-type]
    bits = found.dtype == np.uint16 and found.attrs.get("dtype") == "bfloat16"
    return _Bits(found) if bits else found  # type: ignore[return-value]
