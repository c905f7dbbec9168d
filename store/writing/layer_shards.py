"""A layer's shards as objects to write, and its end: their moments merged, once every shard is committed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from probecache.store.format import chunks, metadata, moments, shard_format
from probecache.store.format.chunks import Pieces
from probecache.store.format.groups import Layer
from probecache.store.layout import OK, Shard
from probecache.store.reading.commits import merged_moments
from probecache.store.storage.files import Files
from probecache.store.writing.cast import cast_rows, refuse_losses, underflow

Array = np.ndarray[Any, Any]


def encode_layer(
    layer: Layer,
    s: Shard,
    values: Array,
    status: Array,
    allow_saturated: bool,
    token: int = 0,
    known: Array | None = None,
) -> tuple[dict[str, Pieces], dict[str, Pieces]]:
    """The objects of a layer's shard, and the commit that vouches for them.

    values  (rows, neurons), cast to the stored dtype; rows whose `status` is not OK are stored as NaN
    known   the statistics of the rows that are OK, of values that are of the stored dtype

    ProbecacheError if a float16 layer would hold saturated or non-finite values and that is not allowed.
    """
    cast, spec = cast_rows(values, layer.spec.dtype), layer.spec
    ok = status == OK
    if not ok.all():
        cast = cast.copy() if np.shares_memory(cast, values) else cast
        cast[~ok] = np.nan
    given, lost = values if ok.all() else values[ok], 0
    if known is None or values.dtype != cast.dtype:
        statistics = moments.partial(cast if ok.all() else cast[ok])
        statistics[moments.UNDERFLOW], lost = underflow(given, cast if ok.all() else cast[ok])
    else:
        statistics = known
    if not allow_saturated:
        nonfinite, saturated, vanished = (int(row.sum()) for row in statistics[moments.NONFINITE :])
        beyond = nonfinite + (saturated if spec.dtype == "float16" else 0)
        if beyond and spec.dtype != "float16":  # what was infinite or NaN before may stay so
            beyond -= int((~np.isfinite(given)).sum())
        where = f"layer {spec.name!r}, rows {s.start}:{s.stop} of split {layer.split!r}"
        refuse_losses(where, spec.dtype, (nonfinite, saturated, vanished), beyond, lost, spec.neurons)
    form = layer.form
    stored = cast.view(np.uint16) if spec.dtype == "bfloat16" else cast
    pieces, crcs = shard_format.encode(np.ascontiguousarray(stored), form)
    raw, partial_crc = chunks.sealed(statistics[: layer.n_statistics].astype("<f8").tobytes())
    rest = raw[:-4] if layer.packed else b""
    words = chunks.encode_commit(f"{layer.key}/{s.index}", s.rows, [partial_crc, *crcs], token, rest)
    apart: dict[str, Pieces] = {} if layer.packed else {layer.partial_key(s): [raw]}
    return {layer.shard_key(s): pieces, **apart}, {layer.commit_key(s): [words]}


def finish_layer(files: Files, layer: Layer, summary: Mapping[str, Any]) -> list[tuple[int, Array]] | None:
    """Merge a layer's partial moments in shard order, if every shard is committed; what the commits say."""
    merged = merged_moments(files, layer)
    if merged is None:
        return None
    total, words = merged
    items = {
        f"{layer.key}/{name}/c/0": [chunks.sealed(values.astype("<f8").tobytes())[0]]
        for name, values in moments.summary(total).items()
    }
    report = {
        **layer.report,
        **moments.counts(total, layer.n_statistics),
        **({"summary": dict(summary)} if summary else {}),
    }
    done = replace(layer, complete=layer.geometry.n_samples, report=report)
    items[f"{layer.key}/zarr.json"] = [metadata.render(metadata.group_document(done.attributes()))]
    files.write(items)
    return words
