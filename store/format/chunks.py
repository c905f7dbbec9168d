"""Whole chunks of the small arrays, as zarr's `bytes + crc32c` and `vlen-utf8 + crc32c` lay them out.

The commit of a shard is one of them: the few words that are written last and say what must be there.

    [rows, seal, crc32c of each chunk that the commit vouches for ...]      uint64, one zarr chunk per shard

`rows` has the fencing token of the writer's claim in its upper half, 0 where no claim was taken over.

The seal hashes the words together with the place they belong to, so a commit, or a shard, that lies in
another shard's, layer's or split's place is seen. No commit: the shard is not there.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import google_crc32c
import numpy as np

Array = np.ndarray[Any, Any]
Bytes = bytes | Array
Pieces = Sequence[Bytes]  # what one write is made of, one after the other, uncopied as long as possible
DOCUMENT_BYTES = 256 << 20  # a million class names in several splits, and their copies, are a third of it


class BadChunk(ValueError):
    """A chunk whose bytes cannot be what was written; the caller says where."""


def crc32c(*parts: Bytes) -> int:
    """CRC-32C of bytes, or of contiguous arrays' memory, one after the other."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part if isinstance(part, bytes) else part.reshape(-1).view(np.uint8))
    return crc


def sealed(payload: bytes) -> tuple[bytes, int]:
    """The payload with its little-endian crc32c behind it, and that crc."""
    crc = crc32c(payload)
    return payload + struct.pack("<I", crc), crc


def unsealed(raw: bytes | BadChunk | None, n_bytes: int | None = None) -> tuple[bytes, int]:
    """The payload of a chunk and its crc32c, checked; None: it is missing."""
    if raw is None:
        raise BadChunk("its file is missing")
    if isinstance(raw, BadChunk):
        raise raw
    if len(raw) < 4 or (n_bytes is not None and len(raw) != n_bytes + 4):
        raise BadChunk(f"{len(raw)} bytes" + ("" if n_bytes is None else f" instead of {n_bytes + 4}"))
    payload = raw[:-4]
    crc = crc32c(payload)
    if crc != struct.unpack("<I", raw[-4:])[0]:
        raise BadChunk("its crc32c does not fit")
    return payload, crc


def encode_text(values: Sequence[str], rows: int) -> bytes:
    """vlen-utf8: a count, then length and UTF-8 bytes of each text; padded with empty texts to `rows`."""
    parts = [struct.pack("<I", rows)]
    for value in values:
        text = value.encode()
        parts += (struct.pack("<I", len(text)), text)
    parts.append(b"\0\0\0\0" * (rows - len(values)))
    return b"".join(parts)


def decode_text(payload: bytes, rows: int) -> list[str]:
    """The first texts of a vlen-utf8 chunk, at most `rows`."""
    values, at = [], 4
    try:
        (count,) = struct.unpack_from("<I", payload, 0)
        for _ in range(min(count, rows)):
            (length,) = struct.unpack_from("<I", payload, at)
            text = payload[at + 4 : at + 4 + length]
            if len(text) != length:
                raise BadChunk("a text runs past its end")
            values.append(text.decode())
            at += 4 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise BadChunk(f"not vlen-utf8: {error}") from None
    return values


def encode_rows(values: Array, rows: int, fill: int) -> bytes:
    """A chunk of a one-dimensional array, padded with `fill` to `rows`."""
    chunk = np.full(rows, fill, values.dtype)
    chunk[: len(values)] = values
    return chunk.tobytes()


def joined(pieces: Iterable[Bytes]) -> bytes:
    """The pieces of a write as one byte string."""
    return b"".join(p if isinstance(p, bytes) else p.reshape(-1).view(np.uint8).tobytes() for p in pieces)


def _seal(place: str, first: int, crcs: Array) -> int:
    text = f"{place}\n{first}\n".encode() + crcs.astype("<u8").tobytes()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def encode_commit(place: str, rows: int, crcs: Iterable[int], token: int = 0, rest: bytes = b"") -> bytes:
    """The commit chunk of `place` ('train/blocks.5/3'): `rows` rows, whose chunks have these crc32c.

    rest  what the commit vouches for and holds itself: the shard's moments
    """
    words = np.array(list(crcs), np.uint64)
    first = rows | token << 32
    head = np.array([first, _seal(place, first, words)], np.uint64)
    return sealed(np.concatenate([head, words]).astype("<u8").tobytes() + rest)[0]


def decode_commit(raw: bytes | BadChunk | None, place: str, n_words: int) -> tuple[int, Array]:
    """Rows and crc32c words of a commit chunk; (0, zeros) if there is none.

    BadChunk if it is not of `place`.
    """
    if raw is None:
        return 0, np.zeros(n_words, np.uint64)
    return _believed(np.frombuffer(unsealed(raw, 8 * (2 + n_words))[0], "<u8"), place, "is of another place")


def decode_head(raw: bytes | BadChunk | None, place: str, n_words: int) -> tuple[int, Array]:
    """`decode_commit` from the first bytes of a chunk that goes on: the seal alone vouches for its words."""
    if raw is None:
        return 0, np.zeros(n_words, np.uint64)
    if isinstance(raw, BadChunk):
        raise raw
    if len(raw) < 8 * (2 + n_words):
        raise BadChunk(f"{len(raw)} bytes instead of {8 * (2 + n_words)} and more")
    words = np.frombuffer(raw, "<u8", 2 + n_words)
    return _believed(words, place, "does not fit its seal: it was changed, or is of another place")


def _believed(words: Array, place: str, why: str) -> tuple[int, Array]:
    first, crcs = int(words[0]), words[2:]
    if int(words[1]) != _seal(place, first, crcs):
        raise BadChunk(f"its commit {why}")
    return first & 0xFFFFFFFF, crcs


def commit_token(raw: bytes | BadChunk | None) -> int:
    """The fencing token in a commit chunk; 0 if there is none that could be read."""
    return struct.unpack_from("<I", raw, 4)[0] if isinstance(raw, bytes) and len(raw) >= 8 else 0
