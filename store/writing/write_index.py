"""Write what follows from a finished split's commits: its index, and the row arrays that zarr reads.

Neither is needed for the store to be whole. A run that dies before they are written leaves commits that are
read one by one; the same command, the next writer or `repair` writes them.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.format import index
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Layer, Split
from probecache.store.format.index import Index
from probecache.store.reading.commits import read_commits
from probecache.store.reading.read_index import load_index, read_stamp
from probecache.store.reading.row_chunks import CHUNKED, encode_row_chunk, row_chunk_shards
from probecache.store.storage.files import Files, read_piece
from probecache.store.storage.writer_identity import mark

Array = np.ndarray[Any, Any]
Words = list[tuple[int, Array]]
Owner = Split | Layer


def touch(files: Files, owners: Iterable[Owner]) -> dict[str, str]:
    """A new stamp for each owner: from now on no index holds that was made before. The stamps, by key."""
    stamps = {index.stamp_key(owner): mark() for owner in owners if owner.packed}
    if stamps:
        files.write({key: [stamp.encode()] for key, stamp in stamps.items()})
    return stamps


def write_indexes(
    files: Files, split: Split, known: dict[str, tuple[str, Words]] | None = None, force: bool = False
) -> None:
    """Write each index, of the split and its finished layers, that does not hold now.

    known  a layer's commits as they were just read, by its key, with the stamp from before that
    force  where one holds too, and every row chunk

    Nothing is written while another writer is at work in the split: the last one to close does it.
    """
    if not split.packed or split.streaming:
        return
    layers = [catalog.read_layer(files, split, name) for name in catalog.layer_names(files, split)]
    whole = [layer for layer in layers if layer.complete == split.geometry.n_samples]
    owners: list[Owner] = [split, *whole]
    for owner in owners if whole else []:
        if not force and load_index(files, owner) is not None:
            continue
        stamp, words = (known or {}).get(owner.key) or (read_stamp(files, owner), _whole(files, owner))
        if words is None:
            continue
        crcs = _write_row_chunks(files, owner, words, force) if isinstance(owner, Split) else {}
        made = index.encode_index(owner, Index(stamp, index.table(words), crcs))
        if len(made) <= index.MOST_BYTES and not _others(files, split):
            files.write({index.index_key(owner): [made]})


def _write_row_chunks(files: Files, split: Split, words: Words, force: bool) -> dict[str, list[int]]:
    """Write the row chunks; those whose shards an earlier index saw as they are stay. Their crc32c."""
    before = None if force else _earlier(files, split)
    crcs: dict[str, list[int]] = {array: [] for array in CHUNKED}
    for k, shards in enumerate(row_chunk_shards(split)):
        mine = words[shards[0].index : shards[-1].index + 1]
        same = before is not None and len(before.words) > shards[-1].index
        if same and before is not None:
            same = np.array_equal(before.words[shards[0].index : shards[-1].index + 1], index.table(mine))
        if same and before is not None:
            for array in CHUNKED:
                crcs[array].append(before.row_chunks[array][k])
            continue
        parts = encode_row_chunk(files, split, shards, mine)
        files.write({split.row_key(array, k): [parts[array]] for array in CHUNKED})
        for array in CHUNKED:
            crcs[array].append(int.from_bytes(parts[array][-4:], "little"))
    return crcs


def _earlier(files: Files, split: Split) -> Index | None:
    """An index of the split in an earlier state, of fewer samples perhaps; None if there is none."""
    raw = read_piece(files, index.index_key(split), index.most_bytes(split))
    try:
        found = index.decode_earlier(raw, split)
    except BadChunk:
        return None
    return found if set(found.row_chunks) == set(CHUNKED) else None


def _whole(files: Files, owner: Owner) -> Words | None:
    """The commits of every shard; None unless all are there and whole."""
    shards = list(owner.geometry.shards())
    out: Words = []
    for s, committed in zip(shards, read_commits(files, owner, shards), strict=True):
        if isinstance(committed, BadChunk) or committed[0] < s.rows:
            return None
        out.append(committed)
    return out


def _others(files: Files, split: Split) -> bool:
    """Whether any claim or lease lies in the split, of the living or the dead."""
    return any(name.startswith(("claim-", "lease-")) for name in files.names(f"{split.name}/commit"))
