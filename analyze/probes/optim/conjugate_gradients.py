"""A direction of Newton's method in kernel form, by conjugate gradients, and what it leaves of the way.

The direction is known as well as what its steps gain says: they end where one gains little beside all before.
"""

import math

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.optim.kernel_problem import KernelProblem

STEPS = 100
# A step that gains less than this, over the number of steps, of what all have gained is the last: the
# decrement is then known to about as much, whatever the condition. By the residual instead, twice as many
# products were needed, and at tol 1e-2 gaps of 6e-2 passed.
QUADRATIC = 0.5
SOFTEST = 1e-3  # of the least curvature that has been met, in place of l2 where that is smaller


def newton_direction(
    problem: KernelProblem, share: Tensor, spread: Tensor, slope: Tensor, tilt: Tensor
) -> tuple[Tensor, int, float]:
    """The Newton direction (c, n) with minus the gradient on its right side, in kernel form.

    share: (c, n), the classes' chances; spread (c, 1); slope (c, n), tilt (c, 1): the gradient of weights and
    intercepts. Rows of the result sum to the intercepts' part over the spread. Returns it, the number of
    products, and the larger of what the step gains and what it leaves, by the quadratic model.
    """
    l2, n = problem.l2, slope.shape[1]
    left = -slope - tilt / n  # the residual, and its logits
    image = problem.logits(left) - spread * tilt
    rest = float(torch.vdot(left.flatten(), image.flatten()))
    curvature = share * problem.share  # times (1 - share) where there is one output
    if len(share) == 1:
        curvature = curvature * (1 - share)
    step, towards, seen = torch.zeros_like(left), left.clone(), image.clone()
    count, model, now = 0, 0.0, rest
    lengths: list[float] = []
    ratios: list[float] = []
    for count in range(1, STEPS + 1):
        bent = curvature * seen
        if len(share) > 1:
            bent.addcmul_(share, bent.sum(dim=0), value=-1)
        far = problem.nearly(bent)
        # Nothing penalises the intercepts, which are what all rows have alike.
        free = l2 * towards.sum(dim=1, keepdim=True)
        far.add_(seen, alpha=l2).add_((bent.sum(dim=1, keepdim=True) - free) * spread)
        bent.add_(towards, alpha=l2).sub_(free / n)
        bend = float(torch.vdot(seen.flatten(), bent.flatten()))
        if not bend > 0:
            break
        length = rest / bend
        step.add_(towards, alpha=length)
        left.sub_(bent, alpha=length)
        image.sub_(far, alpha=length)
        now = float(torch.vdot(left.flatten(), image.flatten()))
        gain = 0.5 * length * rest
        model += gain
        lengths.append(length)
        ratios.append(max(now, 0.0) / rest)
        if count * gain <= QUADRATIC * model or not 0 < now < math.inf:
            break
        towards.mul_(now / rest).add_(left)
        seen.mul_(now / rest).add_(image)
        rest = now
    return step, count, max(model, _left(lengths, ratios, now, l2))


def _left(lengths: list[float], ratios: list[float], rest: float, l2: float) -> float:
    """What conjugate gradients leave of the quadratic model, whose residual has the square `rest`.

    It is rest / (2 c) of a curvature c from l2 to the least that they have met, a Ritz value of the
    tridiagonal matrix of their lengths and ratios; taken is the geometric mean.
    """
    if not rest > 0:
        return 0.0
    if not lengths:
        return math.inf
    across = 1 / np.array(lengths)
    whole = across + np.concatenate([[0], np.array(ratios[:-1]) * across[:-1]])
    beside = np.sqrt(ratios[:-1]) * across[:-1]
    least = float(np.linalg.eigvalsh(np.diag(whole) + np.diag(beside, -1))[0])  # reads the lower triangle
    return 0.5 * rest / math.sqrt(least * max(l2, SOFTEST * least)) if least > 0 else math.inf
