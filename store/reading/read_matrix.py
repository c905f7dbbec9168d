"""Read rows and columns of a layer: full-row panels, checked, straight into the result where they fit it."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from probecache.store.errors import InputError
from probecache.store.format import shard_format as shard
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Layer
from probecache.store.layout import DTYPES, Shard
from probecache.store.machine import whole_memory
from probecache.store.reading import commits
from probecache.store.reading.commits import Vouched
from probecache.store.storage.files import Files

Array = np.ndarray[Any, Any]
Columns = Sequence[int] | Array | None
Rows = tuple[int, int] | slice | Sequence[int] | Array | None


@dataclass(frozen=True)
class Panel:
    """One inner chunk to read: rows [first, last) of the split are wanted of those from `low` on."""

    shard: Shard
    place: Array
    crc: int
    low: int
    first: int
    last: int


def read_matrix(
    files: Files,
    info: Layer,
    found: list[Vouched],
    rows: tuple[int, int],
    taken: Array | None,
    dtype: Any = None,
) -> Array:
    """Rows [start, stop) and columns `taken` of a layer; `found`: each shard, its committed rows and crc
    words.

    Rows that are not committed are NaN. DamagedStore names the first shard that is missing, short or changed;
    nothing is allocated before every file was seen to be there and large enough. InputError if the result is
    larger than the machine's memory.
    """
    form, logical = info.form, DTYPES[info.spec.dtype]
    start, stop = rows
    _require_bytes(files, info, found)
    width, kind = form.neurons if taken is None else len(taken), logical if dtype is None else np.dtype(dtype)
    size = (stop - start) * width * kind.itemsize
    require_room(size, f"rows {start}:{stop} of {info.key} in {files.url}, {width} columns")
    out = np.empty((stop - start, width), kind)
    panels: list[Panel] = []
    for s, there, crcs in found:
        out[max(s.start + there - start, 0) : max(min(s.stop, stop) - start, 0)] = np.nan
        if there:
            panels += _panels(files, info, s, there, crcs, rows)
    spares = threading.local()

    def read(panel: Panel) -> None:
        if not hasattr(spares, "bytes"):
            spares.bytes = np.empty(form.panel_bytes, np.uint8)
            spares.rows = np.empty((form.panel, form.neurons), form.dtype)
        target = out[panel.first - start : panel.last - start]
        direct = taken is None and out.dtype == logical and panel.first == panel.low
        into = target.view(form.dtype) if direct else spares.rows
        try:
            shard.read_panel(
                files, info.shard_key(panel.shard), form, panel.place, panel.crc, into, spares.bytes
            )
        except (BadChunk, FileNotFoundError) as error:
            why = str(error) if isinstance(error, BadChunk) else "its file is missing"
            raise commits.damaged(files, info, panel.shard, why) from None
        if direct:
            return
        part = into.view(logical)[panel.first - panel.low : panel.last - panel.low]
        if taken is None:
            target[...] = part
        elif out.dtype == logical:
            np.take(part, taken, axis=1, out=target, mode="clip")
        else:
            target[...] = part[:, taken]

    if len(panels) < 2:
        for panel in panels:
            read(panel)
        return out
    with ThreadPoolExecutor(files.threads) as pool:
        for _ in pool.map(read, panels):
            pass
    return out


def _panels(
    files: Files, info: Layer, s: Shard, there: int, crcs: Array, rows: tuple[int, int]
) -> list[Panel]:
    form, (start, stop) = info.form, rows
    try:
        index = shard.read_index(files, info.shard_key(s), form)
    except BadChunk as error:
        raise commits.damaged(files, info, s, str(error)) from None
    panels = []
    for p in range(form.panels_of(there)):
        low, high = s.start + p * form.panel, min(s.start + (p + 1) * form.panel, s.start + there)
        if low < stop and high > start:
            panels.append(Panel(s, index[p], int(crcs[1 + p]), low, max(low, start), min(high, stop)))
    return panels


def _require_bytes(files: Files, info: Layer, found: list[Vouched]) -> None:
    form = info.form
    for s, there, _ in found:
        if not there:
            continue
        size = files.size(info.shard_key(s))
        least = form.index_bytes
        if not form.compression:
            least += form.panels_of(there) * (form.panel_bytes + 4)
        if size is None or size < least:
            why = "its file is missing" if size is None else f"its file has {size} bytes of {least}"
            raise commits.damaged(files, info, s, why)


def require_room(size: int, what: str) -> None:
    """InputError if `size` bytes are more than there could be: a store may claim rows that it lacks."""
    there = whole_memory()
    if size > there:
        raise InputError(
            f"{what}: {size / 2**30:.0f} GiB, more than this machine's {there / 2**30:.0f} GiB of memory: "
            "read row blocks (Store.blocks) or fewer columns"
        )


def row_range(rows: Rows, n: int) -> "tuple[int, int] | Array":
    """(start, stop) of the rows asked for, or their numbers; checked against `n`."""
    if rows is None:
        return 0, n
    if isinstance(rows, slice):
        start, stop, step = rows.indices(n)
        if step != 1:
            raise InputError(f"rows {rows}: only steps of 1")
        return start, max(start, stop)
    if not isinstance(rows, tuple):
        return _index(rows, n, "rows", f"0:{n}")
    if len(rows) != 2 or not all(isinstance(r, int | np.integer) and not isinstance(r, bool) for r in rows):
        raise InputError(f"rows {rows!r:.80}: a tuple is (start, stop); give other rows as a list of numbers")
    start, stop = int(rows[0]), int(rows[1])
    if not 0 <= start <= stop <= n:
        raise InputError(f"rows {start}:{stop} are outside 0:{n}")
    return start, stop


def column_index(columns: Columns, d: int, layer: str) -> Array | None:
    """The columns asked for as an index array, checked against `d`; None for all."""
    if columns is None:
        return None
    return _index(columns, d, "columns", f"the 0:{d} of layer {layer!r}")


def _index(asked: Any, n: int, what: str, allowed: str) -> Array:
    index = np.asarray(asked)
    if index.size == 0 and index.ndim == 1:
        return np.empty(0, np.intp)
    if index.ndim != 1 or index.dtype.kind not in "iu" or isinstance(asked, np.ma.MaskedArray):
        raise InputError(f"{what} are {index.dtype} {index.shape}: use a one-dimensional list of integers")
    if not (index.min() >= 0 and index.max() < n):
        raise InputError(f"{what} {index.min()} to {index.max()} are outside {allowed}")
    return index.astype(np.intp)


def panels_of_rows(rows: Array, panel: int) -> Iterator[tuple[Array, int, int]]:
    """(places in `rows`, start, stop): runs of the split that lie in one panel and cover the rows there.

    >>> [(at.tolist(), low, high) for at, low, high in panels_of_rows(np.array([9, 1, 3, 1]), 4)]
    [([1, 2, 3], 1, 4), ([0], 9, 10)]
    """
    order = np.argsort(rows, kind="stable")
    borders = np.flatnonzero(np.diff(rows[order] // panel)) + 1
    for at in np.split(order, borders):
        if len(at):
            yield np.sort(at), int(rows[at].min()), int(rows[at].max()) + 1
