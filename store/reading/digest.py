"""What identifies stored data: digests over the crc32c of every committed shard, no value being read."""

from collections.abc import Callable

from probecache.store.fingerprint import digest
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Layer, Split
from probecache.store.format.target_array import TargetArray
from probecache.store.layout import Shard
from probecache.store.reading.commits import Committed, Vouched, damaged
from probecache.store.storage.files import Files

CommitsOf = Callable[[Split | Layer, list[Shard]], list[Committed]]


def layer_digest(files: Files, split: Split, layer: Layer, commits_of: CommitsOf) -> str:
    """32 hex digits of a layer's rows and of the split's labels, identity and status; DamagedStore."""
    shards, words = list(layer.geometry.shards()), []
    owners: tuple[Split, Layer] = split, layer
    for owner in owners:
        for shard, committed in zip(shards, commits_of(owner, shards), strict=True):
            if isinstance(committed, BadChunk):
                raise damaged(files, owner, shard, str(committed))
            if committed[0] < shard.rows and layer.complete == layer.geometry.n_samples:
                raise damaged(files, owner, shard, "its commit is missing")
            words.append([committed[0], *committed[1].tolist()])
    return digest(layer.spec.dtype, layer.geometry.n_samples, split.class_names, words)


def label_digest(split: Split, found: list[Vouched]) -> str:
    """32 hex digits of the labels that came with the data; found: every shard's commit."""
    return digest("classes", list(split.class_names), [[rows, int(crcs[0])] for _, rows, crcs in found])


def target_digest(target: TargetArray) -> str:
    """32 hex digits of any other target's values and names."""
    return digest(target.kind, list(target.names), [list(commit) for commit in target.commits])
