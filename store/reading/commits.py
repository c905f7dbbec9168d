"""What a split's and a layer's commits vouch for, and the error that names a piece which is not that."""

from typing import Any

import numpy as np

from probecache.store.catalog import Layer, Split
from probecache.store.errors import DamagedStore
from probecache.store.format import chunks, metadata, moments
from probecache.store.format.chunks import BadChunk
from probecache.store.layout import ROW_ARRAYS, Shard
from probecache.store.storage.files import Files

Array = np.ndarray[Any, Any]


def read_commits(
    files: Files, owner: Split | Layer, shards: list[Shard]
) -> list[tuple[int, Array] | BadChunk]:
    """Rows and crc words of each shard's commit, or what is wrong with it."""
    place = owner.name if isinstance(owner, Split) else owner.key
    n_words = len(ROW_ARRAYS) if isinstance(owner, Split) else 1 + owner.form.n_panels
    # the listing first: a hostile shape must not make us ask for, or hold, more shards than there are files
    there = set(files.names(f"{place}/commit/c"))
    found = iter(
        files.read_many([owner.commit_key(s) for s in shards if str(s.index) in there], 8 * n_words + 20)
    )
    out: list[tuple[int, Array] | BadChunk] = []
    for shard in shards:
        try:
            raw = next(found) if str(shard.index) in there else None
            rows, crcs = chunks.decode_commit(raw, f"{place}/{shard.index}", n_words)
            out.append((min(rows, shard.rows), crcs))
        except BadChunk as error:
            out.append(error)
    return out


def read_tokens(files: Files, split: Split, shards: list[Shard]) -> dict[int, int]:
    """The fencing tokens of the rows' commits that are there, by shard."""
    there = set(files.names(f"{split.name}/commit/c"))
    asked = [s for s in shards if str(s.index) in there]
    raws = files.read_many([split.commit_key(s) for s in asked], 64)
    return {s.index: chunks.commit_token(raw) for s, raw in zip(asked, raws, strict=True)}


def read_partial(files: Files, layer: Layer, shard: Shard, crc: int) -> Array:
    """A shard's moments (9, neurons) float64; BadChunk if they are not those that were committed."""
    size = 8 * layer.n_statistics * layer.spec.neurons
    try:
        payload, found = chunks.unsealed(files.read(layer.partial_key(shard), size + 4), size)
    except BadChunk as error:
        raise BadChunk(f"partial: {error}") from None
    if found != crc:
        raise BadChunk("partial: it is not the one that was committed")
    part = np.frombuffer(payload, "<f8").reshape(layer.n_statistics, -1)
    lacking = len(metadata.STATISTICS) - len(part)
    return np.concatenate([part, np.zeros((lacking, part.shape[1]))]) if lacking else part


def merged_moments(files: Files, layer: Layer) -> Array | None:
    """Statistics of all rows of a layer (8, neurons), or None while a shard is not committed."""
    shards = list(layer.geometry.shards())
    commits = read_commits(files, layer, shards)
    total: Array | None = None
    for s, committed in zip(shards, commits, strict=True):
        if isinstance(committed, BadChunk) or committed[0] < s.rows:
            return None
    for s, committed in zip(shards, commits, strict=True):
        assert not isinstance(committed, BadChunk)
        try:
            part = read_partial(files, layer, s, int(committed[1][0]))
            total = part if total is None else moments.merge(total, part)
        except BadChunk as error:
            raise damaged(files, layer, s, str(error)) from None
    return total


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
