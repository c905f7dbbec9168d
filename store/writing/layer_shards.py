"""A layer's shards as objects to write, and its end: their moments merged, once every shard is committed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from probecache.store.catalog import Layer
from probecache.store.errors import InputError, ProbecacheError
from probecache.store.format import chunks, metadata, moments, shard_format
from probecache.store.format.chunks import Pieces
from probecache.store.layout import DTYPES, OK, Shard
from probecache.store.reading.commits import merged_moments
from probecache.store.storage.files import Files

Array = np.ndarray[Any, Any]


def encode_layer(
    layer: Layer, s: Shard, values: Array, status: Array, allow_saturated: bool, token: int = 0
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
    pieces, crcs = shard_format.encode(np.ascontiguousarray(stored), form)
    raw, partial_crc = chunks.sealed(statistics.astype("<f8").tobytes())
    words = chunks.encode_commit(f"{layer.key}/{s.index}", s.rows, [partial_crc, *crcs], token)
    return {layer.shard_key(s): pieces, layer.partial_key(s): [raw]}, {layer.commit_key(s): [words]}


def cast_rows(values: Array, dtype: str) -> Array:
    """`values` in the stored dtype; overflow becomes infinite, and is counted by the moments."""
    if values.dtype.kind not in "fiu" and values.dtype != DTYPES["bfloat16"]:
        raise InputError(f"activations are {values.dtype}: numbers are allowed")
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(DTYPES[dtype], copy=False)


def finish_layer(files: Files, layer: Layer, summary: Mapping[str, Any]) -> bool:
    """Merge a layer's partial moments in shard order, if every shard is committed; whether it is."""
    total = merged_moments(files, layer)
    if total is None:
        return False
    items = {
        f"{layer.key}/{name}/c/0": [chunks.sealed(values.astype("<f8").tobytes())[0]]
        for name, values in moments.summary(total).items()
    }
    report = {
        **layer.report,
        "nonfinite": int(total[6].sum()),
        "saturated": int(total[7].sum()),
        **({"summary": dict(summary)} if summary else {}),
    }
    done = replace(layer, complete=layer.geometry.n_samples, report=report)
    items[f"{layer.key}/zarr.json"] = [metadata.render(metadata.group_document(done.attributes()))]
    files.write(items)
    return True
