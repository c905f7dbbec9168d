"""FILE[:KEY], or a pattern of files, as one matrix."""

import glob
import os
import re
from collections.abc import Callable
from pathlib import Path

from probecache.store.errors import InputError
from probecache.store.importing.formats.hdf5 import open_h5
from probecache.store.importing.formats.matlab import open_mat
from probecache.store.importing.formats.matrix import Joined, Matrix
from probecache.store.importing.formats.numpy_files import open_npy, open_npz
from probecache.store.importing.formats.parquet_matrix import open_parquet
from probecache.store.importing.formats.tensors import open_pt, open_safetensors
from probecache.store.importing.formats.zarr_array import open_zarr
from probecache.store.storage.safe_read import require_readable

FORMATS: dict[str, Callable[[Path, str | None], Matrix]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".pt": open_pt,
    ".pth": open_pt,
    ".safetensors": open_safetensors,
    ".h5": open_h5,
    ".hdf5": open_h5,
    ".nc": open_h5,
    ".mat": open_mat,
    ".parquet": open_parquet,
    ".zarr": open_zarr,
}


def open_matrix(text: str, what: str) -> Matrix:
    """The matrix in FILE[:KEY]; files that a pattern names are joined, numbers in their names in order.

    InputError, beginning with `what`, says which file is wrong and how. Nothing is read but headers.
    """
    paths, key = find_files(text, what)
    try:
        parts = [open_file(path, key) for path in paths]
        return parts[0] if len(parts) == 1 else Joined(parts, [repr(str(path)) for path in paths])
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def find_files(text: str, what: str) -> tuple[list[Path], str | None]:
    """The files that FILE[:KEY] names, and the key. A file whose name has a colon is found as it is."""
    text = os.path.expanduser(text)
    for name, key in ((text, None), (text.rpartition(":")[0], text.rpartition(":")[2])):
        if name and os.path.exists(name):
            return [Path(name)], key
        if name and glob.has_magic(name) and (found := glob.glob(name, recursive=True)):
            return [Path(path) for path in sorted(found, key=_in_order)], key
    raise InputError(f"{what}: no file {text!r}")


def _in_order(name: str) -> list[tuple[int, int, str]]:
    """part-2 before part-10."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", name)]


def open_file(path: Path, key: str | None) -> Matrix:
    """The array in one file, under `key` where it holds several; InputError where it is no file to read."""
    require_readable(path, "reading")
    reader = FORMATS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{str(path)!r} is of no known format: allowed {', '.join(FORMATS)}")
    return reader(path, key)
