""".npy and .npz as tables: an array is a column; fields and the arrays of an archive are several."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError, first_line
from probecache.store.importing.tables.columns import Columns

Array = np.ndarray[Any, Any]


def read_arrays(path: Path, encoding: str | None = None) -> Mapping[str, Any]:
    """Columns of a .npy or .npz, those of an archive read when they are asked for; one plain array is the
    column "". Never unpickled."""
    try:
        found = np.load(path, allow_pickle=False)
        if not hasattr(found, "files"):
            kinds = {"": (found.shape, found.dtype)}
        else:
            with zipfile.ZipFile(path) as archive:
                kinds = {name: _kind(archive, name) for name in found.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise _no_arrays(path, error) from None
    for name, (shape, _) in kinds.items():
        if len(shape) not in (1, 2):
            raise InputError(
                f"{str(path)!r}: array {name!r} has shape {shape}: use (samples,) or (samples, columns)"
            )
    if len({shape[0] for shape, _ in kinds.values()}) != 1:
        raise InputError(
            f"{str(path)!r} holds arrays of {', '.join(str(s[0]) for s, _ in kinds.values()):.60} rows"
        )
    # where each column lies: its array, and its field of it
    places: dict[str, tuple[str, str | None]] = {}
    for name, (_, dtype) in kinds.items():
        places |= {field: (name, field) for field in dtype.names} if dtype.names else {name: (name, None)}

    def read(column: str) -> Array:
        name, field = places[column]
        try:
            array = found[name] if hasattr(found, "files") else found
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise _no_arrays(path, error) from None
        return array if field is None else array[field]

    return Columns(list(places), read)


def _kind(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array of an archive, from its header."""
    member = f"{name}.npy" if f"{name}.npy" in archive.namelist() else name
    with archive.open(member) as file:
        header = np.lib.format.read_magic(file)
        reader = (
            np.lib.format.read_array_header_1_0 if header == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = reader(file)
    if dtype.hasobject:
        raise ValueError("pickled objects")
    return shape, dtype


def _no_arrays(path: Path, error: Exception) -> InputError:
    reason = "it holds Python objects" if "pickle" in str(error) else first_line(error)
    return InputError(f"{str(path)!r} holds no arrays ({reason:.120})")
