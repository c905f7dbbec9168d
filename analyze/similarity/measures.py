"""Similarity of two representations X (n, d) and Y (n, e) of the same samples, from their moments alone.

All read the centred products xx = X'X, yy = Y'Y, xy = X'Y, so that subsets of columns are slices of them.
Each measure declares its range, whether more is more similar, and what it ignores. Names of the measures and
their definitions follow ReSi (Klabunde et al. 2024), save that linear CKA says whether it is debiased.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from probecache.store.errors import InputError, close_names


@dataclass(frozen=True)
class Products:
    """xx (d, d), yy (e, e), xy (d, e), centred, float64; `squares` = the same three of the squared
    columns.
    """

    n: int
    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray
    squares: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def take(self, columns: np.ndarray, other: np.ndarray | None = None) -> "Products":
        """Of the columns `columns` of X and `other` of Y (None: all)."""
        rest = np.arange(self.yy.shape[0]) if other is None else other

        def cut(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            return xx[np.ix_(columns, columns)], yy[np.ix_(rest, rest)], xy[np.ix_(columns, rest)]

        xx, yy, xy = cut(self.xx, self.yy, self.xy)
        return replace(
            self, xx=xx, yy=yy, xy=xy, squares=None if self.squares is None else cut(*self.squares)
        )


@dataclass(frozen=True)
class Measure:
    """A similarity measure and what it declares of itself."""

    name: str
    compute: Callable[[Products], float]
    low: float
    high: float
    larger_is_closer: bool
    invariances: tuple[str, ...]
    symmetric: bool = True
    needs_squares: bool = False


def linear_cka(p: Products) -> float:
    """||X'Y||_F^2 / (||X'X||_F ||Y'Y||_F)  (Kornblith et al. 2019; biased: it grows with d/n)."""
    return float((p.xy**2).sum() / _positive(float(np.linalg.norm(p.xx) * np.linalg.norm(p.yy))))


def linear_cka_debiased(p: Products) -> float:
    """HSIC_1(X, Y) / sqrt(HSIC_1(X, X) HSIC_1(Y, Y)) with Song et al.'s (2012) unbiased HSIC, linear
    kernels.
    """
    if p.squares is None:
        raise InputError(
            "linear_cka_debiased needs the products of the squares: collect them with squares=True"
        )
    n = p.n

    def hsic(product: np.ndarray, square: np.ndarray, a: float, b: float) -> float:
        return float((product**2).sum() - n / (n - 2) * square.sum() + a * b / ((n - 1) * (n - 2)))

    a, b = float(np.trace(p.xx)), float(np.trace(p.yy))
    own = hsic(p.xx, p.squares[0], a, a) * hsic(p.yy, p.squares[1], b, b)
    return float(hsic(p.xy, p.squares[2], a, b) / _positive(np.sqrt(max(own, 0.0))))


def orthogonal_procrustes_centered_and_normalized(p: Products) -> float:
    """min over rotations R of ||X/|X| - Y R/|Y| ||_F = sqrt(2 - 2 ||X'Y||_* / (|X| |Y|)), norms of Frobenius.

    Columns of zeros are appended to the narrower one.
    """
    nuclear = np.linalg.svd(p.xy, compute_uv=False).sum()
    cosine = nuclear / _positive(np.sqrt(np.trace(p.xx) * np.trace(p.yy)))
    return float(np.sqrt(max(0.0, 2 - 2 * cosine)))


def svcca(p: Products, variance: float = 0.99) -> float:
    """Mean canonical correlation of the components that hold 99% of each side's variance (Raghu et al.
    2017).
    """
    x, _ = _whiten(p.xx, variance)
    y, _ = _whiten(p.yy, variance)
    return float(_correlations(x.T @ p.xy @ y).mean())


def pwcca(p: Products) -> float:
    """Canonical correlations weighted by how much of X each variate carries (Morcos et al. 2018).

    Weights: sum_j |<h_i, x_j>| for canonical variate h_i of X and column x_j. Not symmetric: X gives the
    weights.
    """
    x, back = _whiten(p.xx, 1.0)
    y, _ = _whiten(p.yy, 1.0)
    left, values, _ = np.linalg.svd(x.T @ p.xy @ y, full_matrices=False)
    weights = np.abs(left.T @ back).sum(1)  # (variates,)
    return float(np.minimum(values, 1) @ weights / weights.sum())


def _whiten(products: np.ndarray, variance: float) -> tuple[np.ndarray, np.ndarray]:
    """W (d, r) with W' C W = I over the leading components, and W' C (r, d)."""
    values, vectors = np.linalg.eigh(products)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = max(1, int((values > 1e-10 * values[0]).sum()))
    if variance < 1:
        share = np.cumsum(values[:rank]) / values[:rank].sum()
        rank = int(np.searchsorted(share, variance)) + 1
    _positive(values[0])
    root = np.sqrt(values[:rank])
    return vectors[:, :rank] / root, (vectors[:, :rank] * root).T


def _correlations(whitened: np.ndarray) -> np.ndarray:
    return np.minimum(np.linalg.svd(whitened, compute_uv=False), 1)


def _positive(value: float) -> float:
    """NaN in place of zero: a representation without variance has no similarity to anything."""
    return value if value > 0 else np.nan


_TURNS = ("orthogonal transformation", "isotropic scaling", "translation")
_LINEAR = ("invertible linear transformation", *_TURNS)
MEASURES = {
    m.name: m
    for m in (
        Measure("linear_cka", linear_cka, 0.0, 1.0, True, _TURNS),
        Measure("linear_cka_debiased", linear_cka_debiased, -1.0, 1.0, True, _TURNS, needs_squares=True),
        Measure(
            "orthogonal_procrustes_centered_and_normalized",
            orthogonal_procrustes_centered_and_normalized,
            0.0,
            float(np.sqrt(2)),
            False,
            _TURNS,
        ),
        Measure("svcca", svcca, 0.0, 1.0, True, _TURNS),
        # not rotations: the weights are sums of absolute values over X's own columns
        Measure("pwcca", pwcca, 0.0, 1.0, True, _TURNS[1:], symmetric=False),
    )
}


def measure_named(name: str) -> Measure:
    """The measure of that name, or InputError with close names."""
    if name not in MEASURES:
        raise InputError(f"got measure {name!r}; {close_names(name, MEASURES)}")
    return MEASURES[name]
