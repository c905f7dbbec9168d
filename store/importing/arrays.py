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
from probecache.store.format.groups import Split
from probecache.store.importing.formats.matrix import Matrix, require_all_there, require_unpacked
from probecache.store.layout import DTYPES, FAILED, OK, SHARD_ROWS, LayerSpec, Shard, SplitSpec
from probecache.store.progress import Progress, check_progress, reporting
from probecache.store.reader import Store
from probecache.store.storage.files import open_files
from probecache.store.targets import MAX_CLASSES, has_own_missing, make_target
from probecache.store.writer import SplitWriter, open_split_writer
from probecache.store.writing.cast import as_numpy, require_fits, tell_rounding
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
    values, stored = _checked(activations), catalog.find_split(open_files(path), split)
    n, d = values.shape
    if samples is not None and len(samples) != n:
        raise InputError(f"{len(samples)} samples for {n} rows of activations")
    classes, class_names = _classes(labels, class_names, n, path, stored)
    states = _states(status, n)

    def names(start: int, stop: int) -> list[str]:
        return [str(name) for name in (range(start, stop) if samples is None else samples[start:stop])]

    if stored is not None:  # before anything is made: labels of other data leave the store as it was
        require_same_split(open_files(path), stored, classes, names)
    own = {v: k for k, v in DTYPES.items()}.get(values.dtype.newbyteorder("="), "float32")
    if not allow_saturated:  # before anything is made: what is refused leaves the store as it was
        step = shard_rows or (SHARD_ROWS if stored is None else stored.geometry.shard_rows)
        where = f"layer {layer!r} of split {split!r}"
        first, last = rows or (0, n)
        _require_fits(values, states, dtype or own, where, range(first, last, max(step, 1)))
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


def _classes(
    labels: Any, class_names: Sequence[str] | None, n: int, path: str | os.PathLike[str], stored: Split | None
) -> tuple[Array, Sequence[str]]:
    """Labels as positions in the class names; those of the split where none are given."""
    known = [] if stored is None else list(stored.class_names)
    if labels is None:
        classes = np.full(n, -1, np.int64)
        if stored is not None:
            found = Store(open_files(path), partial=True).labels(stored.name)[:n]
            classes[: len(found)] = found
        return classes, known if class_names is None else class_names
    if isinstance(labels, np.ma.MaskedArray) and np.ma.is_masked(labels):
        raise InputError("labels are a masked array: write -1 where a row is unlabelled")
    classes = np.asarray(labels)
    if classes.dtype.kind in "OUTb" or has_own_missing(labels):
        text = make_target("labels", labels, "classes", class_names)
        if class_names is None and set(text.names) <= set(known):
            text = make_target("labels", labels, "classes", known)
        classes, class_names = text.values, text.names
    if classes.shape != (n,) or classes.dtype.kind not in "iu":
        raise InputError(
            f"labels are {classes.dtype} {classes.shape}: use ({n},) integers, one per row, -1 where "
            "there is none; numbers to predict are targets (write_targets)"
        )
    smallest, largest = int(classes.min()), int(classes.max())
    if smallest < -1:
        raise InputError(f"labels go down to {smallest}: number the classes from 0, -1 is unlabelled")
    if largest >= MAX_CLASSES:
        raise InputError(
            f"labels reach {largest}: number the classes from 0, at most {MAX_CLASSES:,} of them"
        )
    if class_names is None:
        class_names = known if len(known) > largest else [str(i) for i in range(largest + 1)]
    elif len(class_names) <= largest:
        raise InputError(f"{len(class_names)} class names for labels up to {largest}: name every class")
    return classes, class_names


def _states(status: Any, n: int) -> Array:
    """The state of each row, all ok where none is given."""
    if status is None:
        return np.full(n, OK, np.uint8)
    states = np.asarray(status)
    if states.shape != (n,) or not np.isin(states, (OK, FAILED)).all():
        raise InputError(
            f"status is {states.dtype} {states.shape}: use ({n},) of {OK} (ok) or {FAILED} (failed), one per "
            "row"
        )
    return states.astype(np.uint8)


def _require_fits(values: Any, states: Array, dtype: str, where: str, starts: range) -> None:
    """ProbecacheError for the first shard that the stored dtype does not hold."""
    if dtype not in DTYPES:
        return  # said where the layer is described
    lossless = dtype != "float16" and values.dtype.itemsize <= DTYPES[dtype].itemsize
    if lossless or not isinstance(values, np.ndarray):
        return
    for start in starts:
        stop = min(start + starts.step, starts.stop)
        block, ok = np.asarray(values[start:stop]), states[start:stop] == OK
        kept = block if ok.all() else block[ok]
        require_fits(kept, dtype, f"{where}, rows {start}:{stop}")


def _ahead(shard_bytes: int) -> int:
    """Shards that wait to be written while the next one is read: three, fewer where they are large."""
    return max(0, min(2, (1 << 29) // max(1, shard_bytes) - 1))


def _plain_frame(frame: Any) -> Any:
    """The values of a DataFrame of numbers, pandas' nullable types too, in which missing is NaN."""
    kinds = {getattr(dtype, "kind", "O") for dtype in frame.dtypes}
    if kinds <= set("fiu") and any(not isinstance(dtype, np.dtype) for dtype in frame.dtypes):
        return frame.to_numpy(np.float64, na_value=np.nan)
    return frame


def _checked(activations: Any) -> Any:
    """What gives (samples, neurons) numbers by rows: an array, or what is like one but not in memory."""
    if isinstance(activations, np.ma.MaskedArray):
        if np.ma.is_masked(activations):
            raise InputError(
                "activations are a masked array with masked values: fill them (.filled(np.nan)), or mark "
                "rows as failed with status"
            )
        activations = activations.data
    if type(activations).__module__.startswith("scipy.sparse"):
        raise InputError(
            f"activations are a {type(activations).__name__} of scipy: make it dense (.toarray())"
        )
    if hasattr(activations, "to_numpy") and hasattr(activations, "columns"):
        activations = _plain_frame(activations)
    lazy = all(hasattr(activations, name) for name in ("shape", "dtype", "__getitem__"))
    if lazy and isinstance(activations.dtype, np.dtype):
        values = activations
    else:
        values = as_numpy(activations, "activations")
    if len(values.shape) != 2 or not all(size == size and size > 0 for size in values.shape):
        raise InputError(f"activations have shape {values.shape}: use (samples, neurons), neither of them 0")
    if isinstance(said := getattr(values, "attrs", None), Mapping):
        require_unpacked(said, "activations")
        require_all_there(values, said, "activations")
    if values.dtype.kind not in "fiu" and values.dtype != DTYPES["bfloat16"]:
        if values.dtype.kind == "V" and values.dtype.itemsize == 2:
            raise InputError(
                "activations are raw 2-byte values, as numpy saves bfloat16: say so by "
                "array.view(ml_dtypes.bfloat16), or save them as float32"
            )
        raise InputError(f"activations are {values.dtype}: use float16, bfloat16, float32 or other numbers")
    if values.dtype.itemsize > 8:
        raise InputError(f"activations are {values.dtype}: use numbers of at most 64 bits")
    return values
