"""Read a target: every chunk against the commit in its document."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probecache.store.errors import DamagedStore, UnfinishedSplit
from probecache.store.format.chunks import BadChunk
from probecache.store.format.target_array import KINDS, TargetArray
from probecache.store.layout import Shard
from probecache.store.reading.read_matrix import require_room
from probecache.store.storage.files import Files
from probecache.store.targets import Target

Array = np.ndarray[Any, Any]


def read_chunks(
    files: Files, target: TargetArray, wanted: Sequence[Shard] | None = None
) -> list[Array | BadChunk]:
    """The committed rows (rows, columns) of every chunk, or of those `wanted`; or what is wrong with them."""
    some = list(target.geometry.shards() if wanted is None else wanted)
    there = [s for s in some if target.commits[s.index][0]]
    found = iter(files.read_many([target.chunk_key(s) for s in there], target.chunk_bytes))
    out: list[Array | BadChunk] = []
    for s in some:
        committed = target.commits[s.index]
        try:
            out.append(target.decode(next(found) if committed[0] else None, committed))
        except BadChunk as error:
            out.append(error)
    return out


def read_target(files: Files, stored: TargetArray, partial: bool) -> Target:
    """The values of a stored target. `partial`: rows that are not written are unlabelled, else refused."""
    n, kind = stored.geometry.n_samples, KINDS[stored.kind]
    where = f"{files.url}: split {stored.split!r}, target {stored.name!r}"
    require_room(n * stored.width * kind.itemsize, where)
    values = np.full((n, stored.width), stored.fill, kind)
    for shard, found in zip(stored.geometry.shards(), read_chunks(files, stored), strict=True):
        if isinstance(found, BadChunk):
            raise DamagedStore(
                f"{where}, rows {shard.start}:{shard.stop}: {found} (probecache repair drops it, the target "
                "command writes it again)",
                str(found),
            )
        if len(found) < shard.rows and not partial:
            raise UnfinishedSplit(
                f"{where}, rows {shard.start + len(found)}:{shard.stop} and perhaps more are not written: "
                "run the target command again, or read what is there with open_store(..., partial=True)"
            )
        values[shard.start : shard.start + len(found)] = found
    shaped = values.reshape(-1) if stored.kind == "classes" else values
    return Target(stored.name, stored.kind, shaped, stored.names)
