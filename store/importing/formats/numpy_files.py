""".npy, memory-mapped, and .npz, whose arrays are read forward whether compressed or not; never unpickled."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError, first_line
from probecache.store.importing.formats.matrix import Matrix, Sequential, pick

Array = np.ndarray[Any, Any]


def open_npy(path: Path, key: str | None) -> Matrix:
    if key is not None:
        raise InputError(f"{str(path)!r} holds one array: leave :{key} out")
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise _no_numbers(path, error) from None
    if not isinstance(found, np.ndarray):
        held = ", ".join(found.files)
        found.close()
        raise InputError(f"{str(path)!r} is an archive of {held}: call it .npz")
    return found


def open_npz(path: Path, key: str | None) -> Matrix:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
            name = pick(names, key, repr(str(path)))
            with archive.open(f"{name}.npy") as member:
                shape, fortran, dtype = _header(member)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise _no_numbers(path, error) from None
    if dtype.hasobject:
        raise _no_numbers(path, ValueError("pickle"))
    if fortran and len(shape) > 1:
        raise InputError(
            f"{str(path)!r}, array {name!r}: its columns lie one by one: save it as .npy or in C order"
        )
    width = int(np.prod(shape[1:])) * dtype.itemsize

    def start() -> Any:
        member = zipfile.ZipFile(path).open(f"{name}.npy")  # noqa: SIM115  # read on, until all rows are
        _header(member)
        return member

    def take(member: Any, rows: int) -> Array:
        raw = member.read(rows * width)
        if len(raw) != rows * width:
            raise InputError(f"{str(path)!r}, array {name!r}: the file ends early")
        return np.frombuffer(raw, dtype).reshape(rows, *shape[1:])

    return Sequential(shape, dtype, start, take)


def _header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    return np.lib.format.read_array_header_2_0(member)


def _no_numbers(path: Path, error: Exception) -> InputError:
    reason = first_line(error)
    if "pickle" in reason or "Python objects" in reason:  # numpy's advice would run what the file says
        reason = "it is of another format, or holds Python objects"
    return InputError(f"{str(path)!r} is not a {path.suffix} file of numbers ({reason:.120})")
