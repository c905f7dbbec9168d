"""`probecache import`: features that lie in files, larger than memory, bit by bit or not at all."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from probecache.store.errors import InputError
from probecache.store.importing.arrays import write_arrays
from probecache.store.importing.formats.matrix import Matrix
from probecache.store.importing.formats.open import open_matrix
from probecache.store.importing.labels import read_labels
from probecache.store.layout import DTYPES
from probecache.store.reader import Store

_EXACT = [*DTYPES.values(), *(np.dtype(t) for t in ("i1", "u1", "i2", "u2"))]  # all of them fit into float32


def import_features(
    path: str | os.PathLike[str],
    *,
    split: str,
    layer: str,
    activations: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    samples: Sequence[str] | None = None,
    dtype: str | None = None,
    **more: Any,
) -> Store:
    """Import a matrix from a file as one layer of a split, bit for bit or refused.

    Parameters
    ----------
    path : str or Path
        The store, a folder or fsspec URL; made if missing.
    split, layer : str
        Names.
    activations : str or Path
        FILE[:KEY], (samples, neurons): .npy .npz .pt .safetensors .h5 .parquet .zarr, or a pattern of such
        files, joined in the order of their names (part-2 before part-10); read in pieces.
    labels : str, Path or None
        FILE[:COLUMN] of the same formats, .csv, .tsv or .jsonl, in the same order: whole numbers, -1 for
        unlabelled, or texts, which become classes. None: what the split has, else -1.
    samples : list of str or None
        Names of the rows. None: the row numbers.
    dtype : str or None
        "float16", "bfloat16" or "float32". None: as in the file; other numbers are stored as float32 if
        float32 holds each of them (8 and 16 bits), else refused until a dtype says how to round.
    **more
        What else `write_arrays` takes: class_names, status, rows, shard_rows, compression, progress, ...

    Returns
    -------
    Store
        The store, opened.

    Raises
    ------
    InputError
        If a file is not as above, before anything is written.
    FingerprintMismatch
        If the store holds other values, labels or names than the file.

    Examples
    --------
    >>> np.save("x.npy", np.eye(4, dtype=np.float32))
    >>> pc.import_features("other.zarr", split="train", layer="late", activations="x.npy").layers
    ['late']
    """
    matrix = open_matrix(os.fspath(activations), "--activations")
    _require_exact(matrix, dtype)
    given = None if labels is None else read_labels(os.fspath(labels), "--labels")
    return write_arrays(
        path, split=split, layer=layer, activations=matrix, labels=given, samples=samples, dtype=dtype, **more
    )


def _require_exact(matrix: Matrix, dtype: str | None) -> None:
    kind = np.dtype(matrix.dtype)
    if (
        dtype is None
        and len(matrix.shape) == 2
        and kind.kind in "fiu"
        and kind.newbyteorder("=") not in _EXACT
    ):
        raise InputError(
            f"--activations: {kind} has more digits than a store keeps: round it with --dtype float32 (or "
            "float16, bfloat16)"
        )
