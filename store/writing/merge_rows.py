"""Labels, identity and status of a shard's rows: shared by all layers of a split, so they must agree."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.errors import FingerprintMismatch, ProbecacheError
from probecache.store.format import chunks
from probecache.store.format.chunks import BadChunk, Pieces
from probecache.store.format.groups import Split
from probecache.store.format.row_object import crcs_of, encode_row_chunks, encode_row_object
from probecache.store.layout import FAILED, OK, Shard
from probecache.store.reading.commits import read_commits
from probecache.store.reading.read_rows import read_rows
from probecache.store.storage.files import Files

Array = np.ndarray[Any, Any]


def merged_rows(
    files: Files, split: Split, s: Shard, labels: Array, names: list[str], status: Array, token: int
) -> tuple[Array, dict[str, Pieces]]:
    """The status that holds, which other layers may have set, and the objects to write, if any.

    FingerprintMismatch if stored labels or identity are others; ProbecacheError if a row that other layers
    hold cannot be read now.
    """
    stored = read_rows(files, split, s)
    if stored is not None:
        old = len(stored[2])
        require_same_rows(files, split, s, stored, labels[:old], names[:old])
        status = status.copy()
        if _other_layers(files, split, s):
            lost = np.flatnonzero((stored[2] == OK) & (status[:old] == FAILED))
            if len(lost):
                raise ProbecacheError(
                    f"row {s.start + lost[0]} ({names[lost[0]]}) of split {split.name!r} failed now "
                    f"({len(lost)} rows in all) but was read when its other layers were stored: make it "
                    "readable and run again"
                )
            status[:old] = np.maximum(status[:old], stored[2])
        if old == s.rows and np.array_equal(status, stored[2]):
            return status, {}
    parts = encode_row_chunks(labels, names, status, split.geometry.shard_rows)
    place = f"{split.name}/{s.index}"
    if split.packed:
        return status, {split.commit_key(s): encode_row_object(place, s.rows, parts, token)}
    items: dict[str, Pieces] = {split.row_key(array, s.index): [raw] for array, raw in parts.items()}
    items[split.commit_key(s)] = [chunks.encode_commit(place, s.rows, crcs_of(parts), token)]
    return status, items


def _other_layers(files: Files, split: Split, s: Shard) -> bool:
    """Whether layers that are not being written hold rows of this shard."""
    others = [name for name in catalog.layer_names(files, split) if name not in s.layers]
    layers = [catalog.read_layer(files, split, name) for name in others]
    commits = [read_commits(files, layer, [s])[0] for layer in layers]
    return any(not isinstance(c, BadChunk) and c[0] > 0 for c in commits)


def require_same_split(
    files: Files, split: Split, labels: Array, names: Callable[[int, int], list[str]]
) -> None:
    """FingerprintMismatch unless the rows that a split holds have these labels and names, as far as they go.

    names  gives those of rows [start, stop)
    """
    for s in split.geometry.shards():
        stored = read_rows(files, split, s)
        count = min(len(stored[0]) if stored else 0, len(labels) - s.start)
        if stored is not None and count > 0:
            head = stored[0][:count], stored[1][:count], stored[2][:count]
            stop = s.start + count
            require_same_rows(files, split, s, head, labels[s.start : stop], names(s.start, stop))


def require_same_rows(
    files: Files,
    split: Split,
    s: Shard,
    stored: tuple[Array, list[str], Array],
    labels: Array,
    names: Sequence[str],
) -> None:
    """FingerprintMismatch names the first row whose label or identity is not the stored one."""
    pairs = ("label", stored[0].tolist(), labels.tolist()), ("sample", stored[1], names)
    for what, old, new in pairs:
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            if a != b:
                raise _mismatch(files, split, s.start + i, what, a, b)


def _mismatch(files: Files, split: Split, row: int, what: str, stored: Any, got: Any) -> FingerprintMismatch:
    """The error for a row whose label or identity is not what the store has."""
    return FingerprintMismatch(
        f"row {row} of split {split.name!r} in {files.url}: {what}: stored {stored!r:.120}, asked "
        f"{got!r:.120} "
        "(use the data that the split was made from, or another split name)"
    )
