"""What a stream finds in the store: its whole shards, and whether rows that are given again are theirs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.errors import FingerprintMismatch
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Layer, Split
from probecache.store.layout import OK, Geometry
from probecache.store.reading.commits import read_commits
from probecache.store.reading.read_matrix import read_matrix
from probecache.store.reading.read_rows import read_rows
from probecache.store.storage.files import Files
from probecache.store.streaming.batch import Batch
from probecache.store.streaming.columns import column_array, read_column
from probecache.store.writing.cast import cast_rows

Array = np.ndarray[Any, Any]


def whole_rows(files: Files, split: Split, layers: Sequence[str], geometry: Geometry) -> int:
    """Rows from the first on whose shards are committed in every one of `layers`."""
    if set(layers) - set(catalog.layer_names(files, split)):
        return 0
    owners: list[Split | Layer] = [replace(split, geometry=geometry)]
    owners += [replace(catalog.read_layer(files, split, name), geometry=geometry) for name in layers]
    shards, rows = list(geometry.shards()), 0
    for s, *found in zip(shards, *(read_commits(files, owner, shards) for owner in owners), strict=True):
        if any(isinstance(c, BadChunk) or c[0] < s.rows for c in found):
            break
        rows = s.stop
    return rows


def require_same(files: Files, split: Split, done: int, batch: Batch, at: int) -> None:
    """FingerprintMismatch unless rows [at, at + rows) of `done` that are stored are those of a batch."""
    if not batch.rows:
        return
    geometry = Geometry(done, split.geometry.shard_rows)
    split = replace(split, geometry=geometry)

    def compare(what: str, other: Array, low: int) -> None:
        if other.any():
            raise FingerprintMismatch(
                f"{what} of row {low + int(np.flatnonzero(other)[0])} of split {split.name!r} in {files.url} "
                f"is not the stored one: go on at row {done} (position), or use another split"
            )

    for shard in geometry.shards((at, at + batch.rows)):
        low, high = max(shard.start, at), min(shard.stop, at + batch.rows)
        part, inside = batch.part(low - at, high - at), slice(low - shard.start, high - shard.start)
        stored = read_rows(files, split, shard)
        if stored is None:
            raise FingerprintMismatch(
                f"rows {shard.start}:{shard.stop} of split {split.name!r} cannot be read"
            )
        if part.labels is not None:
            compare("label", stored[0][inside] != part.labels, low)
        if part.samples is not None:
            other = [a != b for a, b in zip(stored[1][inside], part.samples, strict=True)]
            compare("sample", np.array(other), low)
        for name, given in part.values.items():
            layer = replace(catalog.read_layer(files, split, name), geometry=geometry)
            found = read_commits(files, layer, [shard])[0]
            assert not isinstance(found, BadChunk)
            got = read_matrix(files, layer, [(shard, *found)], (low, high), None)
            cast = np.ascontiguousarray(cast_rows(given, layer.spec.dtype))
            differs = (got.view(np.uint8) != cast.view(np.uint8)).any(axis=1)
            compare(f"layer {name!r}", differs & (stored[2][inside] == OK), low)
        for name, given in part.columns.items():
            kept = read_column(files, split, column_array(split, name), shard)[inside]
            compare(f"column {name!r}", (kept != given) & ~(np.isnan(kept) & np.isnan(given)), low)
