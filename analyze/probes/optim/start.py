"""Where logistic probes start: one Newton step from zero, by the moments, or a wider probe's weights."""

import torch
from torch import Tensor

from probecache.analyze.probes.design.gram import Moments
from probecache.analyze.probes.design.nested_matmul import forward, segments
from probecache.analyze.probes.optim.cross_entropy import loss_and_residual
from probecache.analyze.probes.optim.preconditioner import Preconditioner

SCALES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)


def newton_start(moments: Moments, gram: Preconditioner, which: Tensor) -> Tensor:
    """Weights (a, c, w) of the probes `which` of one column order: (G / c + l2)^-1 times minus the gradient
    at zero; intercepts are the log priors. `moments.cross` is of +-1 targets; `gram` holds the Gram factors.
    """
    x_mean = moments.gram[0]  # (w,)
    prior = (moments.cross[0] + 1) / 2  # (c,)
    with_class = (moments.cross.T + x_mean) / 2  # (c, w): mean of x where the sample is of the class
    one = prior.numel() == 1
    downhill = with_class - prior[:, None] * x_mean
    if one:
        intercept = torch.log(prior / (1 - prior))
    else:
        intercept = torch.log(prior) - torch.log(prior).mean()
    x = gram.solve(downhill.float().expand(len(which), -1, -1), which)
    x[..., 0] = intercept.float()
    return x


def best_scale(
    x: Tensor,
    widths: Tensor,
    l2: Tensor,
    panel: Tensor,
    truth: Tensor,
    scales: tuple[float, ...] = SCALES,
) -> Tensor:
    """x with each probe's weights, not its intercept, times the best of scales on the panel's (w, rows).

    truth: (c, rows). A full step overshoots or falls short by a factor that a few thousand rows tell.
    """
    intercept = x[..., :1].clone()  # (m, c, 1)
    slopes = x.clone()
    slopes[..., 0] = 0
    logits = forward(slopes, panel, segments(widths.tolist()))  # (m, c, rows)
    l2 = l2.to(x.device)
    square = slopes.square().flatten(1).sum(dim=1, dtype=torch.float64)
    losses = []
    for scale in scales:
        loss, _ = loss_and_residual(scale * logits + intercept, truth, None)
        losses.append(loss / panel.shape[1] + 0.5 * l2 * scale**2 * square)
    best = torch.tensor(scales, device=x.device)[torch.stack(losses).argmin(dim=0)]
    return torch.cat([intercept, slopes[..., 1:] * best[:, None, None]], dim=2)


def without_columns(x: Tensor, factor: Tensor, widths: Tensor) -> Tensor:
    """Weights (m, c, w), w the largest of widths int64 (m,): what x (c, w') becomes with so many columns.

    factor: L (w'', w''), w'' >= w'. Where the objective is a parabola about x with Hessian LL', its minimum
    over the columns that are left has the first entries of L'x for its own: columns that are like the lost
    ones make up for them.
    """
    wider = factor[: x.shape[1], : x.shape[1]]
    kept = x @ wider
    found = x.new_zeros(len(widths), len(x), int(widths.max()))
    for i, width in enumerate(widths.tolist()):
        block = wider[:width, :width].contiguous()
        found[i, :, :width] = torch.linalg.solve_triangular(block, kept[:, :width], upper=False, left=False)
    return found
