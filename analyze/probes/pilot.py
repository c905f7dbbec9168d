"""A rough probe on few neurons that tells, before the probes are fitted, where their classes are decided."""

import numpy as np
import torch
from torch import Tensor

from analyze.probes.crossentropy import indicator, n_outputs
from analyze.probes.lockstep import lbfgs
from analyze.probes.logistic import Batch
from analyze.probes.moments import Moments
from analyze.probes.panels import Panels
from analyze.probes.precondition import Preconditioner, gram_factor
from analyze.probes.start import newton_start

TOL = 1e-3
MAX_ITER = 100


def fit_pilot(
    rows: Panels, labels: Tensor, n_classes: int, moments: Moments, k: int, l2: float
) -> tuple[Panels, Tensor]:
    """A logistic probe on the first k neurons, to a relative gap of about 1e-3.

    rows: some rows of the task, as stored; labels: int64, theirs; moments: the whole task's.
    Returns the rows' first k columns, and weights float32 (1, c, 1 + k).
    """
    device = rows.device
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    mean, scale = (None if a is None else a[:k] for a in (rows.mean, rows.scale))
    columns = Panels(np.asarray(rows.matrix)[:, :k], mean, scale, device, keep=True)
    batch = Batch(
        columns,
        zero,
        torch.tensor([1 + k], device=device),
        torch.tensor([l2], dtype=torch.float64, device=device),
        indicator(labels, n_outputs(n_classes)),
    )
    part = Moments(moments.gram[: 1 + k, : 1 + k], moments.cross[: 1 + k], moments.square, moments.count)
    gram = Preconditioner([gram_factor(part, l2, n_classes)], zero, batch.mask)
    start = newton_start(part, gram, zero)
    return columns, lbfgs(batch.evaluate, gram.solve, start, TOL, MAX_ITER).x
