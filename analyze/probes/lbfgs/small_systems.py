"""The small systems of L-BFGS, as large as its history, of many problems at once: on the CPU, in float64.

Vectors are told of by their inner products alone (`lbfgs/history.py`, whose formulas these are).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

DEPENDENT = 0.003  # of a pair's own scale: what pairs must differ by, to be told apart from rounding
FEWEST = 4  # decrements that a rate is read from
SLOWEST = 0.98
PRIOR = 0.95  # the rate where fewer are known: a start that is near leaves what is slow


@dataclass(frozen=True)
class Weighed:
    """Of a direction -(gamma (P^-1 g - V a) + S b): gamma, slope, known, outside (m,); a, b (m, h), newest
    pairs first. known: a' diag(s'y) a; outside: (g - Y a)'P^-1 (g - Y a)."""

    gamma: np.ndarray
    a: np.ndarray
    b: np.ndarray
    slope: np.ndarray
    known: np.ndarray
    outside: np.ndarray


def weigh(
    products: np.ndarray, scales: np.ndarray, usable: np.ndarray, square: np.ndarray, dots: np.ndarray
) -> Weighed:
    """products, scales: (m, h, h), s_i'y_j and y_i'v_j, of an unusable pair the unit matrix's row and zeros;
    usable: bool (m, h); square: g'P^-1 g, (m,); dots: s'g and v'g, (m, 2, h). Newest pairs first."""
    m = len(square)
    own = products.diagonal(axis1=1, axis2=2)
    # One pair's ratio may be rounding; the median of three, or the lesser of two, is not.
    ratios = np.where(usable, own / scales.diagonal(axis1=1, axis2=2), np.nan)[:, :3]
    count = usable[:, :3].sum(axis=1)
    gamma = np.sort(ratios, axis=1)[np.arange(m), np.maximum(count - 1, 0) // 2]
    gamma = np.where(count > 0, gamma, 1.0)
    along, met = np.where(usable[:, None], dots, 0.0).transpose(1, 0, 2)
    lower = torch.from_numpy(products)
    a = _substitute(lower, along, upper=False)
    rest = met - (scales @ a[..., None])[..., 0]
    b = _substitute(lower.mT, own * a - gamma[:, None] * rest, upper=True)
    slope = -(gamma * (square - (met * a).sum(axis=1)) + (along * b).sum(axis=1))
    known, outside = (own * a * a).sum(axis=1), square - (a * (met + rest)).sum(axis=1)
    return Weighed(gamma, a, b, slope, known, outside)


def _substitute(triangles: Tensor, right: np.ndarray, upper: bool) -> np.ndarray:
    """float64 (m, h): triangles (m, h, h) x = right."""
    sides = torch.from_numpy(right)[..., None]
    found: np.ndarray = torch.linalg.solve_triangular(triangles, sides, upper=upper)[..., 0].numpy()
    return found


def foretold(decrements: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is left, (m,), of decrements (m, 1 + h), the newest first, NaN where there was none.

    Where they shrink by r per step, what is left is their sum, decrement / (1 - r). r and a smoothed
    decrement come from a line through their logarithms. Also whether there were enough.
    """
    some = decrements < np.inf  # NaN is not
    height = np.where(some, np.log(np.maximum(decrements, 1e-300)), 0.0)
    powers = _powers(decrements.shape[1])
    count, first, second = (some @ powers).T
    level, tilted = (height @ powers[:, :2]).T
    middle, level = first / count, level / count
    slope = (tilted - middle * level * count) / np.maximum(second - middle * first, 1e-300)
    trusted, newest = count >= FEWEST, decrements[:, 0]
    rate = np.minimum(np.where(trusted, np.exp(-slope), PRIOR), SLOWEST)
    smooth = np.where(trusted, np.exp(level - slope * middle), newest)
    return np.maximum(newest, smooth) / (1 - rate), trusted


@cache
def _powers(count: int) -> np.ndarray:
    """Of the ages 0, 1, ... of so many decrements: their powers 0, 1 and 2, float64 (count, 3)."""
    return np.arange(count, dtype=np.float64)[:, None] ** np.arange(3)


def softest(products: np.ndarray, scales: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """float64 (m,): the largest y'H^-1 y / y'P^-1 y over the span of the pairs' y, or a little more: S'Y is
    Y'H^-1 Y. products, scales: (m, h, h), as `History` has them of the pairs in use."""
    diagonal = np.arange(scales.shape[1])
    unit = np.where(usable, scales[:, diagonal, diagonal] ** -0.5, 0.0)  # what is unusable counts 0
    units = unit[:, :, None] * unit[:, None]
    soft = (products + products.swapaxes(1, 2)) * (units / 2)
    size = scales * units
    size[:, diagonal, diagonal] = 1 + DEPENDENT
    factor = _factor(size)
    half = torch.linalg.solve_triangular(factor, torch.from_numpy(soft), upper=False)
    power = torch.linalg.solve_triangular(factor, half.mT, upper=False).numpy()
    peak = np.maximum(np.abs(power).max(axis=(1, 2), keepdims=True), 1e-300)
    power = power / peak
    for _ in range(3):
        power = power @ power
    # The eighth root of the sum of the eigenvalues' eighth powers: near the largest, without a decomposition.
    found: np.ndarray = peak[:, 0, 0] * power[:, diagonal, diagonal].sum(axis=1) ** 0.125
    return found


def _factor(size: np.ndarray) -> Tensor:
    """The Cholesky factors of (m, h, h), as far as there are any: torch's wakes all of its threads."""
    try:
        return torch.from_numpy(np.linalg.cholesky(size))
    except np.linalg.LinAlgError:
        return torch.linalg.cholesky_ex(torch.from_numpy(size))[0]
