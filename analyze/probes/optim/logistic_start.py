"""Where a batch of logistic probes starts, and its preconditioner: Gram factors, class Grams, or none."""

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.optim.cross_entropy import indicator, n_outputs
from probecache.analyze.probes.optim.preconditioner import NULL, Preconditioner, cholesky, gram_factor
from probecache.analyze.probes.optim.start import best_scale, newton_start
from probecache.analyze.probes.shared_state import SharedState, some_rows

# Effective rank of the columns: 1.03 to 1.08 of random projections of 1,280 neurons, 31 to 98 of the neurons.
ALIKE = 1.5


def precondition_and_start(
    shared: SharedState,
    orders: list[np.ndarray],
    groups: Tensor,
    all_widths: Tensor,
    l2s: Tensor,
    near: Tensor | None = None,
) -> tuple[Preconditioner, Tensor]:
    """The preconditioner and the starting weights (m, c, w) of a batch.

    groups: int64 (m,), the column order of each probe; all_widths: int64 (m,), 1 + k; l2s: float64 (m,); all
    on the CPU.
    near: weights (m, c, w) to start from instead, where they are known.
    """
    classes, device = len(shared.task.classes), shared.device
    outputs = n_outputs(classes)
    # Few rows tell a scale, and a probe's logits of all of the sample are many where classes are.
    chosen = some_rows(len(shared.sample_labels), max(1024, 2**18 // outputs))
    labels = shared.sample_labels if chosen is None else shared.sample_labels[torch.from_numpy(chosen)]
    truth = indicator(labels, outputs)
    width = int(all_widths.max())
    mask = (torch.arange(width) < all_widths[:, None, None]).to(device)
    factors: list[Tensor | None] = []
    # Plain L-BFGS needs columns of one scale that are not all alike, as random projections are.
    plain = shared.is_scarce and shared.standardize and shared.moments.effective_rank > ALIKE
    which = torch.zeros_like(groups)
    start = torch.zeros(len(which), outputs, 1 + len(orders[0]), device=device)
    sample = shared.sampled(chosen)
    for g, order in enumerate(orders):
        part = shared.moments.take(order)
        index = torch.from_numpy(np.concatenate([[0], order + 1])).to(device)
        panel = sample[index]
        for l2 in l2s.unique().tolist():
            probes = ((groups == g) & (l2s == l2)).nonzero()[:, 0]
            gram = Preconditioner([gram_factor(part, l2, classes)], torch.zeros_like(which), mask)
            widths, penalties = all_widths[probes], l2s[probes]
            if near is None:
                x = newton_start(part, gram, probes)
                start[probes] = best_scale(x, widths, penalties, panel, truth)
            else:
                start[probes] = near[probes]
            levels = shared.curvature(l2)
            limits = [shared.narrow] if plain else [c.widest for c in levels]
            bounds = torch.tensor(limits, dtype=torch.int64)
            served = torch.bucketize(widths - 1, bounds)
            for i in served.unique().tolist():
                mine = probes[served == i]
                which[mine] = len(factors)
                if not levels:
                    factors.append(None if plain and i else gram.factors[0])
                    continue
                leading = index[: int(all_widths[mine].max())]
                grams = levels[i].grams[:, leading[:, None], leading]
                factors.append(cholesky(grams, l2, most=1e-2, least=NULL))
    return Preconditioner(factors, which, mask).for_products(), start
