"""Rough probes on few neurons that tell, before any probe is fitted, where the classes are decided."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.design.gram import Moments
from probecache.analyze.probes.optim.cross_entropy import indicator, n_outputs
from probecache.analyze.probes.optim.lbfgs import lbfgs
from probecache.analyze.probes.optim.multinomial import Batch
from probecache.analyze.probes.optim.preconditioner import Preconditioner, gram_factor
from probecache.analyze.probes.optim.start import newton_start

TOL = 1e-3
MAX_ITER = 100


def fit_pilots(
    rows: Panels, labels: Tensor, n_classes: int, moments: Moments, ks: list[int], l2: float
) -> tuple[Panels, list[Tensor]]:
    """Logistic probes on the first k neurons, k in ks (largest first), to a relative gap of about 1e-3.

    rows: some rows of the task, as stored; labels: int64, theirs; moments: the whole task's.
    Returns the rows' first ks[0] columns, and weights float32 (c, 1 + k) for each k.
    """
    device, widest = rows.device, ks[0]
    zero = torch.zeros(len(ks), dtype=torch.int64)
    mean, scale = (None if a is None else a[:widest] for a in (rows.mean, rows.scale))
    if rows.source is None:
        columns = Panels(np.asarray(rows.matrix)[:, :widest], mean, scale, device, keep=True)
    else:
        columns = replace(rows, orders=[np.arange(widest)], keep=True)
    widths = torch.tensor(ks) + 1
    penalty = torch.full((len(ks),), l2, dtype=torch.float64)
    batch = Batch(columns, zero, widths, penalty, indicator(labels, n_outputs(n_classes)))
    part = Moments(
        moments.gram[: 1 + widest, : 1 + widest], moments.cross[: 1 + widest], moments.square, moments.count
    )
    gram = Preconditioner([gram_factor(part, l2, n_classes)], zero, batch.mask).for_products()
    start = newton_start(part, gram, torch.arange(len(ks)))
    found = lbfgs(batch.evaluate, gram.solve, start, TOL, MAX_ITER).x
    return columns, [weights[:, : 1 + k] for weights, k in zip(found, ks, strict=True)]
