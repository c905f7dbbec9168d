"""A logistic probe in kernel form: its point, its objective, and the products with its kernel.

The kernel K = X X' of a prefix of the columns is the running sum of kernels of segments of columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from probecache.analyze.probes.lbfgs.history import dot
from probecache.analyze.probes.optim.cross_entropy import loss_and_residual

FACTOR = 3  # rows per column from which two products with the columns are cheaper than one with the kernel
HELD = 2**28  # bytes of matrices K that are held for the prefixes of a column order
LONGEST, TINY = 1e6, 1e-30  # of the intercepts' columns, in least ones; the curvature that is none


@dataclass
class Point:
    """A probe in kernel form: rows (c, n) float32, which sum to zero over n, and intercept (c, 1).

    inner: the rows times the kernel of the size that it is for, where that has been multiplied.
    """

    rows: Tensor
    intercept: Tensor
    inner: Tensor | None = None

    def times(self, scale: float) -> "Point":
        """With its weights, not its intercept, times a scale."""
        return Point(scale * self.rows, self.intercept, None if self.inner is None else scale * self.inner)

    def on(self, problem: "KernelProblem") -> Tensor:
        """`inner`, multiplied once."""
        if self.inner is None:
            self.inner = problem.logits(self.rows)
        return self.inner


@dataclass(frozen=True)
class KernelProblem:
    """One probe.

    exact: float32, the kernel (n, n) of the centred columns, or the columns (k, n) where they are so few that
    two products with them are cheaper; rough: the same in the dtype of Hessian products. spread: the least
    square of the intercepts' columns; truth: as `loss_and_residual` takes it; share: (n,), sample weights
    over their sum.
    """

    exact: Tensor
    rough: Tensor
    spread: float
    l2: float
    truth: Tensor
    share: Tensor

    def spread_at(self, chances: Tensor) -> Tensor:
        """The squares (c, 1) of the intercepts' columns, so long that their curvature is l2 at least: that of
        all other directions where l2 is large. chances: (c, n), the classes'."""
        bend = (chances * (1 - chances)) @ self.share[:, None]
        return (self.l2 / bend.clamp(min=TINY)).clamp(self.spread, LONGEST * self.spread)

    def logits(self, rows: Tensor) -> Tensor:
        """rows (c, n) times the kernel, float32."""
        return self._times(rows, self.exact)

    def nearly(self, rows: Tensor) -> Tensor:
        """The same with products in the dtype of `rough`."""
        return self._times(rows.to(self.rough.dtype), self.rough).float()

    def _times(self, rows: Tensor, factor: Tensor) -> Tensor:
        return rows @ factor if len(factor) == factor.shape[1] else (rows @ factor.T) @ factor

    def objective(self, point: Point) -> float:
        """Mean cross-entropy and penalty at a point."""
        inner = point.on(self)
        entropy, _ = self.entropy(inner + point.intercept)
        return float(entropy) + 0.5 * self.l2 * float(dot(point.rows[None], inner[None]))

    def entropy(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy, a float64 scalar, and the residual (c, n), shares included."""
        loss, residual = loss_and_residual(logits[None].clone(), self.truth, self.share)
        return loss[0], residual[0]


def prefix_factors(columns: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    """What products with the kernel of the first k of columns (d, n) take, for each of sizes, largest first.

    The kernel (n, n), or where a product with it is dearer, the columns (k, n) themselves. Kernels are sums
    over segments of columns, held where they all fit in HELD bytes; else each is made by itself.
    """
    n = columns.shape[1]
    rising = sorted(set(sizes))
    wide = [size for size in rising if FACTOR * size >= n]
    held: list[Tensor] = []
    if len(wide) * 4 * n**2 <= HELD:
        for before, size in pairwise([0, *wide]):
            part = columns[before:size].T @ columns[before:size]
            held.append(part.add_(held[-1]) if held else part)
    for size in reversed(rising):
        if FACTOR * size < n:
            yield columns[:size].contiguous()
        else:
            yield held.pop() if held else columns[:size].T @ columns[:size]
