"""The index of a split or layer: what all its shards' commits say, in one object.

    [JSON: place, samples, rows of a shard, stamp, crc32c of the row chunks] [newline]
    [rows, crc words of each shard] [crc32c]

The commits stay the truth; an index saves a request per shard. It is made of a split that is whole, so only
who replaces or drops a commit could make it wrong: that one writes a new `stamp` beside the index before the
first change and after the last one, and holds claims and a lease between the two. An index names the stamp
that was there before its commits were read, and is written only where no claim or lease is seen after they
were read. So an index whose stamp is that of now holds the commits of now: a change that it missed either had
a claim at that time, or has written a stamp since.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from probecache.store.format import chunks
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Layer, Split
from probecache.store.layout import Geometry, Shard

Array = np.ndarray[Any, Any]
MOST_BYTES = 256 << 20  # a larger one is not written, and not read


@dataclass(frozen=True)
class Index:
    """words: (shards, 1 + crc words) uint64, rows first; row_chunks: crc32c of each chunk of a row array."""

    stamp: str
    words: Array
    row_chunks: dict[str, list[int]] = field(default_factory=dict)

    def commits(self, shards: list[Shard]) -> list[tuple[int, Array]]:
        """What `read_commits` would give."""
        return [(int(self.words[s.index, 0]), self.words[s.index, 1:]) for s in shards]


def table(words: Sequence[tuple[int, Array]]) -> Array:
    """Rows and crc32c words of every shard as an index holds them."""
    return np.array([[rows, *crcs] for rows, crcs in words], np.uint64)


def index_key(owner: Split | Layer) -> str:
    return f"{owner.key}/commit/index"


def stamp_key(owner: Split | Layer) -> str:
    return f"{owner.key}/commit/stamp"


def most_bytes(owner: Split | Layer) -> int:
    """Bytes that an index can have at most."""
    n = owner.geometry.n_shards
    return min(MOST_BYTES, 8 * n * (1 + owner.n_words) + 64 * n + 4096)


def encode_index(owner: Split | Layer, index: Index) -> bytes:
    head = {**_head(owner), "stamp": index.stamp, "row_chunks": index.row_chunks}
    body = json.dumps(head).encode() + b"\n" + index.words.astype("<u8").tobytes()
    return chunks.sealed(body)[0]


def decode_earlier(raw: bytes | BadChunk | None, owner: Split | Layer) -> Index:
    """An index that fits its crc32c and its owner as it was, with fewer samples perhaps; BadChunk else."""
    try:
        line = chunks.unsealed(raw)[0].partition(b"\n")[0]
        n = min(int(json.loads(line)["samples"]), owner.geometry.n_samples)
        then = Geometry(n, owner.geometry.shard_rows)
    except (ValueError, RecursionError, KeyError, TypeError):
        raise BadChunk("it is no index") from None
    return decode_index(raw, replace(owner, geometry=then))


def decode_index(raw: bytes | BadChunk | None, owner: Split | Layer) -> Index:
    """An index that fits its crc32c and its owner as it is now; BadChunk else."""
    body, _ = chunks.unsealed(raw)
    line, _, rest = body.partition(b"\n")
    try:
        head = json.loads(line)
        row_chunks = {str(k): [int(crc) for crc in v] for k, v in head["row_chunks"].items()}
        stamp, good = str(head["stamp"]), all(head[k] == v for k, v in _head(owner).items())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise BadChunk("it is no index") from None
    shape = owner.geometry.n_shards, 1 + owner.n_words
    if not good or len(rest) != 8 * shape[0] * shape[1]:
        raise BadChunk("it is of another state of the split, or of another place")
    return Index(stamp, np.frombuffer(rest, "<u8").reshape(shape), row_chunks)


def _head(owner: Split | Layer) -> dict[str, Any]:
    geometry = owner.geometry
    return {"place": owner.key, "samples": geometry.n_samples, "shard_rows": geometry.shard_rows}
