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

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

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


@dataclass
class History:
    """Up to LENGTH pairs of m problems of `size` numbers each.

    steps, changes, solved: s, y, v, (LENGTH, m, size), zero where a pair is missing or unusable. products,
    scales: float64 (m, LENGTH, LENGTH), s_i'y_j and y_i'v_j, of such a pair the unit matrix's row and zeros.
    usable: bool (m, LENGTH). decrements: float64 (m, LENGTH), on the CPU: half the slope of each step.
    softest: float64 (m,), theta of the pairs so far. pairs: int64 (m,), on the CPU, how many there have been.
    order: the slots in use, newest first. between: what is left is told by theta's and gamma's mean.
    """

    steps: Tensor
    changes: Tensor
    solved: Tensor
    products: Tensor
    scales: Tensor
    usable: Tensor
    decrements: Tensor
    softest: Tensor
    pairs: Tensor
    order: list[int] = field(default_factory=list)
    between: bool = False

    @classmethod
    def empty(cls, like: Tensor) -> "History":
        """No pairs yet, for problems (m, ...)."""
        flat = like.flatten(1)
        s, y, v = (flat.new_zeros(LENGTH, *flat.shape) for _ in range(3))
        products, scales = (flat.new_zeros(len(flat), LENGTH, LENGTH, dtype=torch.float64) for _ in range(2))
        products.diagonal(dim1=1, dim2=2).fill_(1)
        usable = torch.zeros(len(flat), LENGTH, dtype=torch.bool, device=flat.device)
        decrements = torch.full((len(flat), LENGTH), torch.nan, dtype=torch.float64)
        softest = torch.zeros(len(flat), dtype=torch.float64, device=flat.device)
        pairs = torch.zeros(len(flat), dtype=torch.int64)
        return cls(s, y, v, products, scales, usable, decrements, softest, pairs)

    def pick(self, keep: Tensor) -> "History":
        """The problems `keep`, positions on the CPU. All of them are not copied."""
        if len(keep) == len(self.decrements) and bool((keep == torch.arange(len(keep))).all()):
            return self
        there = keep.to(self.steps.device)
        s, y, v = (part[:, there] for part in (self.steps, self.changes, self.solved))
        products, scales, usable = (part[there] for part in (self.products, self.scales, self.usable))
        known = self.decrements[keep], self.softest[there], self.pairs[keep]
        return History(s, y, v, products, scales, usable, *known, list(self.order), self.between)

    def of_another(self) -> "History":
        """The pairs, for problems that are nearly the same: what the steps brought down is not theirs."""
        nothing = torch.full_like(self.decrements, torch.nan)
        return replace(self, decrements=nothing, softest=KEPT * self.softest, order=list(self.order))

    def solve_again(self, solve: Callable[[Tensor], Tensor], shape: torch.Size) -> None:
        """Have the pairs of another preconditioner, in place; solve: its inverse, of what has this shape."""
        for slot in self.order:
            self.solved[slot] = solve(self.changes[slot].view(shape)).flatten(1)
        for slot in self.order:
            self.scales[:, slot] = self.scales[:, :, slot] = _dots(self.solved, self.changes[slot])
            own = dot(self.solved[slot], self.changes[slot])
            self.scales[:, slot, slot] = torch.where(self.usable[:, slot], own, 0.0)
        self.softest = torch.zeros_like(self.softest)

    def put(self, rows: Tensor, part: "History") -> None:
        """The pairs of `part` as those of the problems `rows`, on the CPU, slot by slot, newest first."""
        if part is self:
            return
        slots, there = part.order, rows.to(self.steps.device)
        n = len(slots)
        for mine, theirs in (
            (self.steps, part.steps),
            (self.changes, part.changes),
            (self.solved, part.solved),
        ):
            for i, slot in enumerate(slots):  # all at once would be copied twice
                mine[i].index_copy_(0, there, theirs[slot])
        for mine, theirs in ((self.products, part.products), (self.scales, part.scales)):
            mine[there, :n, :n] = theirs[:, slots][:, :, slots]
        self.usable[there, :n] = part.usable[:, slots]
        self.decrements[rows, :n] = part.decrements[:, slots]
        self.softest[there], self.pairs[rows] = part.softest, part.pairs
        self.order, self.between = list(range(max(n, len(self.order)))), part.between

    def push(self, s: Tensor, y: Tensor, v: Tensor, decrement: Tensor) -> None:
        """Add a pair per problem in the place of the oldest: s, y and P^-1 y, each (m, ...)."""
        slot = self.order.pop() if len(self.order) == LENGTH else len(self.order)
        curvature, scale = dot(s, y), dot(y, v)
        # Where rounding hides the curvature, a pair would spoil the directions.
        usable = (curvature > 1e-10 * (dot(s, s) * dot(y, y)).sqrt()) & (scale > 0)
        self.order.insert(0, slot)
        s, y, v = s.flatten(1), y.flatten(1), v.flatten(1)
        for whole, part in ((self.steps, s), (self.changes, y), (self.solved, v)):
            torch.mul(part, usable[:, None], out=whole[slot])
        self.usable[:, slot] = usable
        self.decrements[:, slot] = decrement
        self.pairs += 1
        self.products[:, slot] = _dots(self.changes, self.steps[slot])
        self.products[:, :, slot] = _dots(self.steps, self.changes[slot])
        self.scales[:, slot] = self.scales[:, :, slot] = _dots(self.solved, self.changes[slot])
        # Its own products decide the step's length, and are summed in float64.
        self.products[:, slot, slot] = torch.where(usable, curvature, 1.0)
        self.scales[:, slot, slot] = torch.where(usable, scale, 0.0)

    def direction(self, g: Tensor, solved: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the quasi-Newton inverse applied to g (m, ...), and what is left to the minimum as the pairs
        tell it, float64 (m,); solved: P^-1 g."""
        if not self.order:
            return -solved, torch.full_like(self.softest, torch.inf)
        flat, slots = g.flatten(1), _slots(tuple(self.order), g.device)
        usable = self.usable[:, slots]
        products = self.products[:, slots][:, :, slots]  # (m, h, h)
        scales = self.scales[:, slots][:, :, slots]
        own = products.diagonal(dim1=1, dim2=2)[..., None]  # (m, h, 1), 1 where a pair is unusable
        # One pair's ratio may be rounding; the median of three is not.
        ratios = torch.where(usable, own[..., 0] / scales.diagonal(dim1=1, dim2=2), torch.nan)
        gamma = ratios[:, :3].nanmedian(dim=1).values.nan_to_num(nan=1.0)[:, None, None]
        lower = products.tril()
        a = torch.linalg.solve_triangular(lower, _dots(self.steps, flat)[:, slots, None], upper=False)
        met = _dots(self.solved, flat)[:, slots, None]
        rest = met - scales @ a
        b = torch.linalg.solve_triangular(lower.mT, own * a - gamma * rest, upper=True)
        direction = solved.flatten(1) * gamma[..., 0].to(g.dtype)
        direction -= _combine(gamma * a, self.solved, slots)
        direction += _combine(b, self.steps, slots)
        self.softest = torch.maximum(self.softest, _softest(products, scales, usable))
        known, outside = (a * own * a).sum(dim=(1, 2)), dot(g, solved) - (a * (met + rest)).sum(dim=(1, 2))
        soft = (self.softest * gamma[:, 0, 0]).sqrt() if self.between else self.softest
        return direction.neg_().view_as(g), 0.5 * (known + soft * outside.clamp(min=0))

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
        past = self.decrements[:, _slots(tuple(self.order), decrement.device)]
        known = torch.cat([decrement[:, None], past], dim=1).clamp(min=1e-300)  # (m, 1 + h), newest first
        age = torch.arange(known.shape[1], dtype=torch.float64, device=known.device)
        weight = torch.isfinite(known).double()
        count = weight.sum(dim=1)
        height = torch.where(weight > 0, known, 1.0).log()
        middle, level = (weight * age).sum(dim=1) / count, (weight * height).sum(dim=1) / count
        spread = (weight * (age - middle[:, None]) ** 2).sum(dim=1)
        slope = (weight * (age - middle[:, None]) * height).sum(dim=1) / spread.clamp(min=1e-300)
        trusted = count >= FEWEST
        rate = torch.where(trusted, (-slope).exp(), PRIOR).clamp(max=SLOWEST)
        smooth = torch.where(trusted, (level - slope * middle).exp(), decrement)
        return torch.maximum(decrement, smooth) / (1 - rate), trusted


def _softest(products: Tensor, scales: Tensor, usable: Tensor) -> Tensor:
    """float64 (m,): the largest y'H^-1 y / y'P^-1 y over the span of the pairs' y, or a little more: S'Y is
    Y'H^-1 Y. products, scales: (m, h, h), as `History` has them of the pairs in use."""
    own = scales.diagonal(dim1=1, dim2=2)
    unit = torch.where(usable, own, 1.0).rsqrt()
    unit = unit[:, :, None] * unit[:, None]
    both = usable[:, :, None] & usable[:, None]
    soft = torch.where(both, (products + products.mT) / 2 * unit, 0.0)
    size = torch.where(both, scales * unit, 0.0)
    size.diagonal(dim1=1, dim2=2).fill_(1 + DEPENDENT)
    factor, _ = torch.linalg.cholesky_ex(size)
    half = torch.linalg.solve_triangular(factor, soft, upper=False)
    power = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    peak = power.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-300)
    power = power / peak
    for _ in range(3):
        power = power @ power
    # The eighth root of the sum of the eigenvalues' eighth powers: near the largest, without a decomposition.
    return peak[:, 0, 0] * power.diagonal(dim1=1, dim2=2).sum(dim=1) ** 0.125


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products per problem (m, ...), float64 (m,); float32 sums along the last axis only."""
    return (a * b).sum(dim=-1).double().view(len(a), -1).sum(dim=1)


def _dots(vectors: Tensor, x: Tensor) -> Tensor:
    """float64 (m, LENGTH): vectors (LENGTH, m, size) times x (m, size), per problem."""
    return torch.bmm(x[:, None], vectors.permute(1, 2, 0))[:, 0].double()


@cache
def _slots(order: tuple[int, ...], device: torch.device) -> Tensor:
    """Slots as an index on the device: a list would be copied there each time, and waited for."""
    return torch.tensor(order, dtype=torch.int64, device=device)


def _combine(weights: Tensor, vectors: Tensor, slots: Tensor) -> Tensor:
    """(m, size): the sum of the vectors in `slots`, each times its weight (m, h, 1)."""
    spread = vectors.new_zeros(len(weights), 1, LENGTH)
    spread[:, 0, slots] = weights[..., 0].to(vectors.dtype)
    return torch.bmm(spread, vectors.permute(1, 0, 2))[:, 0]
