"""How far problems are from their minima, from what L-BFGS has at hand: no row is read.

Two estimates are made. The pairs': half the squared length of the gradient under an inverse Hessian that
takes the history's softest direction for all that the pairs do not span (`History.direction` has it as
`left`). The line's: a line through the logarithms of the last decrements foretells their sum,
decrement / (1 - r). Each falls short somewhere, so that the larger one counts, times what it was short of on
tasks that were measured (`benchmarks.probes.honest`). It is no bound.
"""

import numpy as np

from probecache.analyze.probes.lbfgs.small_systems import foretold

ENOUGH = 10  # pairs that tell more than one or two decrements do
TOLD = 12  # pairs, with those forgotten, from which on their own estimate of the gap serves
# Few pairs have not met the softest directions: of ten classes the true gap is 1.9 times what 3 pairs tell,
# 1.7 times with 4, 1.4 with 5, 1.1 with 6, and no more than they tell from 7 on.
FEW, LEARNT = 2.6, 0.25
SAFE = 1.5  # of the pairs' estimate: true gaps are 0.4 to 1.5 times it, in nineteen of twenty cases
# Of the geometric mean's, by the steps taken: what a near start leaves lies in typical directions (0.4 times
# the mean at the median, 1.1 at most), what steps leave in soft ones (0.8, 1.0, 1.3; at most 2.3, 3.0, 3.5).
BETWEEN = (1.5, 2.0, 2.5, 3.0)
LINE = 3.0  # of what the decrements foretell, which knows of soft directions that no pair has met
# Steps after which a single estimate is not believed: progress is slow there, estimates swing three- to
# fivefold, and the first one below tol is the luckiest. Their geometric mean, which forgets a fifth with each
# step, is the gap within a third.
SLOW, RECENT = 40, 0.2


def estimate(decrements: np.ndarray, left: np.ndarray, pairs: np.ndarray, between: bool) -> np.ndarray:
    """The gap, float64 (m,): the larger of both estimates.

    decrements: (m, 1 + h), half the slopes at the last points, newest first, NaN where a point is none of
    theirs; left: (m,), the pairs' estimate; pairs: (m,), how many there have been; between: one
    preconditioner serves many classes, and `left` is of the softest direction's and a typical one's mean.
    """
    with np.errstate(all="ignore"):
        ahead, counted = foretold(decrements)
        if between:
            steps = np.isfinite(decrements[:, 1:]).sum(axis=1).clip(max=len(BETWEEN) - 1)
            line = np.where(counted, LINE, 1.0) * ahead
            known = ~counted & (pairs >= ENOUGH)
            return np.maximum(np.array(BETWEEN)[steps] * left, np.where(known, 0.0, line))
        safe = np.where(pairs < TOLD, np.maximum(FEW - LEARNT * pairs, 1), SAFE)
        # A start that is near has too few decrements of its own, and pairs of the one before.
        return np.maximum(safe * left, np.where((pairs < TOLD) | counted, ahead, 0.0))


def held_back(told: np.ndarray, level: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimates (m,), of problems that took more than SLOW steps no less than theirs are on average; and the
    mean logarithms of the last ones, which `level` was before, NaN for none."""
    with np.errstate(all="ignore"):  # without a pair nothing is told: infinity
        height = np.log(np.maximum(told, 1e-300))
        level = np.where(np.isfinite(level), level + RECENT * (height - level), height)
        return np.where(taken < SLOW, told, np.maximum(told, np.exp(level))), level
