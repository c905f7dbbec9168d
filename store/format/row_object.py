"""A shard's rows as one object: its commit, then labels, states and identity, each a chunk with its crc32c.

    [rows, seal, crc32c of label, sample, status | crc32c]
    [label | crc32c] [status | crc32c] [sample | crc32c]

So a shard's rows are there with their commit or not at all. The arrays `label`, `sample` and `status` that
zarr reads are made of these objects, many shards to a chunk, once every shard is there
(`writing/write_index.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probecache.store.format import chunks
from probecache.store.format.chunks import BadChunk
from probecache.store.layout import NAME_BYTES, ROW_ARRAYS

Array = np.ndarray[Any, Any]
HEAD = 8 * (2 + len(ROW_ARRAYS)) + 4  # bytes of the commit


def most_bytes(shard_rows: int) -> int:
    """More bytes than a shard's rows can have."""
    return HEAD + shard_rows * (8 + 1 + 4 + NAME_BYTES) + 64


def encode_row_chunks(labels: Array, names: Sequence[str], status: Array, rows: int) -> dict[str, bytes]:
    """The chunks of labels, identity and states, padded to `rows`, each with its crc32c behind it."""
    payloads = {
        "label": chunks.encode_rows(labels, rows, -1),
        "sample": chunks.encode_text(names, rows),
        "status": chunks.encode_rows(status, rows, 0),
    }
    return {array: chunks.sealed(payload)[0] for array, payload in payloads.items()}


def crcs_of(parts: Mapping[str, bytes]) -> list[int]:
    """The crc32c behind each chunk, in the order of ROW_ARRAYS."""
    return [int.from_bytes(parts[array][-4:], "little") for array in ROW_ARRAYS]


def encode_row_object(place: str, rows: int, parts: Mapping[str, bytes], token: int) -> list[bytes]:
    """The pieces of a shard's object."""
    commit = chunks.encode_commit(place, rows, crcs_of(parts), token)
    return [commit, parts["label"], parts["status"], parts["sample"]]


def split_row_object(raw: bytes | BadChunk | None, shard_rows: int) -> dict[str, bytes]:
    """The chunks of an object, by array, as `decode_row_chunks` takes and checks them."""
    if raw is None:
        raise BadChunk("commit: its file is missing")
    if isinstance(raw, BadChunk):
        raise BadChunk(f"commit: {raw}")
    try:
        chunks.unsealed(raw[:HEAD], HEAD - 4)
    except BadChunk as error:
        raise BadChunk(f"commit: {error}") from None
    label = HEAD + 8 * shard_rows + 4
    status = label + shard_rows + 4
    if len(raw) < status + 8:
        raise BadChunk(f"commit: {len(raw)} bytes instead of {status + 8} and more")
    return {"label": raw[HEAD:label], "status": raw[label:status], "sample": raw[status:]}


def decode_row_chunks(
    parts: Mapping[str, bytes | BadChunk | None], crcs: Sequence[int] | Array, rows: int, full: int
) -> tuple[Array, list[str], Array]:
    """Labels, identity and states of the first `rows` rows of chunks of `full` rows, each as its crc32c says.

    No identity where `parts` lacks the chunk. BadChunk names the array that is damaged.
    """
    sizes = {"label": 8 * full, "sample": None, "status": full}
    payloads = {}
    for array, expected in zip(ROW_ARRAYS, crcs, strict=True):
        if array not in parts:
            continue
        try:
            payloads[array], crc = chunks.unsealed(parts[array], sizes[array])
            if crc != int(expected):
                raise BadChunk("it is not the one that was committed")
        except BadChunk as error:
            raise BadChunk(f"{array}: {error}") from None
    names = chunks.decode_text(payloads["sample"], rows) if "sample" in payloads else []
    if len(names) != rows and "sample" in payloads:
        raise BadChunk("sample: it holds too few texts")
    labels, status = np.frombuffer(payloads["label"], "<i8"), np.frombuffer(payloads["status"], np.uint8)
    return labels[:rows], names, status[:rows]
