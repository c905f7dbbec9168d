""".h5, and netCDF 4, which is HDF5: a dataset, read by rows."""

from pathlib import Path
from typing import Any

from probecache.store.errors import InputError, first_line
from probecache.store.importing.formats.matrix import (
    Matrix,
    missing_library,
    pick,
    require_all_there,
    require_unpacked,
)


def open_h5(path: Path, key: str | None) -> Matrix:
    try:
        import h5py
    except ImportError:
        raise missing_library(repr(str(path)), "h5py") from None
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        old = path.suffix.lower() == ".nc"
        todo = "; of netCDF only version 4 is: write it so, or open it with xarray" if old else ""
        raise InputError(f"{str(path)!r} is no HDF5 file ({first_line(error):.120}){todo}") from None
    names: list[str] = []

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            names.append(name)

    file.visititems(visit)
    found: Matrix = file[pick(names, None if key is None else key.strip("/"), repr(str(path)), "dataset")]
    attributes, where = found.attrs, f"{str(path)!r}: {found.name}"  # type: ignore[attr-defined]
    require_unpacked(attributes, where)
    require_all_there(found, attributes, where)
    if found.dtype.kind == "O" and h5py.check_string_dtype(found.dtype) is not None:
        return found.asstr()[()]  # type: ignore[attr-defined]  # labels: as many texts as rows
    return found
