"""Put features that were made elsewhere into a store, through the same writer as extraction."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from store import catalog
from store.errors import InputError
from store.files import open_files
from store.fingerprint import Fingerprint
from store.layout import DTYPES, LayerSpec, Shard
from store.reader import Store
from store.writer import open_writer

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
    if class_names is None:
        class_names = _stored_names(path, split, int(classes.max()))
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

        def names(shard: Shard) -> list[str]:
            if samples is None:
                return [str(i) for i in range(shard.start, shard.stop)]
            return [str(name) for name in samples[shard.start : shard.stop]]

        def write(shard: Shard) -> None:
            at = slice(shard.start, shard.stop)
            states = None if status is None else np.asarray(status)[at]
            writer.write(shard, {layer: np.asarray(values[at])}, classes[at], names(shard), states)

        for shard in writer.finished():
            at = slice(shard.start, shard.stop)
            writer.require_same(shard, layer, np.asarray(values[at]), classes[at], names(shard))
        with ThreadPoolExecutor(3) as pool:  # two compute while one waits for the disk
            for _ in pool.map(write, writer.pending()):
                pass
        return writer.finish()


def load_npy(path: str | os.PathLike[str], what: str) -> Array:
    """A .npy file, memory-mapped; never unpickled."""
    try:
        return np.load(Path(path), mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{what}: no file {os.fspath(path)!r}") from None
    except (ValueError, OSError, EOFError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{what}: {os.fspath(path)!r} is not a .npy file of numbers ({reason})") from None


def _stored_names(path: str | os.PathLike[str], split: str, largest: int) -> list[str]:
    """The class names that the split has already, if they reach to the largest label."""
    files = open_files(path)
    if files.read("zarr.json") is not None and files.read(f"{split}/zarr.json") is not None:
        names = list(catalog.read_split(files, split).class_names)
        if len(names) > largest:
            return names
    return [str(i) for i in range(largest + 1)]


def _checked(activations: Array) -> Array:
    values = activations if isinstance(activations, np.ndarray) else np.asarray(activations)
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(f"activations have shape {values.shape}: use (samples, neurons), neither of them 0")
    if values.dtype.kind not in "fiu" and values.dtype != DTYPES["bfloat16"]:
        raise InputError(f"activations are {values.dtype}: use float16, bfloat16, float32 or other numbers")
    return values
