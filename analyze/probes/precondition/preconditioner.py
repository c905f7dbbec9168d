"""Preconditioners of nested probes: Cholesky factors shared by every prefix of a column order.

The factor L of a matrix is lower triangular, and its leading block is the factor of the matrix's leading
block: one factor serves every nested subset. Two kinds, both approximate Hessians with l2 added,
or none where a task has few rows per neuron:

- class: one factor per class from `class_grams`. Close to the Hessian, so that a probe takes ten
  to twenty evaluations; c d^2 numbers per order and l2.
- gram: the Gram matrix over the number of classes, one factor for all: the Hessian at zero weights.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from probecache.analyze.probes.design.gram import Moments
from probecache.store.errors import InputError

# Where there is no factor, steps of a probe's intercepts are longer by k / 20: nothing penalises them, and
# near a perfect fit they are what is left to move. From k / 10 to k / 40 it saves a third of the evaluations.
INTERCEPT = 20
# Of a column's diagonal: what l2 is at least in a factor of float32 products. Directions that columns do not
# span (columns twice) have nothing but rounding there; weights of 1e5 that cancel each other came of it.
NULL = 1e-5
# The same in the factor of a Gram matrix that may be of rows rounded to bfloat16: with 1e-5 a column that is
# there three times started with weights of 12 that cancel each other.
ROUGH = 1e-4
BLOCK = 256  # columns of a factor that is inverted


@dataclass(frozen=True)
class Preconditioner:
    """Approximate inverse Hessians of m probes.

    factors: float32 (c or 1, w', w') lower triangles, wide enough for their probes, or None for none;
    which: int64 (m,), each probe's, on the CPU; mask: bool (m, 1, w), each probe's columns. inverted: the
    factors are inverse ones, which are as nested, and to be multiplied by.
    """

    factors: list[Tensor | None]
    which: Tensor
    mask: Tensor
    inverted: bool = False
    _last: list[tuple[Tensor, list["Piece"]]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )
    _cuts: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def for_products(self) -> "Preconditioner":
        """The same with inverse factors, on a GPU: it multiplies in a hundredth of the time that
        substitution takes, which waits for each row before the next."""
        if not self.mask.is_cuda:
            return self
        return Preconditioner(
            [f if f is None else inverse(f) for f in self.factors], self.which, self.mask, True
        )

    def part(self, probes: slice) -> "Preconditioner":
        """Of some of the probes, no wider than the widest of them."""
        mask = self.mask[probes]
        width = int(mask.sum(dim=2).max())
        return Preconditioner(self.factors, self.which[probes], mask[:, :, :width], self.inverted)

    def solve(self, gradient: Tensor, which: Tensor) -> Tensor:
        """(L_k L_k')^-1 gradient (a, c, w) for the probes `which` (a,), each in its own columns.

        which: on the CPU.
        """
        pieces, width = self._pieces(which), gradient.shape[-1]
        if len(pieces) == 1 and pieces[0].rows == slice(0, len(gradient)):  # one for all, as often
            factor = self.factors[pieces[0].factor]
            if factor is not None and factor.shape[-1] >= width:
                return self._solve(factor[:, :width, :width], gradient, pieces[0].mask[:, :, :width])
        result = torch.zeros_like(gradient)
        for piece in pieces:
            rows, factor = piece.rows, self.factors[piece.factor]
            if factor is None:
                result[rows] = gradient[rows]
                result[rows, :, 0] *= (piece.mask.sum(dim=2) / INTERCEPT).clamp(min=1)
                continue
            w = min(factor.shape[-1], width)
            factor = self._cut(piece.factor, factor, w)
            result[rows, :, :w] = self._solve(factor, gradient[rows, :, :w], piece.mask[:, :, :w])
        return result

    def _cut(self, at: int, factor: Tensor, width: int) -> Tensor:
        """A factor's leading block. Substitution by a block that is not contiguous copies it, every time:
        twenty of 1,217 columns then take 160 ms, by a block that is kept 9."""
        if self.inverted or factor.shape[-1] == width:
            return factor[:, :width, :width]
        if at not in self._cuts or self._cuts[at].shape[-1] != width:
            self._cuts[at] = factor[:, :width, :width].contiguous()
        return self._cuts[at]

    def _pieces(self, which: Tensor) -> list["Piece"]:
        """The probes `which` by their factors, remembered while the same ones are asked for."""
        if not self._last or not (self._last[0][0] is which or torch.equal(self._last[0][0], which)):
            own, pieces = self.which[which], []
            for i in own.unique().tolist():
                mine = (own == i).nonzero()[:, 0]
                first, last = int(mine[0]), int(mine[-1])
                together = last - first + 1 == len(mine)
                rows = slice(first, last + 1) if together else mine.to(self.mask.device)
                pieces.append(Piece(i, rows, self.mask[which[mine].to(self.mask.device)]))
            self._last[:] = [(which, pieces)]
        return self._last[0][1]

    def _solve(self, factor: Tensor, gradient: Tensor, mask: Tensor) -> Tensor:
        a, c, width = gradient.shape
        if factor.shape[0] == 1:
            columns = self._forward(factor, gradient.reshape(1, a * c, width).mT)  # (1, w, a c)
            # Forward substitution never looks ahead: the prefix is right, what is beyond it is dropped.
            columns = (columns.mT.reshape(a, c, width) * mask).reshape(1, a * c, width).mT
            return self._back(factor, columns).mT.reshape(a, c, width)
        columns = self._forward(factor, gradient.permute(1, 2, 0)).mul_(mask.permute(1, 2, 0))  # (c, w, a)
        return _without_shift(self._back(factor, columns))

    def _forward(self, factor: Tensor, columns: Tensor) -> Tensor:
        if self.inverted:
            return factor @ columns
        return torch.linalg.solve_triangular(factor, columns, upper=False)

    def _back(self, factor: Tensor, columns: Tensor) -> Tensor:
        if self.inverted:
            return factor.mT @ columns
        return torch.linalg.solve_triangular(factor.mT, columns, upper=True)


@dataclass(frozen=True)
class Piece:
    """Probes of one factor: their rows in a batch, a slice where they are neighbours, and their columns."""

    factor: int
    rows: slice | Tensor
    mask: Tensor


def _without_shift(columns: Tensor) -> Tensor:
    """Columns (c, w, a) as (a, c, w), contiguous, less their mean over the classes."""
    solved = columns.permute(2, 0, 1)
    if solved.shape[1] == 1:
        return solved.contiguous()
    # Shifting all classes alike changes no probability: without the projection the factors, which do not
    # know that, would send steps into that flat direction.
    out = torch.empty(solved.shape, dtype=solved.dtype, device=solved.device)
    return torch.sub(solved, solved.mean(dim=1, keepdim=True), out=out)


def inverse(factor: Tensor) -> Tensor:
    """Of lower triangles (..., w, w), by blocks, as products of their inverses. Its leading blocks are the
    inverses of the leading blocks."""
    out, width = torch.zeros_like(factor), factor.shape[-1]
    for start in range(0, width, BLOCK):
        here, before = slice(start, min(start + BLOCK, width)), slice(0, start)
        square = factor[..., here, here]
        one = torch.eye(square.shape[-1], dtype=factor.dtype, device=factor.device)
        own = torch.linalg.solve_triangular(square, one.expand_as(square), upper=False)
        out[..., here, here] = own
        if start:
            torch.neg(
                own @ (factor[..., here, before] @ out[..., before, before]), out=out[..., here, before]
            )
    return out


def gram_factor(moments: Moments, l2: float, n_classes: int) -> Tensor:
    """Cholesky factor float32 (1, w, w) of the Hessian at zero weights, near enough: Gram / classes + l2."""
    softness = 4 if n_classes == 2 else n_classes
    return cholesky(moments.gram[None] / softness, l2, most=1e-2, least=ROUGH).float()


def cholesky(matrix: Tensor, ridge: float, most: float = 1e-4, least: float = 0.0) -> Tensor:
    """Lower factors of (..., w, w) with `ridge` added to the diagonal, the intercept's row 0 left out.

    Rounding may leave a singular Gram (duplicate columns, n < d) slightly negative: the ridge is then raised,
    at most by `most` times the mean diagonal. Where the ridge is smaller than `least` of a column's own
    diagonal, that is added instead.
    """
    size = float(matrix.diagonal(dim1=-2, dim2=-1).mean())
    for extra in (e for e in (0.0, 1e-12, 1e-9, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2) if e <= most):
        shifted = matrix.clone()
        slopes = shifted.diagonal(dim1=-2, dim2=-1)[..., 1:]
        slopes += (least * slopes).clamp(min=ridge) + extra * size
        shifted.diagonal(dim1=-2, dim2=-1)[..., 0] += extra * size
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not bool(failed.any()):
            return factor
    raise InputError(
        f"got columns whose Gram matrix is not positive definite even with l2={ridge:g}; raise l2"
    )
