"""Where a noisy curve first reaches a level, on a grid of sizes, with few measurements.

With scores T_s(j) of seed s at size j and those of the full layer T_s(J), the margin of a tolerance delta is

    m_s(j) = T_s(j) - delta T_s(J),     mean over seeds >= 0   <=>   mean T(j) / mean T(J) >= delta

Three curves are followed at once: the mean of the margins, and the upper and the lower end of its Student-t
interval over seeds. Their first crossings are the critical mass, and the lower and the upper end of its
interval. A size counts only where all seeds were measured there.

1. Pilot: one seed at a few sizes, spread as a geometric series. They only say where to look.
2. Each round measures, with all seeds and for every tolerance, one size within the bracket of each crossing
   that is not yet closed: where a line through what is known crosses, or the middle, where that was slow.
3. Closed brackets do not prove that the first crossing was seen, as a curve need not rise everywhere: every
   size between the lower end and the crossing is measured too. A smaller size that reaches the level is then
   the answer. Below the lower end, where the interval excludes the level, sizes between those measured are
   taken to stay below it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

ROUNDING = 1e-12  # a mean is a rounded sum: what equals delta on paper must not miss it by the last bit
PILOT = 1  # seeds
PILOT_SHARES = (0.03, 0.08, 0.2, 0.45)
KINDS = ("mean", "upper", "lower")
SLOW = 2  # guesses in a bracket before its middle is tried


@dataclass(frozen=True)
class Crossing:
    """Positions on the grid, 1 to J: the first size whose mean reaches the level, and its interval's ends.

    low and high are None with one seed.
    """

    at: int
    low: int | None
    high: int | None


@dataclass
class Search:
    """The state of a search on sizes 1..J; `wanted` says what to measure next, `record` takes it.

    size: J, the full layer. seeds: how many, at least 1. deltas: tolerances in (0, 1].
    full_seeds: how many seeds measure the full layer: 1 where all subsets of d of d neurons are one probe.
    confidence: coverage of the intervals.
    """

    size: int
    seeds: int
    deltas: tuple[float, ...]
    full_seeds: int = 1
    confidence: float = 0.95
    scores: np.ndarray = field(init=False)  # (J + 1, seeds), NaN where not measured; row 0 is unused
    guesses: dict[tuple[float, str], list[int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.scores = np.full((self.size + 1, self.seeds), np.nan)

    def batches(self) -> Iterator[tuple[list[int], list[int]]]:
        """(sizes, seeds) to measure, batch after batch, each to be recorded before the next is asked for."""
        pilot = list(range(min(PILOT, self.seeds)))
        coarse = sorted({max(1, round(share * self.size)) for share in PILOT_SHARES} - {self.size})
        yield [self.size], list(range(self.full_seeds))
        if coarse:
            yield coarse, pilot
        while sizes := self._next():
            yield sizes, list(range(self.seeds))

    def record(self, sizes: list[int], seeds: list[int], scores: np.ndarray) -> None:
        """Scores (sizes, seeds) of a batch."""
        self.scores[np.ix_(sizes, seeds)] = scores
        if self.size in sizes and self.full_seeds == 1:
            self.scores[self.size] = self.scores[self.size, 0]

    def crossing(self, delta: float) -> Crossing:
        """What is known so far; final once `batches` has ended."""
        ends = [self._bracket(delta, kind)[1] for kind in KINDS]
        single = self.seeds == 1
        return Crossing(ends[0], None if single else ends[1], None if single else ends[2])

    @property
    def n_measured(self) -> int:
        """Scores that were measured; the full layer's counts once where one seed stands for all."""
        return int(np.isfinite(self.scores[:-1]).sum()) + self.full_seeds

    @property
    def n_grid(self) -> int:
        """Scores that all sizes and seeds would take."""
        return (self.size - 1) * self.seeds + self.full_seeds

    @property
    def complete(self) -> np.ndarray:
        """Sizes at which all seeds were measured, rising."""
        return np.flatnonzero(np.isfinite(self.scores).all(1))

    def _next(self) -> list[int]:
        sizes: set[int] = set()
        kinds = KINDS if self.seeds > 1 else KINDS[:1]
        for delta in self.deltas:
            for kind in kinds:
                below, first = self._bracket(delta, kind)
                if first - below > 1:
                    sizes.add(self._guess(delta, kind, below, first))
        if sizes:
            return sorted(sizes)
        known = set(self.complete.tolist())
        for delta in self.deltas:
            found = self.crossing(delta)
            if found.low is not None:
                sizes |= set(range(found.low, found.at)) - known
        return sorted(sizes)

    def _bracket(self, delta: float, kind: str) -> tuple[int, int]:
        """(largest complete size below the first that reaches the level, or 0; that first size)."""
        sizes = self.complete
        reached = self._values(sizes, delta, kind) >= -ROUNDING
        # the full layer reaches every level on paper, whatever its interval says at delta = 1
        first = int(reached.argmax()) if reached.any() else len(sizes) - 1
        return (int(sizes[first - 1]) if first else 0), int(sizes[first])

    def _values(self, sizes: np.ndarray, delta: float, kind: str) -> np.ndarray:
        margins = self.scores[sizes] - delta * self.scores[self.size]
        shift = {"mean": 0.0, "upper": 1.0, "lower": -1.0}[kind] * self._half(margins)
        return margins.mean(1) + shift

    def _half(self, margins: np.ndarray) -> np.ndarray:
        """Half the width of the interval of each row's mean."""
        from scipy.special import stdtrit  # Student's t, without the second that scipy.stats takes

        n = self.seeds
        if n == 1:
            return np.zeros(len(margins))
        return stdtrit(n - 1, 0.5 + self.confidence / 2) * margins.std(1, ddof=1) / np.sqrt(n)

    def _guess(self, delta: float, kind: str, below: int, first: int) -> int:
        tried = self.guesses.setdefault((delta, kind), [])
        tried.append(first - below)
        if len(tried) > SLOW and 2 * tried[-1] > tried[-1 - SLOW]:
            tried.clear()
            return (below + first) // 2
        inside = np.arange(below + 1, first)
        reached = self._expected(inside, delta, kind) >= 0
        return int(inside[reached.argmax()]) if reached.any() else first - 1

    def _expected(self, inside: np.ndarray, delta: float, kind: str) -> np.ndarray:
        """The curve between what was measured: straight lines over the logarithm of the size."""
        known = np.flatnonzero(np.isfinite(self.scores).any(1))
        margins = self.scores[known] - delta * np.nanmean(self.scores[self.size])
        mean = np.nanmean(margins, 1)
        curve = np.interp(np.log(inside), np.log(known), mean)
        sizes = self.complete
        half = self._half(self.scores[sizes] - delta * self.scores[self.size])
        sign = {"mean": 0.0, "upper": 1.0, "lower": -1.0}[kind]
        return curve + sign * np.interp(np.log(inside), np.log(sizes), half)
