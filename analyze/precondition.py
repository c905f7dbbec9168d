"""Preconditioner of nested probes: Cholesky factors of (curvature * Gram + l2), shared by every prefix.

With G the Gram matrix of the panel's columns (mean over rows) and a the mean curvature of one class, the
Hessian of a probe is roughly a G + l2. Its Cholesky factor L is lower triangular, so the leading block of L
is the factor of the leading block of the matrix: one factor serves every nested subset.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from store.errors import InputError


@dataclass(frozen=True)
class Preconditioner:
    """`solve` applies the inverse; factors: float32 lower triangles, one per distinct l2 of the batch."""

    factors: list[Tensor]
    which: Tensor  # int64 (m,): the factor of each probe

    def solve(self, gradient: Tensor, mask: Tensor) -> Tensor:
        """(L_k L_k')^-1 gradient for each probe's own prefix; gradient and result (m, c, w), zero beyond it.

        mask: bool (m, 1, w), the columns of each probe.
        """
        result = torch.empty_like(gradient)
        for i, factor in enumerate(self.factors):
            chosen = (self.which == i).nonzero()[:, 0]
            if not len(chosen):
                continue
            part = gradient[chosen]  # (m', c, w)
            width = int(mask[chosen].any(dim=0).sum())
            small = factor[:width, :width]
            flat = part[..., :width].reshape(-1, width).T  # (w, m' c)
            flat = torch.linalg.solve_triangular(small, flat, upper=False)
            # Forward substitution never looks ahead: the prefix is right, what is beyond it is dropped.
            flat = flat.T.reshape(len(chosen), -1, width) * mask[chosen][..., :width]
            flat = torch.linalg.solve_triangular(small.T, flat.reshape(-1, width).T, upper=True)
            out = torch.zeros_like(part)
            out[..., :width] = flat.T.reshape(len(chosen), -1, width)
            result[chosen] = out
        return result

    def take(self, keep: Tensor) -> "Preconditioner":
        return Preconditioner(self.factors, self.which[keep])


def gram_preconditioner(gram: Tensor, l2: Tensor, curvature: float) -> Preconditioner:
    """From the Gram matrix of the panels, float64 (w, w), and each probe's l2 (m,)."""
    values, which = torch.unique(l2, return_inverse=True)
    factors = [cholesky(gram * curvature, float(value)) for value in values]
    return Preconditioner([factor.float() for factor in factors], which)


def cholesky(matrix: Tensor, ridge: float) -> Tensor:
    """Lower factor of matrix + ridge on the diagonal, intercept (row 0) left out; float64.

    Rounding may leave a singular Gram (duplicate columns, n < d) slightly negative: the ridge is then raised,
    at most to a 1e-6th of the mean diagonal.
    """
    size = float(matrix.diagonal().mean())
    for extra in (0.0, 1e-12, 1e-9, 1e-6):
        shifted = matrix.clone()
        shifted.diagonal()[1:] += ridge + extra * size
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not int(failed):
            return factor
    raise InputError(f"got a Gram matrix that is not positive definite even with l2={ridge:g}; raise l2")
