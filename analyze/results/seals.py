"""Seals: a 64-bit hash of a probe's values in its place, so that swapped and stale chunks are seen.

    seal = mix(place + sum_i mix(value_i + K_i))        place = mix of the sweep's settings and coordinates

with values as their bits and the finaliser of splitmix64 for `mix`. A checksum sees bits that changed; a
seal also sees a chunk that is whole but lies in another's place, or is older than the rest of its probe.
A row of a wide variable has a seal of its own, which is one of the values.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from probecache.analyze.results.grid import Grid
from probecache.analyze.sweeps.plan import DIMS
from probecache.store.fingerprint import canonical

Array = np.ndarray[Any, Any]
_STEP, _A, _B = (np.uint64(v) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_STRIP = 2**21  # values that are hashed at a time


def mix(x: Array) -> Array:
    """The finaliser of splitmix64, on uint64."""
    x = (x ^ (x >> np.uint64(30))) * _A
    x = (x ^ (x >> np.uint64(27))) * _B
    return x ^ (x >> np.uint64(31))


def _words(values: Array) -> Array:
    """The bits of values as uint64, so that -0.0 and 0.0, or two NaN, differ where their bits do."""
    if values.dtype.kind == "b" or values.dtype.itemsize < 4:
        return values.astype(np.int64).view(np.uint64)
    return values.view(f"u{values.dtype.itemsize}").astype(np.uint64)


def row_seals(rows: Array, axes: int = 1) -> Array:
    """A hash of each row along the last axis, or the last `axes`, uint64, never 0."""
    shape, width = rows.shape[:-axes], math.prod(rows.shape[-axes:])
    flat = np.ascontiguousarray(rows).reshape(-1, width)
    keys = mix(np.arange(1, width + 1, dtype=np.uint64) * _STEP)
    found = np.empty(len(flat), np.uint64)
    step = max(1, _STRIP // max(1, width))
    for at in range(0, len(flat), step):
        found[at : at + step] = mix(_words(flat[at : at + step]) + keys).sum(axis=-1, dtype=np.uint64)
    return _nonzero(mix(found)).reshape(shape)


def probe_seals(place: Array, values: Mapping[str, Array]) -> Array:
    """The seal of each probe; place as `places` gives it, values over the same axes, seals excluded."""
    total = place.copy()
    for name in sorted(values):
        key = np.uint64(int.from_bytes(_hash(name), "little"))
        total += mix(_words(values[name]) + key)
    return _nonzero(mix(total))


def places(grid: Grid, settings: Mapping[str, Any], permutation_seals: Array) -> Array:
    """uint64 over the grid: a hash of what each probe is, before any value.

    permutation_seals: uint64 (layer, seed), hashes of the column orders that RESULTS hold.
    """
    digests = settings["digests"]
    fixed = {name: value for name, value in settings.items() if name != "digests"}
    total = np.full(grid.shape, int.from_bytes(_hash(canonical(fixed)), "little"), np.uint64)
    for axis, dim in enumerate(DIMS):
        prefix = "target:" if dim == "target" else ""
        names = [f"{dim}\0{v!r}\0{digests.get(f'{prefix}{v}', '')}" for v in getattr(grid, dim)]
        line = np.array([int.from_bytes(_hash(name), "little") for name in names], np.uint64)
        total += mix(line).reshape([-1 if i == axis else 1 for i in range(len(DIMS))])
    layer, seed = DIMS.index("layer"), DIMS.index("seed")
    shape = [grid.shape[i] if i in (layer, seed) else 1 for i in range(len(DIMS))]
    return mix(total + mix(permutation_seals).reshape(shape))


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()


def _nonzero(seals: Array) -> Array:
    seals[seals == 0] = 1  # 0 says that there is no seal
    return seals
