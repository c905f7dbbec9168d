"""Intrinsic dimension from each row's two nearest neighbours (TwoNN, Facco et al. 2017).

Where rows lie on a manifold of dimension D with a locally constant density, the ratios mu = r2 / r1 of the
distances to the second and the first neighbour follow  P(mu <= x) = 1 - x^-D,  so that

    - log(1 - F(mu_(i))) = D log mu_(i),     F(mu_(i)) = i / n for the i-th smallest ratio

is a line through the origin. D is its least-squares slope over the smaller ratios: the largest tenth, of
rows that stand apart, is left out.
"""

import numpy as np

KEPT = 0.9


def two_nn(rows: np.ndarray, kept: float = KEPT) -> float:
    """D of rows (n, d); copies of a row count once. NaN for fewer than 3 different rows."""
    rows = np.unique(np.asarray(rows, np.float64), axis=0)
    if len(rows) < 3:
        return float("nan")
    near = nearest_two(rows)
    ratios = np.log(np.sort(near[:, 1] / near[:, 0]))
    ranks = np.arange(1, len(rows) + 1) / len(rows)
    count = min(int(kept * len(rows)) or 1, len(rows) - 1)  # the last rank is 1, whose logarithm is infinite
    x, y = ratios[:count], -np.log1p(-ranks[:count])
    return float((x * y).sum() / (x * x).sum()) if (x > 0).any() else float("nan")


def nearest_two(rows: np.ndarray, block: int = 1024) -> np.ndarray:
    """Distances of each row to its two nearest others, float64 (n, 2), of different rows (n, d).

    Candidates are found by products, which round; the distances of the four nearest are then taken by
    differences.
    """
    rows = rows - rows.mean(0)
    squares = (rows**2).sum(1)
    few = min(4, len(rows) - 1)
    out = np.empty((len(rows), 2))
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        apart = squares[None] - 2 * part @ rows.T  # less the row's own square: the order is the same
        apart[np.arange(len(part)), start + np.arange(len(part))] = np.inf
        nearest = np.argpartition(apart, few - 1, axis=1)[:, :few]
        exact = np.sqrt(((rows[nearest] - part[:, None]) ** 2).sum(-1))
        out[start : start + len(part)] = np.sort(exact, axis=1)[:, :2]
    return out
