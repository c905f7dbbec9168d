"""Read an index where it holds: sealed, of now, and of as many shards as there are commits."""

from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Layer, Split
from probecache.store.format.index import Index, decode_index, index_key, most_bytes, stamp_key
from probecache.store.layout import Shard
from probecache.store.reading.commits import Committed, read_commits
from probecache.store.storage.files import Files, read_piece

_STAMP_BYTES = 256


def read_stamp(files: Files, owner: Split | Layer) -> str:
    """The stamp of the last change; empty where nothing was ever changed."""
    raw = read_piece(files, stamp_key(owner), _STAMP_BYTES)
    return raw.decode(errors="replace") if isinstance(raw, bytes) else ""


def load_index(files: Files, owner: Split | Layer, listed: bool | None = None) -> Index | None:
    """The index of a split or layer, or None where there is none that holds now.

    listed  also compare it with a listing of the commits, so that what was deleted by hand is missed;
            default where a listing costs nothing. A writer asks for it everywhere
    """
    if not owner.packed:
        return None
    raw, stamp = read_piece(files, index_key(owner), most_bytes(owner)), read_stamp(files, owner)
    try:
        index = decode_index(raw, owner)
    except BadChunk:
        return None
    if index.stamp != stamp:
        return None
    if files.lists_freely if listed is None else listed:
        there = files.names(owner.commits_key)
        if len(there) < owner.geometry.n_shards or not {str(i) for i in range(len(index.words))} <= set(
            there
        ):
            return None
    return index


def indexed_commits(files: Files, owner: Split | Layer, shards: list[Shard], few: int) -> list[Committed]:
    """`read_commits` for a writer: by the index and one listing, where reads are dear and more than `few`."""
    index = load_index(files, owner, listed=True) if len(shards) > few and not files.lists_freely else None
    return list(index.commits(shards)) if index is not None else read_commits(files, owner, shards)
