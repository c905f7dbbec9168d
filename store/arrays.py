"""Put features that were made elsewhere into a store, through the same writer as extraction."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.catalog import Split
from probecache.store.errors import InputError
from probecache.store.fingerprint import Fingerprint
from probecache.store.layout import DTYPES, LayerSpec, Shard
from probecache.store.reader import Store
from probecache.store.storage.files import open_files
from probecache.store.writer import open_writer
from probecache.store.writing.merge_rows import require_same_split

MAX_CLASSES = 1_000_000  # each has a name in the split's document
Array = np.ndarray[Any, Any]


def write_arrays(
    path: str | os.PathLike[str],
    *,
    split: str,
    layer: str,
    activations: Array,
    labels: Array | Sequence[int],
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
) -> Store:
    """Store `activations` (samples, neurons) as one layer; returns the store.

    Read shard by shard, so a memory-mapped array is never loaded whole (three at a time: the disk works while
    the next ones are checked and summed). Killed, the same call goes on where it stopped; FingerprintMismatch
    if the store holds other values, labels or identity than those given.

    labels       (samples,) integers
    samples      what identifies the rows; default the row numbers
    class_names  default what the split has, else "0", "1", ... up to the largest label
    status       (samples,) OK = 1 or FAILED = 2 (stored as NaN)
    dtype        float16, bfloat16 or float32; default the array's own, float32 for any other
    fingerprint  where the features come from; default says only "arrays"
    """
    values, classes = _checked(activations), np.asarray(labels)
    n, d = values.shape
    if classes.shape != (n,) or classes.dtype.kind not in "iu":
        raise InputError(f"labels are {classes.dtype} {classes.shape}: use ({n},) integers, one per row")
    if samples is not None and len(samples) != n:
        raise InputError(f"{len(samples)} samples for {n} rows of activations")

    def names(start: int, stop: int) -> list[str]:
        return [str(name) for name in (range(start, stop) if samples is None else samples[start:stop])]

    stored = _stored_split(path, split)
    if stored is not None:  # before anything is made: labels of other data leave the store as it was
        require_same_split(open_files(path), stored, classes, names)
    largest = int(classes.max())
    if largest >= MAX_CLASSES:
        raise InputError(
            f"labels reach {largest}: number the classes from 0, at most {MAX_CLASSES:,} of them"
        )
    if class_names is None:
        known = [] if stored is None else list(stored.class_names)
        class_names = known if len(known) > largest else [str(i) for i in range(largest + 1)]
    elif len(class_names) <= largest:
        raise InputError(f"{len(class_names)} class names for labels up to {largest}: name every class")
    own = {v: k for k, v in DTYPES.items()}.get(values.dtype, "float32")
    with open_writer(
        path,
        split=split,
        n_samples=n,
        layers=[LayerSpec(layer, d, dtype or own, attrs or {})],
        class_names=class_names,
        fingerprint=fingerprint or Fingerprint(backbone={"source": "arrays"}),
        rows=rows,
        shard_rows=shard_rows,
        compression=compression,
        allow_saturated=allow_saturated,
    ) as writer:

        def write(shard: Shard) -> None:
            at, known = slice(shard.start, shard.stop), names(shard.start, shard.stop)
            states = None if status is None else np.asarray(status)[at]
            writer.write(shard, {layer: np.asarray(values[at])}, classes[at], known, states)

        for shard in writer.finished():
            at, known = slice(shard.start, shard.stop), names(shard.start, shard.stop)
            writer.require_same(shard, layer, np.asarray(values[at]), classes[at], known)
        with ThreadPoolExecutor(3) as pool:  # two compute while one waits for the disk
            for _ in pool.map(write, writer.pending()):
                pass
        return writer.finish()


def load_npy(path: str | os.PathLike[str], what: str) -> Array:
    """A .npy file, memory-mapped; never unpickled."""
    try:
        found = np.load(Path(path), mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{what}: no file {os.fspath(path)!r}") from None
    except (ValueError, OSError, EOFError) as error:
        reason = str(error).split("\n")[0]
        if "pickle" in reason:  # numpy's advice would run what the file says
            reason = "it is of another format, or holds Python objects"
        raise InputError(f"{what}: {os.fspath(path)!r} is not a .npy file of numbers ({reason})") from None
    if not isinstance(found, np.ndarray):
        held = ", ".join(found.files)
        found.close()
        raise InputError(f"{what}: {os.fspath(path)!r} is an archive of {held}: save the one array as .npy")
    return found


def _stored_split(path: str | os.PathLike[str], split: str) -> Split | None:
    files = open_files(path)
    if not catalog.has_document(files, "") or not catalog.has_document(files, split):
        return None
    return catalog.read_split(files, split)


def _checked(activations: Array) -> Array:
    try:
        values = activations if isinstance(activations, np.ndarray) else np.asarray(activations)
    except (TypeError, ValueError, RuntimeError) as error:  # torch's bfloat16 or a GPU's tensor, ragged lists
        raise InputError(f"activations are no numpy array ({error}): convert them first") from None
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(f"activations have shape {values.shape}: use (samples, neurons), neither of them 0")
    if values.dtype.kind not in "fiu" and values.dtype != DTYPES["bfloat16"]:
        raise InputError(f"activations are {values.dtype}: use float16, bfloat16, float32 or other numbers")
    return values
