"""Some of the rows of a matrix, in memory or in the store."""

from dataclasses import replace

import numpy as np

from probecache.analyze.tasks.matrix import Matrix, StoredRows


def rows_of(matrix: Matrix, chosen: np.ndarray) -> Matrix:
    """The chosen rows, bool (n,); rows that are on disk stay there."""
    if isinstance(matrix, StoredRows):
        keep = matrix.keep.copy()
        keep[keep] = chosen
        return replace(matrix, keep=keep, shape=(int(chosen.sum()), matrix.shape[1]))
    return matrix[chosen]
