"""Whole chunks of the small arrays, as zarr's `bytes + crc32c` and `vlen-utf8 + crc32c` lay them out."""

import struct
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np

Bytes = bytes | np.ndarray[Any, Any]


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


def unsealed(raw: bytes, n_bytes: int | None = None) -> tuple[bytes, int]:
    """The payload of a chunk and its crc32c, checked."""
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


def encode_rows(values: np.ndarray[Any, Any], rows: int, fill: int) -> bytes:
    """A chunk of a one-dimensional array, padded with `fill` to `rows`."""
    chunk = np.full(rows, fill, values.dtype)
    chunk[: len(values)] = values
    return chunk.tobytes()
