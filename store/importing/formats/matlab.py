""".mat of MATLAB: up to version 7 by scipy, whole; 7.3, which is HDF5, by rows."""

from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError, first_line
from probecache.store.importing.formats.matrix import Matrix, missing_library, pick

Array = np.ndarray[Any, Any]
_HDF5 = b"MATLAB 7.3"  # how the first bytes of such a file begin
_NO_MATRIX = ("sparse", "struct", "object", "function", "opaque", "unknown")  # kinds that are not read


class _Columns:
    """A matrix of HDF5 that MATLAB wrote: its axes are the other way round."""

    def __init__(self, dataset: Any) -> None:
        self._dataset, self.shape, self.dtype = dataset, dataset.shape[::-1], dataset.dtype

    def __getitem__(self, rows: slice) -> Array:
        return np.ascontiguousarray(np.asarray(self._dataset[..., rows]).T)


def open_mat(path: Path, key: str | None) -> Matrix:
    """A variable of numbers as a matrix; one of a single row or column, or of texts, as (samples,).

    Numbers of a vector that are all whole are integers, since MATLAB's are doubles unless told otherwise.
    """
    where = repr(str(path))
    with path.open("rb") as file:
        newest = file.read(len(_HDF5)) == _HDF5
    found = _open_hdf5(path, key, where) if newest else _load(path, key, where)
    if len(found.shape) != 2 or 1 not in found.shape:
        return found
    vector = np.asarray(found[slice(0, found.shape[0])]).ravel()
    if vector.dtype.kind == "O":
        return _texts(vector, where)
    whole = vector.dtype.kind == "f" and np.array_equal(vector, np.round(vector))
    if whole and np.abs(vector).max(initial=0) < 1 << 53:
        return vector.astype(np.int64)
    return vector


def _load(path: Path, key: str | None, where: str) -> Matrix:
    import scipy.io

    try:
        held = {name: kind for name, _, kind in scipy.io.whosmat(path)}
        name = pick(list(held), key, where, "variable")
        if held[name] in _NO_MATRIX:
            raise InputError(f"{where}: {name} is {held[name]}: save it as a full matrix of numbers")
        found: Array = scipy.io.loadmat(path, variable_names=[name])[name]
    except InputError:
        raise
    except Exception as error:  # bytes of another kind make the reader fail in any way
        raise InputError(f"{where} is no MATLAB file ({first_line(error):.120})") from None
    return found


def _open_hdf5(path: Path, key: str | None, where: str) -> Matrix:
    try:
        import h5py
    except ImportError:
        raise missing_library(where, "h5py") from None
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{where} is no MATLAB file ({first_line(error):.120})") from None
    name = pick([name for name in file if not name.startswith("#")], key, where, "variable")
    found, kind = file[name], file[name].attrs.get("MATLAB_class", b"").decode()
    if not isinstance(found, h5py.Dataset) or kind in ("cell", "char") or "MATLAB_empty" in found.attrs:
        raise InputError(f"{where}: {name} is {kind or 'a group'}: save it as a full matrix of numbers")
    return _Columns(found)


def _texts(cells: Array, where: str) -> Array:
    """A cell array of texts."""
    texts = [str(cell[0]) if np.shape(cell) == (1,) else "" if not np.size(cell) else None for cell in cells]
    if None in texts:
        raise InputError(f"{where} holds cells that are no text: save numbers, or one text a row")
    return np.array(texts, object)
