"""Read labels, identity and status of shards' rows, each checked against their commit."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from probecache.store.format import row_object
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Split
from probecache.store.layout import NAME_BYTES, ROW_ARRAYS, Shard
from probecache.store.reading.commits import Raw, Vouched, read_commits
from probecache.store.storage.files import Files

Array = np.ndarray[Any, Any]
Rows = tuple[Array, list[str], Array]
_BYTES_AT_ONCE = 32 << 20


def read_rows(files: Files, split: Split, shard: Shard) -> Rows | None:
    """Labels, identity and status of a shard's committed rows; None if they are not committed or damaged."""
    committed = read_commits(files, split, [shard])[0]
    if isinstance(committed, BadChunk) or not committed[0]:
        return None
    try:
        return decode_rows(files, split, shard, committed)
    except BadChunk:
        return None


def decode_rows(
    files: Files, split: Split, shard: Shard, committed: tuple[int, Array], raw: Raw = None
) -> Rows:
    """Labels, identity and status of the committed rows of a shard.

    raw  the object that holds them, where it is known. BadChunk names the array that is damaged.
    """
    if raw is not None and split.packed:
        full = split.geometry.shard_rows
        return row_object.decode_row_chunks(
            row_object.split_row_object(raw, full), committed[1], committed[0], full
        )
    rows = next(decode_many(files, split, [(shard, *committed)]))
    if isinstance(rows, BadChunk):
        raise rows
    return rows


def decode_many(
    files: Files, split: Split, found: Sequence[Vouched], names: bool = True
) -> Iterator[Rows | BadChunk]:
    """`decode_rows` of each shard in order, its BadChunk in its place; read many at once, few in memory.

    names  whether identity is wanted
    """
    full = split.geometry.shard_rows
    most = row_object.most_bytes(full) if split.packed else full * (4 + NAME_BYTES) + 8
    step = max(1, _BYTES_AT_ONCE // (full * 64))
    wanted = [array for array in ROW_ARRAYS if names or array != "sample"]
    arrays = ["commit"] if split.packed else wanted
    for at in range(0, len(found), step):
        some = found[at : at + step]
        if split.packed:
            keys = [split.commit_key(shard) for shard, _, _ in some]
        else:
            keys = [split.row_key(array, shard.index) for shard, _, _ in some for array in arrays]
        raws = iter(files.read_many(keys, most))
        for _, rows, crcs in some:
            mine = [next(raws) for _ in arrays]
            try:
                if split.packed:
                    whole = row_object.split_row_object(mine[0], full)
                    parts: Any = {array: whole[array] for array in wanted}
                else:
                    parts = dict(zip(arrays, mine, strict=True))
                yield row_object.decode_row_chunks(parts, crcs, rows, full)
            except BadChunk as error:
                yield error
