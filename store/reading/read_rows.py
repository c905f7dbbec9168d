"""Read labels, identity and status of a shard's rows, each checked against their commit."""

from typing import Any

import numpy as np

from probecache.store.catalog import Split
from probecache.store.format import chunks
from probecache.store.format.chunks import BadChunk
from probecache.store.layout import NAME_BYTES, ROW_ARRAYS, Shard
from probecache.store.reading.commits import read_commits
from probecache.store.storage.files import Files

Array = np.ndarray[Any, Any]


def read_rows(files: Files, split: Split, shard: Shard) -> tuple[Array, list[str], Array] | None:
    """Labels, identity and status of a shard's committed rows; None if they are not committed or damaged."""
    committed = read_commits(files, split, [shard])[0]
    if isinstance(committed, BadChunk) or not committed[0]:
        return None
    try:
        return decode_rows(files, split, shard, committed)
    except BadChunk:
        return None


def decode_rows(
    files: Files, split: Split, shard: Shard, committed: tuple[int, Array]
) -> tuple[Array, list[str], Array]:
    """Labels, identity and status of the committed rows of a shard.

    BadChunk names the array that is damaged.
    """
    rows, crcs = committed
    full = split.geometry.shard_rows
    sizes = {"label": 8 * full, "sample": None, "status": full}
    most = full * (4 + NAME_BYTES) + 8
    raws = files.read_many([split.row_key(array, shard) for array in ROW_ARRAYS], most)
    payloads = {}
    for array, raw, expected in zip(ROW_ARRAYS, raws, crcs, strict=True):
        try:
            payloads[array], crc = chunks.unsealed(raw, sizes[array])
            if crc != int(expected):
                raise BadChunk("it is not the one that was committed")
        except BadChunk as error:
            raise BadChunk(f"{array}: {error}") from None
    names = chunks.decode_text(payloads["sample"], rows)
    if len(names) != rows:
        raise BadChunk("sample: it holds too few texts")
    labels, status = np.frombuffer(payloads["label"], "<i8"), np.frombuffer(payloads["status"], np.uint8)
    return labels[:rows], names, status[:rows]
