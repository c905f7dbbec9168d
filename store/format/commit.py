"""The commit of a shard: the few words that are written last and say what must be there.

    [rows, seal, crc32c of each chunk that the commit vouches for ...]      uint64, one zarr chunk per shard

The seal hashes the words together with the place they belong to, so a commit, or a shard, that lies in
another
shard's, layer's or split's place is seen. No commit: the shard is not there.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from probecache.store.format.chunks import BadChunk, sealed, unsealed

Array = np.ndarray[Any, Any]


def _seal(place: str, rows: int, crcs: Array) -> int:
    text = f"{place}\n{rows}\n".encode() + crcs.astype("<u8").tobytes()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def encode(place: str, rows: int, crcs: Iterable[int]) -> bytes:
    """The commit chunk of `place` ('train/blocks.5/3'): `rows` rows, whose chunks have these crc32c."""
    words = np.array(list(crcs), np.uint64)
    head = np.array([rows, _seal(place, rows, words)], np.uint64)
    return sealed(np.concatenate([head, words]).astype("<u8").tobytes())[0]


def decode(raw: bytes | None, place: str, n_words: int) -> tuple[int, Array]:
    """Rows and crc32c words of a commit chunk; (0, zeros) if there is none.

    BadChunk if it is not of `place`.
    """
    if raw is None:
        return 0, np.zeros(n_words, np.uint64)
    words = np.frombuffer(unsealed(raw, 8 * (2 + n_words))[0], "<u8")
    rows, crcs = int(words[0]), words[2:]
    if int(words[1]) != _seal(place, rows, crcs):
        raise BadChunk("its commit is of another place")
    return rows, crcs
