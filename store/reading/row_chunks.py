"""The chunks of `label`, `sample`, `status` and `commit` that many shards share, made of their objects."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from probecache.store.format import chunks, row_object
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Split
from probecache.store.format.index import Index
from probecache.store.layout import MISSING, NAME_BYTES, ROW_ARRAYS, Shard
from probecache.store.reading.commits import Vouched, damaged, read_objects
from probecache.store.reading.read_rows import Rows, decode_many, decode_rows
from probecache.store.storage.files import Files

Array = np.ndarray[Any, Any]
CHUNKED = (*ROW_ARRAYS, "commit")


def row_chunk_shards(split: Split) -> list[list[Shard]]:
    """The shards of each row chunk."""
    shards, step = list(split.geometry.shards()), split.row_shards
    return [shards[at : at + step] for at in range(0, len(shards), step)]


def encode_row_chunk(
    files: Files, split: Split, shards: list[Shard], words: Sequence[tuple[int, Array]]
) -> dict[str, bytes]:
    """The chunk that `shards` share of each of CHUNKED; DamagedStore if a shard is damaged."""
    rows = split.row_shards * split.geometry.shard_rows
    labels, names, states = [], [], []
    table = np.zeros((split.row_shards, 2 + split.n_words), np.uint64)
    objects = read_objects(files, split, shards)
    for s, row, committed, (_, raw) in zip(shards, table, words, objects, strict=False):
        try:
            if not isinstance(raw, bytes):
                raise raw or BadChunk("commit: its file is missing")
            part = decode_rows(files, split, s, committed, raw)
        except BadChunk as error:
            raise damaged(files, split, s, str(error)) from None
        labels.append(part[0])
        names += part[1]
        states.append(part[2])
        row[:] = np.frombuffer(raw, "<u8", len(row))
    parts = row_object.encode_row_chunks(np.concatenate(labels), names, np.concatenate(states), rows)
    return {**parts, "commit": chunks.sealed(table.astype("<u8").tobytes())[0]}


def read_row_arrays(
    files: Files, split: Split, found: Sequence[Vouched], index: Index | None, names: bool
) -> tuple[Array, list[str], Array]:
    """Labels (-1 where missing), identity where `names` are wanted, and states of all rows of a split."""
    n = split.geometry.n_samples
    labels, status = np.full(n, -1, np.int64), np.full(n, MISSING, np.uint8)
    texts = [""] * n
    for start, part in _rows_of(files, split, found, index, names):
        at = slice(start, start + len(part[0]))
        labels[at], status[at] = part[0], part[2]
        if names:
            texts[at] = part[1]
    return labels, texts, status


def _rows_of(
    files: Files, split: Split, found: Sequence[Vouched], index: Index | None, names: bool
) -> Iterator[tuple[int, Rows]]:
    """(first row, rows) of the committed shards, from the row chunks where `index` vouches for them.

    names: whether identity is wanted. Where a chunk is not as it says, the shards' own objects are read: they
    are the truth. DamagedStore.
    """
    if index is not None and (parts := _row_chunks(files, split, index, names)) is not None:
        yield from parts
        return
    there = [one for one in found if one[1]]
    for (s, _, _), part in zip(there, decode_many(files, split, there, names), strict=True):
        if isinstance(part, BadChunk):
            raise damaged(files, split, s, str(part))
        yield s.start, part


def _row_chunks(files: Files, split: Split, index: Index, names: bool) -> list[tuple[int, Rows]] | None:
    groups = row_chunk_shards(split)
    wanted = [array for array in ROW_ARRAYS if names or array != "sample"]
    if any(len(index.row_chunks.get(array, ())) != len(groups) for array in ROW_ARRAYS):
        return None
    full = split.row_shards * split.geometry.shard_rows
    keys = [split.row_key(array, k) for k in range(len(groups)) for array in wanted]
    raws = iter(files.read_many(keys, full * (4 + NAME_BYTES) + 8))
    out = []
    for k, shards in enumerate(groups):
        start, rows = shards[0].start, shards[-1].stop - shards[0].start
        crcs = [index.row_chunks[array][k] for array in ROW_ARRAYS]
        try:
            parts = {array: next(raws) for array in wanted}
            out.append((start, row_object.decode_row_chunks(parts, crcs, rows, full)))
        except BadChunk:
            return None
    return out
