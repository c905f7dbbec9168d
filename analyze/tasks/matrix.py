"""Features as probes read them: a float32 array, or rows left in the store; their columns' moments."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from probecache.analyze.tasks.labels import splits_of
from probecache.store.errors import InputError

if TYPE_CHECKING:
    from probecache.store.reader import Store

SMALLEST = float(np.finfo(np.float32).tiny)  # spread that is one: below it a column counts as constant


@dataclass(frozen=True)
class StoredRows:
    """Rows of a layer left in the store and read block by block, for layers larger than memory.

    Stands where a float32 (n, d) array does: has `shape`, and `row_blocks` reads either.
    """

    store: "Store"
    split: str
    layer: str
    keep: np.ndarray  # bool (all rows of the split, or union of splits,): those that are used
    shape: tuple[int, int]
    ndim: int = 2

    def blocks(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """(start among kept rows, float32 (<= rows, d)) in order; one pass over the store."""
        start, first = 0, 0
        for split in splits_of(self.split):
            for offset, block in self.store.blocks(split, self.layer, rows=rows):
                keep = self.keep[first + offset : first + offset + len(block)]
                kept = _float32(block if keep.all() else block[keep])
                require_finite(kept, f"split {split!r}, layer {self.layer!r}", offset)
                if len(kept):
                    yield start, kept
                start += len(kept)
            first += self.store.shape(split, self.layer)[0]


Matrix = np.ndarray | StoredRows


def row_blocks(matrix: Matrix, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """(start, float32 (<= rows, d)) over an array or over stored rows."""
    if isinstance(matrix, StoredRows):
        yield from matrix.blocks(rows)
        return
    for start in range(0, matrix.shape[0], rows):
        yield start, matrix[start : start + rows]


def column_moments(matrix: Matrix, rows: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of each column, float32 (d,) each; scale 1 where constant.

    Two passes in float64, so that a large mean does not swallow a small spread.
    """
    n, d = matrix.shape
    total = np.zeros(d)
    low, high = np.full(d, np.inf), np.full(d, -np.inf)
    for _, block in row_blocks(matrix, rows):
        total += block.sum(axis=0, dtype=np.float64)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    mean = total / n
    square = np.zeros(d)
    for _, block in row_blocks(matrix, rows):
        square += ((block - mean) ** 2).sum(axis=0)
    constant = low == high
    scale = scales(np.where(constant, 0.0, np.sqrt(square / n)))
    return np.where(constant, low, mean).astype(np.float32), scale.astype(np.float32)


def scales(deviation: np.ndarray) -> np.ndarray:
    """What columns of these standard deviations are divided by: 1 where one is constant, or nearly 0."""
    return np.where(deviation >= SMALLEST, deviation, 1.0)


def stored_moments(store: "Store", split: str, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """`column_moments` of a split's usable rows from the store's own, without reading a row."""
    kept = store.moments(split, layer)
    constant = kept["minimum"].values == kept["maximum"].values
    scale = scales(np.where(constant, 0.0, np.sqrt(kept["variance"].values)))
    mean = np.where(constant, kept["minimum"].values, kept["mean"].values)
    return mean.astype(np.float32), scale.astype(np.float32)


def _float32(block: np.ndarray) -> np.ndarray:
    """float32 values. torch widens float16 in half of numpy's time, which every pass over a store pays."""
    if block.dtype != np.float16:
        return np.asarray(block, dtype=np.float32)
    import torch

    return torch.from_numpy(block).float().numpy()


def require_finite(matrix: np.ndarray, where: str, offset: int = 0) -> None:
    """InputError for the first NaN or infinite value, at its row and column."""
    # A sum is finite only if every term is, and needs no boolean copy of the matrix. Finite values whose sum
    # overflows are looked at one by one.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(matrix.sum()):
            return
    bad = np.argwhere(~np.isfinite(matrix))
    if len(bad):
        raise InputError(
            f"got {len(bad)} NaN or infinite values in {where}, first at row {bad[0][0] + offset}, "
            f"column {bad[0][1]}; mark such rows as failed or drop them"
        )
