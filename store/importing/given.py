"""What `write_arrays` is given, checked before anything is made: activations, labels, states, their dtype."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probecache.store.errors import InputError
from probecache.store.format.groups import Split
from probecache.store.importing.formats.matrix import require_all_there, require_unpacked
from probecache.store.layout import DTYPES, FAILED, OK
from probecache.store.reader import Store
from probecache.store.storage.files import open_files
from probecache.store.targets import MAX_CLASSES, has_own_missing, make_target
from probecache.store.writing.cast import as_numpy, require_fits

Array = np.ndarray[Any, Any]


def _plain_frame(frame: Any) -> Any:
    """The values of a DataFrame of numbers, pandas' nullable types too, in which missing is NaN."""
    kinds = {getattr(dtype, "kind", "O") for dtype in frame.dtypes}
    if kinds <= set("fiu") and any(not isinstance(dtype, np.dtype) for dtype in frame.dtypes):
        return frame.to_numpy(np.float64, na_value=np.nan)
    return frame


def checked_activations(activations: Any) -> Any:
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


def checked_classes(
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


def checked_states(status: Any, n: int) -> Array:
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


def require_dtype_fits(values: Any, states: Array, dtype: str, where: str, starts: range) -> None:
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
