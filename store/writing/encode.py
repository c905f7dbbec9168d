"""A shard of one layer as the objects to write: values in the stored dtype, their moments, the commit."""

from typing import Any

import numpy as np

from probecache.store.catalog import Layer
from probecache.store.errors import InputError, ProbecacheError
from probecache.store.format import chunks, commit, moments
from probecache.store.format import shard_format as shard
from probecache.store.format.pieces import Pieces
from probecache.store.layout import DTYPES, OK, Shard

Array = np.ndarray[Any, Any]


def encode_layer(
    layer: Layer, s: Shard, values: Array, status: Array, allow_saturated: bool
) -> tuple[dict[str, Pieces], dict[str, Pieces]]:
    """The objects of a layer's shard, and the commit that vouches for them.

    values  (rows, neurons), cast to the stored dtype; rows whose `status` is not OK are stored as NaN

    ProbecacheError if a float16 layer would hold saturated or non-finite values and that is not allowed.
    """
    cast, spec = cast_rows(values, layer.spec.dtype), layer.spec
    ok = status == OK
    if not ok.all():
        cast = cast.copy() if np.shares_memory(cast, values) else cast
        cast[~ok] = np.nan
    statistics = moments.partial(cast if ok.all() else cast[ok])
    nonfinite, saturated = int(statistics[6].sum()), int(statistics[7].sum())
    if spec.dtype == "float16" and (nonfinite or saturated) and not allow_saturated:
        raise ProbecacheError(
            f"layer {spec.name!r}, rows {s.start}:{s.stop} of split {layer.split!r}: "
            f"{nonfinite} non-finite and "
            f"{saturated} values at or beyond float16's 65504: store as --dtype bfloat16 or float32, "
            "or allow it with --allow-saturated"
        )
    form = layer.form
    stored = cast.view(np.uint16) if spec.dtype == "bfloat16" else cast
    pieces, crcs = shard.encode(np.ascontiguousarray(stored), form)
    raw, partial_crc = chunks.sealed(statistics.astype("<f8").tobytes())
    words = commit.encode(f"{layer.key}/{s.index}", s.rows, [partial_crc, *crcs])
    return {layer.shard_key(s): pieces, layer.partial_key(s): [raw]}, {layer.commit_key(s): [words]}


def cast_rows(values: Array, dtype: str) -> Array:
    """`values` in the stored dtype; overflow becomes infinite, and is counted by the moments."""
    if values.dtype.kind not in "fiu" and values.dtype != DTYPES["bfloat16"]:
        raise InputError(f"activations are {values.dtype}: numbers are allowed")
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(DTYPES[dtype], copy=False)
