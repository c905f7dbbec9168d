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
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.lbfgs.gap_estimate import estimate, held_back
from probecache.analyze.probes.lbfgs.small_systems import softest, weigh

LENGTH = 10
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
    theta of the pairs so far. pairs: int64 (m,), how many there have been; taken: as many of them as are the
    problem's own steps. level: float64 (m,), the mean logarithm of the last estimates of the gap. order: the
    slots in use, newest first; they are the first ones. between: what is left is told by theta's and gamma's
    mean.
    """

    vectors: Tensor
    products: Tensor
    scales: Tensor
    usable: Tensor
    decrements: Tensor
    softest: Tensor
    pairs: Tensor
    taken: Tensor
    level: Tensor
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
        softest, count = torch.zeros(m, dtype=torch.float64), torch.zeros(m, dtype=torch.int64)
        level = torch.full_like(softest, torch.nan)
        return cls(vectors, products, scales, usable, decrements, softest, count, count.clone(), level)

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
        for name in ("products", "scales", "usable", "decrements", "softest", "pairs", "taken", "level"):
            setattr(known, name, getattr(self, name)[keep])
        return known

    def of_another(self) -> "History":
        """The pairs, for problems that are nearly the same: what the steps brought down is not theirs."""
        self._settle()
        fresh = History.empty(self.vectors.new_zeros(len(self.pairs), 0))
        return replace(
            self,
            decrements=fresh.decrements,
            softest=KEPT * self.softest,
            taken=fresh.taken,
            level=fresh.level,
            order=list(self.order),
        )

    def solve_again(self, solve: Callable[[Tensor, Tensor], Tensor], shape: torch.Size) -> None:
        """Have the pairs of another preconditioner, in place; solve: its inverse, as `lbfgs` takes it; shape:
        of what a pair is made of."""
        self._settle()
        used = len(self.order)
        every = torch.arange(len(self.pairs)).repeat(used)
        solved = solve(self.changes.reshape(-1, *shape[1:]), every)  # at once: the factors are read once
        _ = self.solved.copy_(solved.view_as(self.solved))
        for slot, (change, solved) in enumerate(zip(self.changes, self.solved, strict=True)):
            scales = _dots(self.solved, change).cpu().double()
            scales[:, slot] = dot(solved, change).cpu()
            scales = scales.masked_fill(~(self.usable[:, :used] & self.usable[:, slot, None]), 0.0)
            self.scales[:, slot, :used] = self.scales[:, :used, slot] = scales
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
        for name in ("softest", "pairs", "taken", "level"):
            getattr(self, name)[rows] = getattr(part, name)
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
        self.pairs, self.taken = self.pairs + 1, self.taken + 1
        pair = self.vectors[self.order[0]]
        s, _, y = pair
        # Its own products decide the step's length: they are summed in float64.
        own = (pair * y).view(3, len(s), -1, shape[-1]).sum(dim=-1)
        length = (s * s).view(len(s), -1, shape[-1]).sum(dim=-1)
        self._untold = [*own, length, _dots(self.steps, y), _dots(self.changes, s), _dots(self.solved, y)]

    def _settle(self, told: np.ndarray | None = None) -> np.ndarray:
        """Have what the newest pair tells: `told` by the device, float64 (m, numbers of `_untold`), which is
        asked for it else. bool (m,): whose newest pair is no step."""
        if not self._untold:
            return np.zeros(len(self.pairs), dtype=bool)
        if told is None:
            told = torch.cat(self._untold, dim=1).cpu().double().numpy()
        self._untold = []
        m, slot, h = len(told), self.order[0], len(self.order)
        dots = told[:, -3 * h :].reshape(m, 3, h)
        curvature, scale, change, length = told[:, : -3 * h].reshape(m, 4, -1).sum(axis=2).T
        products, scales, usable = self.products.numpy(), self.scales.numpy(), self.usable.numpy()
        # Where rounding hides the curvature, a pair would spoil the directions.
        mine = (curvature > 1e-10 * np.sqrt(length * change)) & (scale > 0)
        usable[:, slot] = mine
        dots = np.where((usable[:, :h] & mine[:, None])[:, None], dots, 0.0)
        dots[:, :2, slot] = np.where(mine, curvature, 1.0)[:, None]
        dots[:, 2, slot] = np.where(mine, scale, 0.0)
        products[:, :h, slot], products[:, slot, :h] = dots[:, 0], dots[:, 1]
        scales[:, slot, :h] = scales[:, :h, slot] = dots[:, 2]
        still: np.ndarray = length == 0
        return still

    def direction(self, g: Tensor, solved: Tensor) -> Direction:
        """Minus the quasi-Newton inverse applied to g (m, ...); solved: P^-1 g."""
        flat, h = g.flatten(1), len(self.order)
        asked = [(g * solved).reshape(len(g), -1, g.shape[-1]).sum(dim=-1), *self._untold]
        if h:
            asked += [_dots(self.steps, flat), _dots(self.solved, flat)]
        answer = torch.cat(asked, dim=1).cpu().double().numpy()
        square, rest = np.split(answer, [asked[0].shape[1]], axis=1)
        with np.errstate(all="ignore"):  # what is not finite is not usable, and ends a search
            still = self._settle(rest[:, : rest.shape[1] - 2 * h])
            found = self._weights(square.sum(axis=1), rest[:, rest.shape[1] - 2 * h :])
        weights, slope, left = (torch.from_numpy(part) for part in found)
        there = weights.to(g.dtype).to(g.device, non_blocking=True)[:, None]  # (m, 1, 1 + 2 h)
        vector = solved.flatten(1)[:, None] * there[..., :1]
        if h:
            vector.baddbmm_(there[..., 1 : 1 + h], self.solved.transpose(0, 1))
            vector.baddbmm_(there[..., 1 + h :], self.steps.transpose(0, 1))
        return Direction(vector.view_as(g), slope, left, torch.from_numpy(still))

    def _weights(self, square: np.ndarray, dots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights float64 (m, 1 + 2 h) of P^-1 g, and of v and s by slot, in a direction; its slope; what is
        left. square: g'P^-1 g, (m,); dots: s'g and v'g by slot, (m, 2 h)."""
        m, h = len(square), len(self.order)
        if not h:
            return np.full((m, 1), -1.0), -square, np.full(m, np.inf)
        newest, places = _slots(tuple(self.order))
        usable = self.usable.numpy()[:, newest]
        products, scales = (part.numpy()[:, newest[:, None], newest] for part in (self.products, self.scales))
        found = weigh(products, scales, usable, square, dots.reshape(m, 2, h)[:, :, newest])
        theta = np.maximum(self.softest.numpy(), softest(products, scales, usable))
        self.softest = torch.from_numpy(theta)
        soft = np.sqrt(theta * found.gamma) if self.between else theta
        left = 0.5 * (found.known + soft * np.maximum(found.outside, 0))
        gamma, slope = found.gamma[:, None], found.slope
        weights = np.concatenate([-gamma, (gamma * found.a)[:, places], -found.b[:, places]], axis=1)
        # Rounding may spoil what the history says; the preconditioner alone descends.
        lost = slope >= 0
        if lost.any():
            weights[lost], slope[lost] = 0.0, -square[lost]
            weights[lost, 0] = -1.0
        return weights, slope, left

    def gap(self, decrement: Tensor, left: Tensor) -> Tensor:
        """The gap to the minimum, float64 (m,), as `gap_estimate.py` tells it from the decrement here and
        what is left as the pairs tell it (`direction`). All on the CPU."""
        past = self.decrements.numpy()[:, _slots(tuple(self.order))[0]]
        decrements = np.concatenate([decrement.double().numpy()[:, None], past], axis=1)
        told = estimate(decrements, left.double().numpy(), self.pairs.numpy(), self.between)
        held, level = held_back(told, self.level.numpy(), self.taken.numpy())
        self.level = torch.from_numpy(level)
        return torch.from_numpy(held)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products per problem (m, ...), float64 (m,); float32 sums along the last axis only."""
    return (a * b).sum(dim=-1).double().view(len(a), -1).sum(dim=1)


def _dots(vectors: Tensor, x: Tensor) -> Tensor:
    """(m, h): vectors (h, m, size) times x (m, size), per problem."""
    return torch.bmm(x[:, None], vectors.permute(1, 2, 0))[:, 0]


@cache
def _slots(order: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The slots, newest first, as an index; and where each slot is among them."""
    newest = np.array(order, dtype=np.int64)
    return newest, newest.argsort()
