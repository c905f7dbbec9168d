"""Per-neuron moments of a shard, and their merge over shards.

    delta = x - c,  mean = c + sum(delta)/n,  m2 = sum(delta^2) - sum(delta)^2/n       (c: the panel's
    first row)

Merged by Chan, Golub and LeVeque's update in shard order, so whoever finishes a split gets the same bits.
"""

from typing import Any

import numpy as np

from store.metadata import STATISTICS

Array = np.ndarray[Any, Any]
_PANEL = 255  # zeros of a panel are counted in uint8


def partial(block: Array) -> Array:
    """Statistics of `block` (rows, neurons): float64 (8, neurons), rows as in STATISTICS.

    count, mean, m2, minimum, maximum and zeros are of the finite values; `nonfinite` counts NaN and
    infinities;
    `saturated` the infinite ones and those at the dtype's limit.
    """
    total = empty(block.shape[1])
    step = max(1, min(_PANEL, (1 << 20) // (4 * block.shape[1]) + 1))
    for start in range(0, len(block), step):
        total = merge(total, _panel(block[start : start + step]))
    return total


def empty(neurons: int) -> Array:
    """The statistics of no rows."""
    total = np.zeros((len(STATISTICS), neurons))
    total[3], total[4] = np.inf, -np.inf
    return total


def _panel(block: Array) -> Array:
    limit = np.float32(_limit(block.dtype))
    x = block.astype(np.float32)
    low, high = x.min(axis=0), x.max(axis=0)
    out = np.empty((len(STATISTICS), x.shape[1]))
    if np.all((low > -limit) & (high < limit)):  # every value is finite and below the limit
        n, nonfinite, saturated = len(x), 0, 0
        out[5] = np.add.reduce((x == 0).view(np.uint8), axis=0, dtype=np.uint8)
        centre = x[0].copy()
        x -= centre
        first, second = x.sum(axis=0, dtype=np.float32), np.einsum("ij,ij->j", x, x)
        out[0] = n
        out[1] = centre + first.astype(np.float64) / n
        out[2] = np.maximum(second.astype(np.float64) - first.astype(np.float64) ** 2 / n, 0)
        out[3], out[4], out[6], out[7] = low, high, nonfinite, saturated
        return out
    wide = x.astype(np.float64)
    finite = np.isfinite(wide)
    n_finite = finite.sum(axis=0)
    mean = np.where(finite, wide, 0).sum(axis=0) / np.maximum(n_finite, 1)
    out[0] = n_finite
    out[1] = mean
    out[2] = (np.where(finite, wide - mean, 0) ** 2).sum(axis=0)
    out[3] = np.where(finite, wide, np.inf).min(axis=0)
    out[4] = np.where(finite, wide, -np.inf).max(axis=0)
    out[5] = (wide == 0).sum(axis=0)
    out[6] = (~finite).sum(axis=0)
    out[7] = (np.abs(wide) >= limit).sum(axis=0)
    return out


def _limit(dtype: np.dtype[Any]) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).max)


def merge(a: Array, b: Array) -> Array:
    """Statistics of the rows of `a` followed by those of `b`."""
    n = a[0] + b[0]
    safe = np.maximum(n, 1)
    delta = b[1] - a[1]
    out = a + b  # count, zeros, nonfinite, saturated
    out[1] = np.where(a[0] == 0, b[1], a[1] + delta * (b[0] / safe))
    out[2] = a[2] + b[2] + delta**2 * (a[0] * b[0] / safe)
    out[3], out[4] = np.minimum(a[3], b[3]), np.maximum(a[4], b[4])
    return out


def summary(total: Array) -> dict[str, Array]:
    """mean, variance (over n), minimum, maximum and share of zeros, (neurons,) float64.

    NaN where no rows are.
    """
    n = total[0]
    some = np.where(n > 0, n, np.nan)
    return {
        "mean": np.where(n > 0, total[1], np.nan),
        "variance": total[2] / some,
        "minimum": np.where(n > 0, total[3], np.nan),
        "maximum": np.where(n > 0, total[4], np.nan),
        "zeros": total[5] / some,
    }
