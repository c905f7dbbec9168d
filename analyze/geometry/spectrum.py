"""Dimensions of a layer by the spectrum of its covariance, and how evenly they are used.

With v_1 >= ... >= v_d >= 0 the eigenvalues of the covariance of the d columns, and p_i = v_i / sum v:

    participation ratio   (sum v)^2 / sum v^2          1 to d
    effective rank        exp(- sum p_i log p_i)       1 to d, Roy and Vetterli 2007, on the covariance
    IsoScore              see `isoscore`               0 to 1

The low end is one direction that varies, the high end all directions alike.

All come from the centred Gram matrix: one pass over the rows for the means, and one for the products.
"""

import numpy as np


def spectrum(products: np.ndarray, n: int) -> np.ndarray:
    """Eigenvalues of the covariance products / n, falling, float64 (d,); rounding below zero is zero."""
    return np.clip(np.linalg.eigvalsh(products / n)[::-1], 0.0, None)


def participation_ratio(values: np.ndarray) -> float:
    """(sum v)^2 / sum v^2 of eigenvalues v; NaN where nothing varies."""
    return _divided(values.sum() ** 2, (values**2).sum())


def effective_rank(values: np.ndarray) -> float:
    """exp of the entropy of the shares v / sum v; NaN where nothing varies."""
    total = values.sum()
    if not total > 0:
        return float("nan")
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def isoscore(values: np.ndarray) -> float:
    """IsoScore of a cloud whose covariance has these eigenvalues.

    In principal coordinates the covariance's diagonal is v. Scaled to the length of the vector of ones, its
    distance from it, delta = ||sqrt(d) v / ||v|| - 1|| / sqrt(2 (d - sqrt d)), lies in [0, 1], and

        IsoScore = ((d - delta^2 (d - sqrt d))^2 / d  -  1) / (d - 1)

    (Rudman, Gillman, Rayne, Eickhoff 2022). NaN for one neuron, or where nothing varies.
    """
    d, length = len(values), float(np.linalg.norm(values))
    if d < 2 or not length > 0:
        return float("nan")
    apart = np.linalg.norm(np.sqrt(d) * values / length - 1) / np.sqrt(2 * (d - np.sqrt(d)))
    return float(((d - apart**2 * (d - np.sqrt(d))) ** 2 / d - 1) / (d - 1))


def components_for(values: np.ndarray, share: float) -> int:
    """The fewest principal components that hold `share` of the variance."""
    held = np.cumsum(values) / values.sum() if values.sum() > 0 else np.ones(len(values))
    return int(np.searchsorted(held, share * (1 - 1e-12))) + 1


def _divided(a: float, b: float) -> float:
    return float(a / b) if b > 0 else float("nan")
