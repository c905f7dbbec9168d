"""Put features that were made elsewhere into a store, through the same writer as extraction."""

import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.errors import InputError
from probecache.store.fingerprint import Fingerprint
from probecache.store.importing.formats.matrix import Matrix
from probecache.store.importing.given import (
    checked_activations,
    checked_classes,
    checked_states,
    require_dtype_fits,
)
from probecache.store.layout import DTYPES, SHARD_ROWS, LayerSpec, Shard, SplitSpec
from probecache.store.progress import Progress, check_progress, reporting
from probecache.store.reader import Store
from probecache.store.storage.files import open_files
from probecache.store.writer import SplitWriter, open_split_writer
from probecache.store.writing.cast import tell_rounding
from probecache.store.writing.merge_rows import require_same_split

Array = np.ndarray[Any, Any]
LOGGER = logging.getLogger("probecache.store")


def write_arrays(
    path: str | os.PathLike[str],
    *,
    split: str,
    layer: str,
    activations: Array | Matrix,
    labels: Array | Sequence[int] | Sequence[str] | None = None,
    samples: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    status: Array | None = None,
    dtype: str | None = None,
    attrs: Mapping[str, Any] | None = None,
    fingerprint: Fingerprint | None = None,
    rows: tuple[int, int] | None = None,
    shard_rows: int | None = None,
    compression: str | None = None,
    allow_saturated: bool = False,
    progress: Progress = None,
) -> Store:
    """Store `activations` (samples, neurons) as one layer, bit for bit if the dtype allows.

    They are read shard by shard and in order, three shards at a time, so a memory-mapped array, or one of
    h5py or zarr that gives arrays for slices of rows, is never loaded whole. After a kill the same call
    continues.

    Parameters
    ----------
    path : str or Path
        The store, a folder or fsspec URL; made if missing.
    split, layer : str
        Names.
    activations : array (samples, neurons)
        Of any real number type of at most 64 bits.
    labels : (samples,) or None
        Integers, -1 for unlabelled; or texts, each of which is a class. None: what the split has, else -1.
    samples : list of str or None
        Names of the rows. None: the row numbers.
    class_names : list of str or None
        None: what the split has, else "0", "1", ... up to the largest label, or the texts in order.
    status : uint8 (samples,) or None
        OK = 1 or FAILED = 2 (stored as NaN). None: all are ok.
    dtype : str or None
        "float16", "bfloat16" or "float32". None: the array's own if it is one of these, else float32, with a
        line in the log if that rounds.
    attrs : dict or None
        Kept with the layer, as JSON.
    fingerprint : Fingerprint or None
        Where the features come from; None says only "arrays".
    rows : (int, int) or None
        Write only rows (a, b), in whole shards.
    shard_rows, compression : int or None, str or None
        Rows per shard (None: 8192); None, or "zstd".
    allow_saturated : bool
        Store values beyond the dtype as infinities, instead of refusing them.
    progress : bool, function or None
        True: a bar on stderr. A function: called with (done, total) rows of this call. False or None: silent.

    Returns
    -------
    Store
        The store, opened.

    Raises
    ------
    InputError
        If shapes, types or names do not fit, before anything is written.
    FingerprintMismatch
        If the store holds other values, labels or names than those given.

    Examples
    --------
    >>> x, y = np.eye(4, dtype=np.float32), [0, 1, 0, 1]
    >>> pc.write_arrays("mine.zarr", split="train", layer="late", activations=x, labels=y).layers
    ['late']
    """
    check_progress(progress)
    values, stored = checked_activations(activations), catalog.find_split(open_files(path), split)
    n, d = values.shape
    if samples is not None and len(samples) != n:
        raise InputError(f"{len(samples)} samples for {n} rows of activations")
    classes, class_names = checked_classes(labels, class_names, n, path, stored)
    states = checked_states(status, n)

    def names(start: int, stop: int) -> list[str]:
        return [str(name) for name in (range(start, stop) if samples is None else samples[start:stop])]

    if stored is not None:  # before anything is made: labels of other data leave the store as it was
        require_same_split(open_files(path), stored, classes, names)
    own = {v: k for k, v in DTYPES.items()}.get(values.dtype.newbyteorder("="), "float32")
    if not allow_saturated:  # before anything is made: what is refused leaves the store as it was
        step = shard_rows or (SHARD_ROWS if stored is None else stored.geometry.shard_rows)
        where = f"layer {layer!r} of split {split!r}"
        first, last = rows or (0, n)
        require_dtype_fits(values, states, dtype or own, where, range(first, last, max(step, 1)))
    with open_split_writer(
        path,
        SplitSpec(
            split=split,
            n_samples=n,
            layers=[LayerSpec(layer, d, dtype or own, attrs or {})],
            class_names=class_names,
            fingerprint=fingerprint or Fingerprint(backbone={"source": "arrays"}),
            shard_rows=shard_rows,
            compression=compression,
        ),
        rows=rows,
        allow_saturated=allow_saturated,
    ) as writer:
        with reporting(progress, "rows") as told:
            _write_shards(writer, layer, values, _Rows(classes, names, states), dtype is None, told)
        store = writer.finish()
    if beyond := store.layer_info(split, layer).report.get("nonfinite", 0):
        LOGGER.warning(
            "layer %r of split %r: %d values are NaN or infinite, which probes refuse", layer, split, beyond
        )
    return store


@dataclass(frozen=True)
class _Rows:
    """What identifies the rows: classes (n,), names of rows start:stop, and their states, uint8 (n,)."""

    classes: Array
    names: Callable[[int, int], list[str]]
    states: Array


def _write_shards(
    writer: SplitWriter,
    layer: str,
    values: Any,
    rows: _Rows,
    untold: bool,
    told: Callable[[int, int], None] | None,
) -> None:
    """Write the shards that are pending, and compare those that are there with what was given.

    untold: say, once, where the dtype of the layer, which nobody asked for, rounds.
    """
    spec = writer.layers[layer].spec

    def write(shard: Shard, block: Array) -> None:
        at, known = slice(shard.start, shard.stop), rows.names(shard.start, shard.stop)
        writer.write(shard, {layer: block}, rows.classes[at], known, rows.states[at])

    pending = {shard.index: shard for shard in writer.pending()}
    ahead = _ahead(writer.split.geometry.shard_rows * spec.neurons * values.dtype.itemsize)
    waiting: deque[Future[None]] = deque()
    ordered = sorted([*writer.finished(), *pending.values()], key=lambda s: s.index)
    done, total = 0, sum(shard.rows for shard in ordered)
    with ThreadPoolExecutor(3) as pool:  # two compute while one waits for the disk
        for shard in ordered:
            at = slice(shard.start, shard.stop)
            block = np.asarray(values[at])
            if untold:
                untold = not tell_rounding(
                    block, spec.dtype, f"layer {layer!r} of split {writer.split.name!r}"
                )
            if shard.index in pending:
                waiting.append(pool.submit(write, pending[shard.index], block))
            else:
                writer.require_same(
                    shard, layer, block, rows.classes[at], rows.names(shard.start, shard.stop)
                )
            if len(waiting) > ahead:
                waiting.popleft().result()
            done += shard.rows
            if told is not None and done < total:
                told(done, total)
        for future in waiting:
            future.result()
    if told is not None:
        told(total, total)


def _ahead(shard_bytes: int) -> int:
    """Shards that wait to be written while the next one is read: three, fewer where they are large."""
    return max(0, min(2, (1 << 29) // max(1, shard_bytes) - 1))
