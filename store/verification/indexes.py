"""What follows from a finished split's commits, byte for byte: indexes and the row arrays that zarr reads."""

from collections.abc import Iterator

from probecache.store import catalog
from probecache.store.errors import DamagedStore, ProbecacheError
from probecache.store.format import index
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Layer, Split
from probecache.store.format.index import Index
from probecache.store.reading.commits import Committed, read_commits
from probecache.store.reading.read_index import read_stamp
from probecache.store.reading.row_chunks import CHUNKED, encode_row_chunk, row_chunk_shards
from probecache.store.storage.files import Files, read_piece
from probecache.store.verification.damage import Damage


def some_layer_is_whole(files: Files, split: Split) -> bool:
    """Whether indexes are there to be: before a layer fills its split none is written."""
    for name in catalog.layer_names(files, split):
        try:
            layer = catalog.read_layer(files, split, name)
        except ProbecacheError:  # its document is damaged, and is named by itself
            continue
        if layer.complete == split.geometry.n_samples:
            return True
    return False


def verify_index(
    files: Files, owner: Split | Layer, known: list[Committed] | None = None
) -> Iterator[Damage]:
    """What is not as the shards say; nothing where a shard is damaged, which is named by itself.

    known  what the shards' commits say, where they were just read
    """

    def damage(piece: str, why: str) -> Damage:
        split, layer = (owner.name, None) if isinstance(owner, Split) else (owner.split, owner.spec.name)
        return Damage("index", split, layer, None, None, piece, why)

    shards = list(owner.geometry.shards())
    words = []
    for s, committed in zip(shards, known or read_commits(files, owner, shards), strict=True):
        if isinstance(committed, BadChunk) or committed[0] < s.rows:
            return
        words.append(committed)
    crcs: dict[str, list[int]] = {}
    if isinstance(owner, Split):
        for k, group in enumerate(row_chunk_shards(owner)):
            try:
                parts = encode_row_chunk(files, owner, group, words[group[0].index : group[-1].index + 1])
            except DamagedStore:
                return
            keys = [owner.row_key(array, k) for array in CHUNKED]
            most = max(map(len, parts.values()))
            for array, key, raw in zip(CHUNKED, keys, files.read_many(keys, most), strict=True):
                crcs.setdefault(array, []).append(int.from_bytes(parts[array][-4:], "little"))
                if raw != parts[array]:
                    why = f": {raw}" if isinstance(raw, BadChunk) else ""
                    yield damage(key, "is missing" if raw is None else f"does not agree with the shards{why}")
    expected = index.encode_index(owner, Index(read_stamp(files, owner), index.table(words), crcs))
    raw = read_piece(files, index.index_key(owner), index.most_bytes(owner))
    if raw != expected and len(expected) <= index.MOST_BYTES:
        why = "is missing" if raw is None else "does not agree with the commits, or with its stamp"
        yield damage(index.index_key(owner), why)
