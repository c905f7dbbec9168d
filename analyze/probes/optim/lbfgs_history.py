"""What L-BFGS has learnt of the curvature of many problems, in compact form.

With s the steps, y the changes of the gradient, P the preconditioner, v = P^-1 y, the newest pair first, and
T the lower triangle of S'Y (each step with its own change and the newer ones), the two loops of L-BFGS are
two triangular systems as small as the history (Byrd, Nocedal and Schnabel 1994):

    T a = S'g,    T' b = diag(s'y) a - gamma (V'g - Y'V a),    direction = -(gamma (P^-1 g - V a) + S b),

where gamma is the median of s'y / y'v over the newest pairs. So the vectors are read twice per direction,
whatever the history, and P^-1 g is the only solve.

The same numbers foretell the gap to the minimum. Half of g'H^-1 g is what the pairs know, a' diag(s'y) a / 2,
and what lies outside them, at most theta (g - Y a)'P^-1 (g - Y a) / 2, where theta bounds H^-1 by P^-1: the
largest that the pairs have shown, over all of their span (a Ritz value). gamma in its place, as in the step,
tells a typical direction, while what is left near the end lies in the softest ones. Where one preconditioner
serves many classes, theta is ten to fifty times gamma, and their geometric mean tells what is left: 0.4 to
1.6 times the true gap in 24 of 25 evaluations, where theta tells 1 to 7 times it. On other tasks the true gap
is up to ten times that mean, but seldom far above both it and what the decrements foretell.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

LENGTH = 10
FEWEST = 4  # decrements that a rate is read from
SLOWEST = 0.98
PRIOR = 0.95  # the rate where fewer are known: a start that is near leaves what is slow
TOLD = 12  # pairs, with those forgotten, from which on their own estimate of the gap serves
DEPENDENT = 0.003  # of a pair's own scale: what pairs must differ by, to be told apart from rounding
# Few pairs have not met the softest directions: of ten classes the true gap is 1.9 times what 3 pairs tell,
# 1.7 times with 4, 1.4 with 5, 1.1 with 6, and no more than they tell from 7 on.
FEW, LEARNT = 2.6, 0.25
SAFE = 1.5  # of the pairs' estimate: true gaps are 0.4 to 1.5 times it, in nineteen of twenty cases
# Of the geometric mean's, by the steps taken: what a near start leaves lies in typical directions (0.4 times
# the mean at the median, 1.1 at most), what steps leave in soft ones (0.8, 1.0, 1.3; at most 2.3, 3.0, 3.5).
BETWEEN = (1.5, 2.0, 2.5, 3.0)
LINE = 3.0  # of what the decrements foretell, which knows of soft directions that no pair has met
KEPT = 0.7  # of the softest direction known of another problem, which is nearly the same


class Direction(NamedTuple):
    """Where to go, (m, ...) on the device. On the CPU, float64 (m,): slope, the objective's along it; left,
    what is left to the minimum as the pairs tell it. still: bool (m,), whose last pair is no step at all."""

    vector: Tensor
    slope: Tensor
    left: Tensor
    still: Tensor


@dataclass
class History:
    """Up to LENGTH pairs of m problems of `size` numbers each.

    vectors: s, v, y of each pair, (LENGTH, 3, m, size). Else all lies on the CPU: a device makes inner
    products and sums of vectors alone, and is waited for once for each direction. products, scales: float64
    (m, LENGTH, LENGTH), s_i'y_j and y_i'v_j, of an unusable pair the unit matrix's row and zeros. usable:
    bool (m, LENGTH). decrements: float64 (m, LENGTH), half the slope of each step. softest: float64 (m,),
    theta of the pairs so far. pairs: int64 (m,), how many there have been. order: the slots in use, newest
    first; they are the first ones. between: what is left is told by theta's and gamma's mean.
    """

    vectors: Tensor
    products: Tensor
    scales: Tensor
    usable: Tensor
    decrements: Tensor
    softest: Tensor
    pairs: Tensor
    order: list[int] = field(default_factory=list)
    between: bool = False
    _untold: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def empty(cls, like: Tensor) -> "History":
        """No pairs yet, for problems (m, ...)."""
        m = len(like)
        vectors = like.new_zeros(LENGTH, 3, m, like[0].numel())
        products, scales = (torch.zeros(m, LENGTH, LENGTH, dtype=torch.float64) for _ in range(2))
        products.diagonal(dim1=1, dim2=2).fill_(1)
        usable = torch.zeros(m, LENGTH, dtype=torch.bool)
        decrements = torch.full((m, LENGTH), torch.nan, dtype=torch.float64)
        softest = torch.zeros(m, dtype=torch.float64)
        return cls(vectors, products, scales, usable, decrements, softest, torch.zeros(m, dtype=torch.int64))

    @property
    def steps(self) -> Tensor:
        """s of the slots in use, (h, m, size)."""
        return self.vectors[: len(self.order), 0]

    @property
    def solved(self) -> Tensor:
        """v = P^-1 y of the slots in use."""
        return self.vectors[: len(self.order), 1]

    @property
    def changes(self) -> Tensor:
        """y of the slots in use."""
        return self.vectors[: len(self.order), 2]

    def pick(self, keep: Tensor) -> "History":
        """The problems `keep`, positions on the CPU. All of them are not copied."""
        if len(keep) == len(self.decrements) and bool((keep == torch.arange(len(keep))).all()):
            return self
        self._settle()
        known = replace(
            self, vectors=self.vectors[:, :, keep.to(self.vectors.device)], order=list(self.order)
        )
        for name in ("products", "scales", "usable", "decrements", "softest", "pairs"):
            setattr(known, name, getattr(self, name)[keep])
        return known

    def of_another(self) -> "History":
        """The pairs, for problems that are nearly the same: what the steps brought down is not theirs."""
        self._settle()
        nothing = torch.full_like(self.decrements, torch.nan)
        return replace(self, decrements=nothing, softest=KEPT * self.softest, order=list(self.order))

    def solve_again(self, solve: Callable[[Tensor], Tensor], shape: torch.Size) -> None:
        """Have the pairs of another preconditioner, in place; solve: its inverse, of what has this shape."""
        self._settle()
        for change, solved in zip(self.changes, self.solved, strict=True):
            _ = solved.copy_(solve(change.view(shape)).flatten(1))
        for slot, (change, solved) in enumerate(zip(self.changes, self.solved, strict=True)):
            scales = self._of_usable(slot, _dots(self.solved, change).double().cpu())
            scales[:, slot] = torch.where(self.usable[:, slot], dot(solved, change).cpu(), 0.0)
            self.scales[:, slot, : len(self.order)] = self.scales[:, : len(self.order), slot] = scales
        self.softest = torch.zeros_like(self.softest)

    def put(self, rows: Tensor, part: "History") -> None:
        """The pairs of `part` as those of the problems `rows`, on the CPU, slot by slot, newest first."""
        if part is self:
            return
        self._settle()
        part._settle()
        slots, there = part.order, rows.to(self.vectors.device)
        n = len(slots)
        for i, slot in enumerate(slots):  # all at once would be copied twice
            self.vectors[i].index_copy_(1, there, part.vectors[slot])
        for mine, theirs in ((self.products, part.products), (self.scales, part.scales)):
            mine[rows, :n, :n] = theirs[:, slots][:, :, slots]
        self.usable[rows, :n] = part.usable[:, slots]
        self.decrements[rows, :n] = part.decrements[:, slots]
        self.softest[rows], self.pairs[rows] = part.softest, part.pairs
        self.order, self.between = list(range(max(n, len(self.order)))), part.between

    def push(self, s: Tensor, y: Tensor, v: Tensor, decrement: Tensor) -> None:
        """Add a pair per problem in the place of the oldest: s, y and P^-1 y, each (m, ...)."""
        for whole, part in zip(self._room(), (s, v, y), strict=True):
            _ = whole.copy_(part.flatten(1))
        self._learn(s.shape, decrement)

    def step(self, here: tuple[Tensor, ...], before: tuple[Tensor, ...], decrement: Tensor) -> None:
        """`push` of the differences of x, P^-1 g and g, each (m, ...), here and before."""
        for whole, new, old in zip(self._room(), here, before, strict=True):
            torch.sub(new.flatten(1), old.flatten(1), out=whole)
        self._learn(here[0].shape, decrement)

    def _room(self) -> Tensor:
        """The newest pair's vectors, (3, m, size), which are to be written."""
        self._settle()
        slot = self.order.pop() if len(self.order) == LENGTH else len(self.order)
        self.order.insert(0, slot)
        return self.vectors[slot]

    def _learn(self, shape: torch.Size, decrement: Tensor) -> None:
        """Ask the device for what the newest pair has to tell, which `_settle` takes from the answer."""
        self.decrements[:, self.order[0]] = decrement
        self.pairs += 1
        pair = self.vectors[self.order[0]]
        s, _, y = pair
        # Its own products decide the step's length: they are summed in float64.
        own = (pair * y).view(3, len(s), -1, shape[-1]).sum(dim=-1)
        length = (s * s).view(len(s), -1, shape[-1]).sum(dim=-1)
        self._untold = [*own, length, _dots(self.steps, y), _dots(self.changes, s), _dots(self.solved, y)]

    def _settle(self, told: Sequence[Tensor] = ()) -> Tensor:
        """Have what the newest pair tells: `told` by the device, which is asked for it else. bool (m,): whose
        newest pair is no step."""
        if not self._untold:
            return torch.zeros_like(self.pairs, dtype=torch.bool)
        if not told:
            told = [part.cpu().double() for part in self._untold]
        self._untold = []
        slot, h = self.order[0], len(self.order)
        curvature, scale, change, length = (part.sum(dim=1) for part in told[:4])
        # Where rounding hides the curvature, a pair would spoil the directions.
        self.usable[:, slot] = (curvature > 1e-10 * (length * change).sqrt()) & (scale > 0)
        usable = self.usable[:, slot]
        columns, rows, scales = (self._of_usable(slot, part) for part in told[4:])
        columns[:, slot] = rows[:, slot] = curvature.masked_fill(~usable, 1.0)
        scales[:, slot] = scale.masked_fill(~usable, 0.0)
        self.products[:, slot, :h], self.products[:, :h, slot] = rows, columns
        self.scales[:, slot, :h] = self.scales[:, :h, slot] = scales
        return length == 0

    def _of_usable(self, slot: int, numbers: Tensor) -> Tensor:
        """Of numbers (m, h) of the pair in a slot with each pair, those of usable ones, else 0."""
        both = self.usable[:, : len(self.order)] & self.usable[:, slot, None]
        return numbers.masked_fill(~both, 0.0)

    def direction(self, g: Tensor, solved: Tensor) -> Direction:
        """Minus the quasi-Newton inverse applied to g (m, ...); solved: P^-1 g."""
        flat, h = g.flatten(1), len(self.order)
        asked = [*self._untold, (g * solved).reshape(len(g), -1, g.shape[-1]).sum(dim=-1)]
        if h:
            asked += [_dots(self.steps, flat), _dots(self.solved, flat)]
        answer = torch.cat(asked, dim=1).cpu().double().split([part.shape[1] for part in asked], dim=1)
        n = len(self._untold)
        still, square = self._settle(answer[:n]), answer[n].sum(dim=1)
        if not h:
            return Direction(-solved, -square, torch.full_like(square, torch.inf), still)
        newest, places = _slots(tuple(self.order))
        usable = self.usable[:, newest]
        missing = ~usable
        products, scales = (part[:, newest[:, None], newest] for part in (self.products, self.scales))
        own = products.diagonal(dim1=1, dim2=2)  # (m, h), 1 where a pair is unusable
        # One pair's ratio may be rounding; the median of three is not.
        ratios = (own / scales.diagonal(dim1=1, dim2=2)).masked_fill_(missing, torch.nan)
        gamma = ratios[:, :3].nanmedian(dim=1, keepdim=True).values.nan_to_num_(nan=1.0)
        along, met = (part[:, newest].masked_fill_(missing, 0.0) for part in answer[n + 1 :])
        a = torch.linalg.solve_triangular(products, along[..., None], upper=False)
        rest = met - (scales @ a)[..., 0]
        a = a[..., 0]
        right = own * a - gamma * rest
        b = torch.linalg.solve_triangular(products.mT, right[..., None], upper=True)[..., 0]
        slope = -(gamma[:, 0] * (square - (met * a).sum(dim=1)) + (along * b).sum(dim=1))
        self.softest = torch.maximum(self.softest, _softest(products, scales, usable))
        known, outside = (own * a * a).sum(dim=1), square - (a * (met + rest)).sum(dim=1)
        soft = (self.softest * gamma[:, 0]).sqrt() if self.between else self.softest
        left = 0.5 * (known + soft * outside.clamp_(min=0))
        weights = torch.cat([-gamma, (gamma * a)[:, places], -b[:, places]], dim=1)
        # Rounding may spoil what the history says; the preconditioner alone descends.
        lost = slope >= 0
        if bool(lost.any()):
            weights[lost], slope[lost] = 0.0, -square[lost]
            weights[lost, 0] = -1.0
        there = weights.to(g.dtype).to(g.device, non_blocking=True)[:, None]  # (m, 1, 1 + 2 h)
        vector = solved.flatten(1)[:, None] * there[..., :1]
        vector.baddbmm_(there[..., 1 : 1 + h], self.solved.transpose(0, 1))
        vector.baddbmm_(there[..., 1 + h :], self.steps.transpose(0, 1))
        return Direction(vector.view_as(g), slope, left, still)

    def gap(self, decrement: Tensor, left: Tensor) -> Tensor:
        """The gap to the minimum, float64 (m,): the larger of what is left as the pairs tell it (`direction`)
        and what the decrements up to this one foretell. All on the CPU.
        """
        foretold, counted = self._foretold(decrement)
        if self.between:
            steps = torch.isfinite(self.decrements).sum(dim=1).clamp(max=len(BETWEEN) - 1)
            line = torch.where(counted, LINE, 1.0) * foretold
            known = ~counted & (self.pairs >= LENGTH)  # pairs tell more than one or two decrements
            return torch.maximum(torch.tensor(BETWEEN)[steps] * left, torch.where(known, 0.0, line))
        safe = torch.where(self.pairs < TOLD, (FEW - LEARNT * self.pairs).clamp(min=1), SAFE)
        # A start that is near has too few decrements of its own, and pairs of the one before.
        return torch.maximum(safe * left, torch.where((self.pairs < TOLD) | counted, foretold, 0.0))

    def _foretold(self, decrement: Tensor) -> tuple[Tensor, Tensor]:
        """Where decrements shrink by r per step, what is left is their sum, decrement / (1 - r). r and a
        smoothed decrement come from a line through their logarithms. Also whether there were enough."""
        past = self.decrements[:, _slots(tuple(self.order))[0]]
        known = torch.cat([decrement[:, None], past], dim=1).clamp(min=1e-300)  # (m, 1 + h), newest first
        some = known < torch.inf  # NaN is not
        height = known.log().masked_fill_(~some, 0.0)
        powers = _powers(known.shape[1])
        count, first, second = (some.double() @ powers).unbind(dim=1)
        level, tilted = (height @ powers[:, :2]).unbind(dim=1)
        middle, level = first / count, level / count
        slope = (tilted - middle * level * count) / (second - middle * first).clamp_(min=1e-300)
        trusted = count >= FEWEST
        rate = (-slope).exp_().masked_fill_(~trusted, PRIOR).clamp_(max=SLOWEST)
        smooth = torch.where(trusted, (level - slope * middle).exp_(), decrement)
        return torch.maximum(decrement, smooth) / (1 - rate), trusted


@cache
def _powers(count: int) -> Tensor:
    """Of the ages 0, 1, ... of so many decrements: their powers 0, 1 and 2, float64 (count, 3)."""
    return torch.arange(count, dtype=torch.float64)[:, None] ** torch.arange(3)


def _softest(products: Tensor, scales: Tensor, usable: Tensor) -> Tensor:
    """float64 (m,): the largest y'H^-1 y / y'P^-1 y over the span of the pairs' y, or a little more: S'Y is
    Y'H^-1 Y. products, scales: (m, h, h), as `History` has them of the pairs in use."""
    unit = scales.diagonal(dim1=1, dim2=2).rsqrt().masked_fill_(~usable, 0.0)  # what is unusable counts 0
    units = unit[:, :, None] * unit[:, None]
    soft = (products + products.mT).mul_(units).div_(2)
    size = scales * units
    size.diagonal(dim1=1, dim2=2).fill_(1 + DEPENDENT)
    factor, _ = torch.linalg.cholesky_ex(size)
    half = torch.linalg.solve_triangular(factor, soft, upper=False)
    power = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    peak = power.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-300)
    power = power.div_(peak)
    for _ in range(3):
        power = power @ power
    # The eighth root of the sum of the eigenvalues' eighth powers: near the largest, without a decomposition.
    return peak[:, 0, 0] * power.diagonal(dim1=1, dim2=2).sum(dim=1) ** 0.125


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products per problem (m, ...), float64 (m,); float32 sums along the last axis only."""
    return (a * b).sum(dim=-1).double().view(len(a), -1).sum(dim=1)


def _dots(vectors: Tensor, x: Tensor) -> Tensor:
    """(m, h): vectors (h, m, size) times x (m, size), per problem."""
    return torch.bmm(x[:, None], vectors.permute(1, 2, 0))[:, 0]


@cache
def _slots(order: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The slots, newest first, as an index; and where each slot is among them."""
    newest = torch.tensor(order, dtype=torch.int64)
    return newest, newest.argsort()
