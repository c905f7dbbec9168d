"""Per-neuron moments of a shard, and their merge over shards.

    delta = x - c,  mean = c + sum(delta)/n,  m2 = sum(delta^2) - sum(delta)^2/n

c is the first panel's mean: sums of delta stay small, and are exactly 0 for a constant neuron. Sums within a
panel are float32, over panels float64. Shards are merged by Chan, Golub and LeVeque's update in shard
order, so whoever finishes a split gets the same bits.
"""

from typing import Any

import ml_dtypes
import numpy as np

from probecache.store.format.metadata import STATISTICS

Array = np.ndarray[Any, Any]
NONFINITE, UNDERFLOW = STATISTICS.index("nonfinite"), STATISTICS.index("underflow")
_PANEL = 255  # zeros of a panel are counted in uint8
_LARGE = 1e15  # above it a square may leave float32


def partial(block: Array) -> Array:
    """Statistics of `block` (rows, neurons): float64 (9, neurons), rows as in STATISTICS.

    count, mean, m2, minimum, maximum and zeros are of the finite values; `nonfinite` counts NaN and
    infinities; `saturated` the infinite ones and those at the dtype's limit; `underflow`, those that the
    cast to this dtype made 0, is for the caller to count.
    """
    d, limit = block.shape[1], float(ml_dtypes.finfo(block.dtype).max)
    step = max(1, min(_PANEL, (1 << 20) // (4 * d) + 1))
    # one buffer that stays in the cache: fresh memory for each panel costs more than the sums
    buffer = np.empty((min(step, len(block)), d), np.float32)
    bound, count = np.float32(min(limit, _LARGE)), 0
    centre: Array | None = None
    first, second, zeros = np.zeros((3, d))
    low, high = np.full(d, np.inf, np.float32), np.full(d, -np.inf, np.float32)
    others = empty(d)
    for start in range(0, len(block), step):
        panel = block[start : start + step]
        x = buffer[: len(panel)]
        _widen(panel, x)
        least, most = x.min(axis=0), x.max(axis=0)
        if not np.all((least > -bound) & (most < bound)):  # NaN compares false
            with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
                others = merge(others, _with_gaps(panel.astype(np.float64), limit))
            continue
        np.minimum(low, least, out=low)
        np.maximum(high, most, out=high)
        zeros += np.add.reduce((x == 0).view(np.uint8), axis=0, dtype=np.uint8)
        if centre is None:
            centre = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        x -= centre
        first += x.sum(axis=0)
        second += np.einsum("ij,ij->j", x, x)
        count += len(x)
    total = empty(d)
    if centre is not None:
        total[0], total[1] = count, centre + first / count
        total[2] = np.maximum(second - first**2 / count, 0)
        total[3], total[4], total[5] = low, high, zeros
    return merge(total, others)


def empty(neurons: int) -> Array:
    """The statistics of no rows."""
    total = np.zeros((len(STATISTICS), neurons))
    total[3], total[4] = np.inf, -np.inf
    return total


def _with_gaps(x: Array, limit: float) -> Array:
    """Statistics of a panel (rows, neurons) float64 with values that are not finite, or very large."""
    finite = np.isfinite(x)
    count = finite.sum(axis=0)
    mean = np.where(finite, x, 0).sum(axis=0) / np.maximum(count, 1)
    return np.stack(
        [
            count,
            mean,
            (np.where(finite, x - mean, 0) ** 2).sum(axis=0),
            np.where(finite, x, np.inf).min(axis=0),
            np.where(finite, x, -np.inf).max(axis=0),
            (x == 0).sum(axis=0),
            (~finite).sum(axis=0),
            (np.abs(x) >= limit).sum(axis=0),
            np.zeros(x.shape[1]),
        ]
    )


def _widen(panel: Array, out: Array) -> None:
    """`panel` as float32 into `out`. Infinite and NaN float16 become finite values beyond its limit.

    float16 by shifting exponent and mantissa into place: numpy's own cast takes ten times as long.
    """
    if panel.dtype != np.float16:
        np.copyto(out, panel, casting="unsafe")
        return
    bits = out.view(np.int32)
    np.copyto(bits, panel.view(np.int16))  # the sign is spread over the upper half
    bits <<= 13
    bits &= ~0x70001FFF
    out *= np.float32(2.0**112)  # the exponents' bias, 127 - 15; subnormals come out right


def merge(a: Array, b: Array) -> Array:
    """Statistics of the rows of `a` followed by those of `b`."""
    n = a[0] + b[0]
    safe = np.maximum(n, 1)
    delta = b[1] - a[1]
    out = a + b  # count, zeros, nonfinite, saturated, underflow
    out[1] = np.where(a[0] == 0, b[1], a[1] + delta * (b[0] / safe))
    out[2] = a[2] + b[2] + delta**2 * (a[0] * b[0] / safe)
    out[3], out[4] = np.minimum(a[3], b[3]), np.maximum(a[4], b[4])
    return out


def counts(total: Array, n_statistics: int) -> dict[str, int]:
    """What a layer's report says of values that its dtype does not hold; of the first `n_statistics`."""
    return {STATISTICS[row]: int(total[row].sum()) for row in range(NONFINITE, n_statistics)}


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
