"""Intervals and tests for shares: Wilson's, a bootstrap of groups, McNemar's test, Holm's correction."""

from typing import Any

import numpy as np


def wilson(share: Any, n: Any, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a share of n trials; within [0, 1], and of some width at 0 and at 1 too.

    centre +- half,  centre = (p + z^2 / 2n) / (1 + z^2 / n),
                     half = z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n)

    share, n : float, broadcast. NaN where share is. Returns lower and upper bounds.
    """
    from scipy.stats import norm

    p, n = np.asarray(share, np.float64), np.asarray(n, np.float64)
    z = norm.ppf(0.5 + confidence / 2)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # at 0 and 1 one bound is the share itself, which rounding may miss
    low, high = np.where(p == 0, 0.0, centre - half), np.where(p == 1, 1.0, centre + half)
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def effective_samples(right: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Independent samples that tell as much as the groups do, float64 (c,): p (1 - p) / variance of p.

    right: (g, c), what is right in each group; sizes: (g,), its samples. At most all samples; where every
    group has the same share, the number of groups.
    """
    n, g = sizes.sum(), len(sizes)
    p = right.sum(axis=0) / n
    rest = right - sizes[:, None] * p  # of a ratio of sums, linearised
    variance = (rest**2).sum(axis=0) / n**2
    with np.errstate(divide="ignore", invalid="ignore"):
        found = p * (1 - p) / variance
    return np.where(variance > 0, np.minimum(found, n), g)


def mcnemar(first: Any, second: Any) -> np.ndarray:
    """Exact two-sided p of McNemar's test: samples that only one of two got right, by which one.

    Under no difference `first` of the first + second is binomial with 1/2. 1 where there are none.
    """
    from scipy.stats import binom

    first, second = np.asarray(first), np.asarray(second)
    return np.minimum(1.0, 2 * binom.cdf(np.minimum(first, second), first + second, 0.5))


def bootstrap_means(values: np.ndarray, sizes: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Means over samples under resampling of whole groups, float64 (draws, c).

    values: (g, c), sums over each group's samples; sizes: (g,), samples of each.
    """
    rows, counts = np.unique(np.column_stack([sizes, values]), axis=0, return_counts=True)
    random, total = np.random.default_rng(seed), int(counts.sum())
    out = np.empty((draws, values.shape[1]))
    step = max(1, 2**22 // len(rows))
    for at in range(0, draws, step):  # equal groups are drawn together
        weights = random.multinomial(total, counts / total, min(step, draws - at))
        drawn = weights @ rows
        out[at : at + step] = drawn[:, 1:] / drawn[:, :1]
    return out


def holm(p: Any) -> np.ndarray:
    """p values corrected for how many there are (Holm 1979), in the shape given; NaN is no test.

    The i-th smallest of m becomes the largest of (m - j + 1) p_j for j <= i, at most 1.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64)
    flat = values.ravel()
    order = np.argsort(flat, kind="stable")
    order = order[: np.isfinite(flat).sum()]  # NaN comes last
    steps = np.arange(len(order), 0, -1)
    found = np.full_like(flat, np.nan)
    found[order] = np.minimum(1.0, np.maximum.accumulate(steps * flat[order]))
    return found.reshape(values.shape)
