"""A layer's shards as objects to write, and its end: their moments merged, once every shard is committed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from probecache.store.errors import InputError, ProbecacheError
from probecache.store.format import chunks, metadata, moments, shard_format
from probecache.store.format.chunks import Pieces
from probecache.store.format.groups import Layer
from probecache.store.layout import DTYPES, OK, Shard
from probecache.store.reading.commits import merged_moments
from probecache.store.storage.files import Files

Array = np.ndarray[Any, Any]
_LOST = 0.01  # of a layer's neurons may be too small for the stored dtype


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
        statistics[8], lost = underflow(given, cast if ok.all() else cast[ok])
    else:
        statistics = known
    if not allow_saturated:
        beyond = int(statistics[6].sum()) + (int(statistics[7].sum()) if spec.dtype == "float16" else 0)
        if beyond and spec.dtype != "float16":  # what was infinite or NaN before may stay so
            beyond -= int((~np.isfinite(given)).sum())
        where = f"layer {spec.name!r}, rows {s.start}:{s.stop} of split {layer.split!r}"
        _refuse(where, spec.dtype, statistics[6:].sum(axis=1), beyond, lost, spec.neurons)
    form = layer.form
    stored = cast.view(np.uint16) if spec.dtype == "bfloat16" else cast
    pieces, crcs = shard_format.encode(np.ascontiguousarray(stored), form)
    raw, partial_crc = chunks.sealed(statistics[: layer.n_statistics].astype("<f8").tobytes())
    rest = raw[:-4] if layer.packed else b""
    words = chunks.encode_commit(f"{layer.key}/{s.index}", s.rows, [partial_crc, *crcs], token, rest)
    apart: dict[str, Pieces] = {} if layer.packed else {layer.partial_key(s): [raw]}
    return {layer.shard_key(s): pieces, **apart}, {layer.commit_key(s): [words]}


def require_fits(values: Array, dtype: str, where: str) -> None:
    """ProbecacheError as `encode_layer` raises it, for rows (rows, neurons) that are about to be written."""
    cast = cast_rows(values, dtype)
    limit = float(ml_dtypes.finfo(cast.dtype).max)
    if dtype == "float16":
        size = cast.view(np.uint16) & 0x7FFF  # numpy's own float16 comparisons take ten times as long
        nonfinite, saturated = int((size >= 0x7C00).sum()), int(((size >= 0x7BFF) & (size <= 0x7C00)).sum())
        beyond = nonfinite + saturated
    else:
        gone = ~np.isfinite(cast.astype(np.float32, copy=False))
        nonfinite, saturated = int(gone.sum()), 0
        beyond = nonfinite - int((~np.isfinite(values)).sum()) if nonfinite and limit else 0
    counts, lost = underflow(values, cast)
    _refuse(where, dtype, np.array([nonfinite, saturated, counts.sum()]), beyond, lost, values.shape[1])


def _refuse(where: str, dtype: str, counts: Array, beyond: int, lost: int, neurons: int) -> None:
    """ProbecacheError for values that the stored dtype does not hold."""
    nonfinite, saturated, vanished = (int(count) for count in counts)
    if lost > _LOST * neurons:
        raise ProbecacheError(
            f"{where}: {vanished} values are too small for {dtype} and became 0, and {lost} of {neurons} "
            "neurons with them: store as --dtype bfloat16 or float32, or scale them, or allow it with "
            "--allow-saturated"
        )
    if beyond > 0 and dtype == "float16":
        raise ProbecacheError(
            f"{where}: {nonfinite} non-finite and {saturated} values at or beyond float16's 65504: store as "
            "--dtype bfloat16 or float32, or allow it with --allow-saturated"
        )
    if beyond > 0:
        raise ProbecacheError(
            f"{where}: {beyond} values are beyond what {dtype} holds: scale them, or allow it with "
            "--allow-saturated"
        )


def underflow(values: Array, cast: Array) -> tuple[Array, int]:
    """Values of each neuron that became 0 in the cast (neurons,), and how many neurons are lost with them.

    A neuron is lost where they were more than a hundredth of the sum of its squares: the small tails of an
    activation function vanish without harm, a neuron that is small altogether does not.
    """
    counts = np.zeros(values.shape[1])
    if values.dtype == cast.dtype or np.count_nonzero(values) == np.count_nonzero(cast):
        return counts, 0
    gone = (values != 0) & (cast == 0)
    counts = gone.sum(axis=0)
    some = np.flatnonzero(counts)
    x = np.nan_to_num(values[:, some].astype(np.float64), posinf=0, neginf=0)
    x /= np.maximum(np.abs(x).max(axis=0), np.finfo(np.float64).tiny)  # so that no square vanishes here
    squares = (x**2).sum(axis=0)
    vanished = (np.where(gone[:, some], x, 0) ** 2).sum(axis=0)
    return counts.astype(np.float64), int((vanished > 0.01 * squares).sum())


def cast_rows(values: Array, dtype: str) -> Array:
    """`values` in the stored dtype; overflow becomes infinite, and is counted by the moments."""
    if values.dtype.kind not in "fiu" and values.dtype != DTYPES["bfloat16"]:
        raise InputError(f"activations are {values.dtype}: numbers are allowed")
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(DTYPES[dtype], copy=False)


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
        "nonfinite": int(total[6].sum()),
        "saturated": int(total[7].sum()),
        **({"underflow": int(total[8].sum())} if layer.n_statistics > 8 else {}),
        **({"summary": dict(summary)} if summary else {}),
    }
    done = replace(layer, complete=layer.geometry.n_samples, report=report)
    items[f"{layer.key}/zarr.json"] = [metadata.render(metadata.group_document(done.attributes()))]
    files.write(items)
    return words
