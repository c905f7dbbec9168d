"""Shards of `activations`: Zarr v3 `sharding_indexed`, inner chunks of full-width rows, index at the end.

    [panel 0 | crc32c] [panel 1 | crc32c] ... [(offset, bytes) per panel, uint64 | crc32c]

A panel past the split's last row is absent (offset and size 2**64 - 1), as the format allows. zarr-python
reads and writes the same bytes; here the panels go from the file into the result without a copy between.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from probecache.store.format.chunks import BadChunk, crc32c
from probecache.store.storage.files import Files

Array = np.ndarray[Any, Any]
_ABSENT = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class ShardFormat:
    """What decides a shard's bytes: full rows, rows of a panel, neurons, stored dtype, compression."""

    rows: int
    panel: int
    neurons: int
    dtype: np.dtype[Any]
    fill: float
    compression: str | None

    @property
    def n_panels(self) -> int:
        return self.rows // self.panel

    @property
    def panel_bytes(self) -> int:
        return self.panel * self.neurons * self.dtype.itemsize

    def panels_of(self, rows: int) -> int:
        """Panels that hold the first `rows` rows."""
        return -(-rows // self.panel)

    @property
    def index_bytes(self) -> int:
        return 16 * self.n_panels + 4


def encode(values: Array, form: ShardFormat) -> tuple[list[bytes | Array], Array]:
    """The pieces of a shard's file for `values` (rows, neurons), and the crc32c of each panel (uint64).

    Pieces of uncompressed panels are views of `values`: memory stays within the shard that the caller holds.
    """
    pieces: list[bytes | Array] = []
    index = np.full((form.n_panels, 2), _ABSENT, "<u8")
    crcs = np.zeros(form.n_panels, np.uint64)
    at = 0
    for i in range(form.panels_of(len(values))):
        panel = values[i * form.panel : (i + 1) * form.panel]
        if len(panel) < form.panel:
            padded = np.full((form.panel, form.neurons), form.fill, values.dtype)
            padded[: len(panel)] = panel
            panel = padded
        body = np.ascontiguousarray(panel).reshape(-1).view(np.uint8)
        if form.compression:
            body = np.frombuffer(_compress(body), np.uint8)
        crcs[i] = crc32c(body)
        pieces += (body, crcs[i].astype("<u4").tobytes())
        index[i] = at, len(body) + 4
        at += len(body) + 4
    pieces += (index.tobytes(), np.uint32(crc32c(index)).astype("<u4").tobytes())
    return pieces, crcs


def read_index(files: Files, key: str, form: ShardFormat) -> Array:
    """Offsets and sizes of a shard's panels, (panels, 2) int64, -1 where absent.

    BadChunk if they cannot be.
    """
    raw = np.empty(form.index_bytes, np.uint8)
    try:
        got = files.read_range(key, -len(raw), [raw])
    except FileNotFoundError:
        raise BadChunk("its file is missing") from None
    if got != len(raw):
        raise BadChunk("its file is too short to hold an index")
    if crc32c(raw[:-4]) != int(raw[-4:].view("<u4")[0]):
        raise BadChunk("its index does not fit its crc32c: the file was cut or changed")
    return raw[:-4].view("<i8").reshape(-1, 2)


def read_panel(
    files: Files, key: str, form: ShardFormat, place: Array, crc: int, into: Array, spare: Array
) -> None:
    """Fill `into` (panel, neurons), or its first rows, with the panel at `place` (offset, size).

    The panel's crc32c is checked against its own and the commit's. `spare` (uint8, at least panel_bytes +
    4) takes
    what `into` has no room for.
    """
    offset, size = int(place[0]), int(place[1])
    head = into.reshape(-1).view(np.uint8)
    if form.compression:
        if not 4 < size <= 2 * form.panel_bytes + 1024:
            raise BadChunk("its index gives an impossible size")
        parts = [np.empty(size - 4, np.uint8)]
    else:
        if size != form.panel_bytes + 4:
            raise BadChunk("its index gives an impossible size")
        parts = [head, spare[: form.panel_bytes - len(head)]]
    end = np.empty(4, np.uint8)
    if offset < 0 or files.read_range(key, offset, [*parts, end]) != size:
        raise BadChunk("its file is shorter than its index says")
    found = crc32c(*parts)
    if found != int(end.view("<u4")[0]):
        raise BadChunk("a panel does not fit its crc32c")
    if found != crc:
        raise BadChunk("a panel is not the one that was committed")
    if form.compression:
        whole = head if len(head) == form.panel_bytes else spare[: form.panel_bytes]
        _decompress(parts[0], whole)
        if whole is not head:
            head[:] = whole[: len(head)]


def _compress(body: Array) -> bytes:
    from numcodecs.zstd import compress

    return compress(body, 1)


def _decompress(body: Array, into: Array) -> None:
    from numcodecs.zstd import decompress

    try:
        decompress(body, into)  # refuses a frame that holds more or less than `into`
    except (RuntimeError, ValueError) as error:
        raise BadChunk(f"a panel does not decompress: {error}") from None
