"""Rough probes on few neurons that tell, before any probe is fitted, where the classes are decided."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.design.gram import Moments
from probecache.analyze.probes.lbfgs.lock_step import lbfgs
from probecache.analyze.probes.optim.cross_entropy import indicator, n_outputs
from probecache.analyze.probes.optim.fit_logistic import search_roughly
from probecache.analyze.probes.optim.multinomial import Batch, search_dtype
from probecache.analyze.probes.optim.start import newton_start
from probecache.analyze.probes.precondition.preconditioner import Preconditioner, gram_factor

TOL = 1e-2
MAX_ITER = 100


def fit_pilots(
    rows: Panels, labels: Tensor, n_classes: int, moments: Moments, ks: list[int], l2: float
) -> tuple[Panels, list[list[Tensor]]]:
    """Logistic probes on the first k neurons, k in ks (largest first), to a relative gap of about 1e-2.

    rows: some rows of the task, as stored; labels: int64, theirs (n,), or (n, t) of t targets of two classes;
    moments: the whole task's, whose cross products are of those targets.
    Returns the rows' first ks[0] columns, and for each target weights float32 (c, 1 + k) for each k.
    """
    device, widest = rows.device, ks[0]
    several = labels.shape[1] if labels.dim() == 2 else 1
    mean, scale = (None if a is None else a[:widest] for a in (rows.mean, rows.scale))
    if rows.source is None:
        columns = Panels(np.asarray(rows.matrix)[:, :widest], mean, scale, device, keep=True)
    else:
        columns = replace(rows, orders=[np.arange(widest)], keep=True)
    widths = torch.tensor(ks).repeat_interleave(several) + 1
    zero, targets = torch.zeros_like(widths), torch.arange(several).repeat(len(ks))
    penalty = torch.full((len(widths),), l2, dtype=torch.float64)
    if labels.dim() == 2:
        batch = Batch(columns, zero, widths, penalty, labels.T.float().contiguous(), targets=targets)
    else:
        batch = Batch(columns, zero, widths, penalty, indicator(labels, n_outputs(n_classes)))
    part = moments.first(widest)
    gram = Preconditioner([gram_factor(part, l2, n_classes)], zero, batch.mask).for_products()
    start = torch.zeros(len(widths), batch.outputs, batch.width, device=device)
    for t in range(several):
        mine = (targets == t).nonzero()[:, 0]
        own = part if labels.dim() == 1 else part.of_target(t)
        start[mine.to(device)] = newton_start(own, gram, mine)
    search = search_dtype(device, batch.flops)
    if search == torch.float32:
        found = lbfgs(batch.evaluate, gram.solve, start, TOL, MAX_ITER).x
    else:
        found = search_roughly(batch, gram, start, TOL, MAX_ITER, search).x
    found = found.view(len(ks), several, *start.shape[1:])
    return columns, [
        [weights[t, :, : 1 + k] for weights, k in zip(found, ks, strict=True)] for t in range(several)
    ]
