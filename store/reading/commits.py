"""What a split's and a layer's commits vouch for, and the error that names a piece which is not that."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from probecache.store.errors import DamagedStore
from probecache.store.format import chunks, metadata, moments
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Layer, Split
from probecache.store.format.row_object import most_bytes
from probecache.store.layout import Shard
from probecache.store.storage.files import Files

Array = np.ndarray[Any, Any]
Raw = bytes | BadChunk | None
Committed = tuple[int, Array] | BadChunk  # rows and crc32c words, or what is wrong with the commit
Vouched = tuple[Shard, int, Array]  # a shard, and the rows and crc32c words that its commit vouches for
FEW = 16  # shards whose commits are asked for one by one, without a listing or an index
_BYTES_AT_ONCE = 64 << 20


def read_commits(files: Files, owner: Split | Layer, shards: list[Shard]) -> list[Committed]:
    """Rows and crc words of each shard's commit, or what is wrong with it.

    A commit of more rows than the split has there is of a growth that was given up: its words vouch for a
    shard of other rows, so that it is none.
    """
    asked = _there(files, owner, shards)
    keys, n = [owner.commit_key(s) for s in asked], owner.n_words
    raws = files.read_heads(keys, 8 * (2 + n)) if owner.packed else files.read_many(keys, 8 * n + 20)
    found = dict(zip((s.index for s in asked), raws, strict=True))
    return [_believed(owner, s, found.get(s.index)) for s in shards]


def read_objects(files: Files, owner: Split | Layer, shards: list[Shard]) -> Iterator[tuple[Committed, Raw]]:
    """`read_commits` of each shard, with the whole object that holds its commit, in format 1 alone.

    Read many at once, few in memory.
    """
    if not owner.packed:
        most = usual = 8 * owner.n_words + 20
    elif isinstance(owner, Layer):
        most = usual = object_bytes(owner)
    else:
        rows = owner.geometry.shard_rows
        most, usual = most_bytes(rows), 64 * rows
    asked = _there(files, owner, shards)
    step, found = max(1, _BYTES_AT_ONCE // usual), dict[int, Raw]()
    places = {s.index: i for i, s in enumerate(asked)}
    for s in shards:
        if s.index in places and s.index not in found:
            some = asked[places[s.index] : places[s.index] + step]
            raws = files.read_many([owner.commit_key(one) for one in some], most)
            found = dict(zip((one.index for one in some), raws, strict=True))
        raw = found.get(s.index)
        yield _believed(owner, s, raw), raw


def _there(files: Files, owner: Split | Layer, shards: list[Shard]) -> list[Shard]:
    """The shards to ask for: of many, those that a listing shows.

    A hostile shape must not make us ask for, or hold, more than there are files.
    """
    if len(shards) <= FEW:
        return list(shards)
    there = set(files.names(owner.commits_key))
    return [s for s in shards if str(s.index) in there]


def _believed(owner: Split | Layer, s: Shard, raw: Raw) -> Committed:
    decode = chunks.decode_head if owner.packed else chunks.decode_commit
    try:
        rows, crcs = decode(raw, f"{owner.key}/{s.index}", owner.n_words)
    except BadChunk as error:
        return error
    return (rows, crcs) if rows <= s.rows else (0, np.zeros(owner.n_words, np.uint64))


def read_tokens(files: Files, split: Split, shards: list[Shard]) -> dict[int, int]:
    """The fencing tokens of the rows' commits that are there, by shard."""
    there = set(files.names(split.commits_key))
    asked = [s for s in shards if str(s.index) in there]
    raws = files.read_heads([split.commit_key(s) for s in asked], 8)
    return {s.index: chunks.commit_token(raw) for s, raw in zip(asked, raws, strict=True)}


def read_partial(files: Files, layer: Layer, shard: Shard, crc: int, raw: Raw = None) -> Array:
    """A shard's moments (9, neurons) float64; BadChunk if they are not those that were committed.

    raw  the object that holds them, where it is known
    """
    known = raw is not None and layer.packed
    found = _partial(layer, raw, crc) if known else next(_partials(files, layer, [(shard, crc)]))
    if isinstance(found, BadChunk):
        raise found
    return found


def object_bytes(layer: Layer) -> int:
    """Bytes of the object that holds a shard's moments, behind its commit where they are packed."""
    return (8 * (2 + layer.n_words) if layer.packed else 0) + layer.partial_bytes + 4


def _partials(files: Files, layer: Layer, wanted: list[tuple[Shard, int]]) -> Iterator[Array | BadChunk]:
    """`read_partial` of each, its BadChunk in its place; read many at once, few in memory."""
    size = object_bytes(layer)
    step = max(1, _BYTES_AT_ONCE // size)
    for at in range(0, len(wanted), step):
        some = wanted[at : at + step]
        keys = [layer.commit_key(s) if layer.packed else layer.partial_key(s) for s, _ in some]
        for (_, crc), raw in zip(some, files.read_many(keys, size), strict=True):
            yield _partial(layer, raw, crc)


def _partial(layer: Layer, raw: Raw, crc: int) -> Array | BadChunk:
    size = object_bytes(layer) - 4
    try:
        payload = chunks.unsealed(raw, size)[0][size - layer.partial_bytes :]
        if chunks.crc32c(payload) != crc:
            raise BadChunk("it is not the one that was committed")
    except BadChunk as error:
        return BadChunk(f"partial: {error}")
    part = np.frombuffer(payload, "<f8").reshape(layer.n_statistics, -1)
    lacking = len(metadata.STATISTICS) - len(part)
    return np.concatenate([part, np.zeros((lacking, part.shape[1]))]) if lacking else part


def merged_moments(files: Files, layer: Layer) -> tuple[Array, list[tuple[int, Array]]] | None:
    """Statistics of all rows of a layer (9, neurons), and its commits; None while one is missing."""
    shards = list(layer.geometry.shards())
    whole = []
    for s, committed in zip(shards, read_commits(files, layer, shards), strict=True):
        if isinstance(committed, BadChunk) or committed[0] < s.rows:
            return None
        whole.append(committed)
    total: Array | None = None
    wanted = [(s, int(crcs[0])) for s, (_, crcs) in zip(shards, whole, strict=True)]
    for s, part in zip(shards, _partials(files, layer, wanted), strict=True):
        if isinstance(part, BadChunk):
            raise damaged(files, layer, s, str(part))
        total = part if total is None else moments.merge(total, part)
    assert total is not None
    return total, whole


def damaged(files: Files, owner: Split | Layer, shard: Shard, why: str) -> DamagedStore:
    """The error that names a damaged piece: split, layer, shard, rows, and what to do."""
    layer = f", layer {owner.spec.name!r}" if isinstance(owner, Layer) else ""
    split = owner.split if isinstance(owner, Layer) else owner.name
    return DamagedStore(
        f"{files.url}: split {split!r}{layer}, shard {shard.index}, rows {shard.start}:{shard.stop}: {why} "
        "(probecache repair drops it, the command that wrote the store then writes it again)",
        why,
        shard.index,
    )
