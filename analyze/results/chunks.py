"""Chunks of RESULTS: little-endian values, zstd, crc32c, as any reader of Zarr v3 opens them."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numcodecs.zstd import compress, decompress

from probecache.analyze.results.grid import Grid, Variable
from probecache.store.format.chunks import BadChunk, decode_text, encode_text, sealed, unsealed
from probecache.store.storage.files import Files

Array = np.ndarray[Any, Any]
Index = tuple[int, ...]


def encode(values: Array) -> bytes:
    """The bytes of a chunk."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return sealed(compress(little.tobytes(), 1))[0]


def decode(raw: bytes, dtype: str, shape: Index) -> Array:
    """The values of a chunk; BadChunk where the bytes are not what was written."""
    payload, _ = unsealed(raw)
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        data = bytes(decompress(payload))
    except (RuntimeError, ValueError) as error:
        raise BadChunk(f"it is no zstd: {error}") from None
    if len(data) != n_bytes:
        raise BadChunk(f"it holds {len(data)} bytes instead of {n_bytes}")
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype)


def encode_names(values: tuple[str, ...]) -> bytes:
    return sealed(encode_text(values, len(values)))[0]


def decode_names(raw: bytes, count: int) -> list[str]:
    return decode_text(unsealed(raw)[0], count)


def key_of(name: str, index: Index) -> str:
    return f"{name}/c/{'/'.join(map(str, index))}"


def read_chunk(files: Files, grid: Grid, variable: Variable, index: Index) -> Array:
    """One chunk, of fill values where there is none yet; BadChunk."""
    raw, shape = files.read(key_of(variable.name, index)), grid.chunk_of(variable)
    if raw is None:
        return np.full(shape, variable.fill, variable.dtype)
    return decode(raw, variable.dtype, shape)


def chunk_indices(grid: Grid, variable: Variable) -> Iterator[Index]:
    counts = (-(-n // c) for n, c in zip(grid.shape_of(variable), grid.chunk_of(variable), strict=True))
    return itertools.product(*map(range, counts))


def place_of(grid: Grid, variable: Variable, index: Index) -> tuple[slice, ...]:
    """Where in the whole array a chunk's values lie, those beyond its end left out."""
    sizes = zip(index, grid.shape_of(variable), grid.chunk_of(variable), strict=True)
    return tuple(slice(i * c, min((i + 1) * c, n)) for i, n, c in sizes)


def inside(place: tuple[slice, ...]) -> tuple[slice, ...]:
    """The part of a chunk that `place` takes."""
    return tuple(slice(0, part.stop - part.start) for part in place)


def read_array(
    files: Files, grid: Grid, variable: Variable, laid_out: bool = False
) -> tuple[Array, dict[Index, str]]:
    """A variable over the whole grid, and why each chunk that cannot be read is bad; fill values there.

    laid_out: every chunk was written when RESULTS were made, so that a missing one is bad too.
    """
    whole = np.full(grid.shape_of(variable), variable.fill, variable.dtype)
    bad: dict[Index, str] = {}
    for index in chunk_indices(grid, variable):
        place = place_of(grid, variable, index)
        try:
            if laid_out and files.size(key_of(variable.name, index)) is None:
                raise BadChunk("its file is missing")
            whole[place] = read_chunk(files, grid, variable, index)[inside(place)]
        except (ValueError, OSError) as error:  # a BadChunk, or the refusal of a link
            bad[index] = str(error)
    return whole, bad
