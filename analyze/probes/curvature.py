"""What the Hessian of a task's logistic probes looks like: one reweighted Gram matrix per class.

The Hessian of multinomial cross-entropy is sum_i (diag p_i - p_i p_i') (x) x_i x_i' / n. Its blocks on the
diagonal, sum_i p_ij (1 - p_ij) x_i x_i' / n for class j, say where class j is decided; the Gram matrix, with
every row weighted alike, does not, and is up to five times slower as a preconditioner.

p comes from a pilot: one probe on the first quarter of the columns and a sample of the rows. A pilot that is
softer than the probes it serves is better than a sharp one. Rows enter the Gram of class j with probability
proportional to p_ij (1 - p_ij) and the inverse weight, so that a few thousand rows per class are enough.
Everything depends on the task and l2 alone, so blocks of any size get the same preconditioner.
"""

import numpy as np
import torch
from torch import Tensor

from analyze.probes.moments import add_gram
from analyze.probes.nested import Segment, forward, segments
from analyze.probes.panels import Panels

ROWS_PER_NEURON = 4  # rows in a class's Gram; fewer than about 3 per neuron and noise costs evaluations


def class_grams(
    panels: Panels, pilot: Tensor, sample: Tensor, weights: Tensor | None = None, seed: int = 0
) -> Tensor:
    """float32 (c, 1 + d, 1 + d): sum_i w_i p_ij (1 - p_ij) x_i x_i' / sum w, estimated by sampling rows.

    panels: one column order; pilot: weights (1, c, 1 + k) of a probe on its first k columns; sample: a panel
    of some rows, which tells how many rows to expect; weights: float32 (n,) sample weights or None.
    """
    _, outputs, k = pilot.shape
    width = panels.width
    wanted = ROWS_PER_NEURON * (width - 1)
    n, device = panels.n_samples, panels.device
    parts = segments([k])
    grams = torch.zeros(outputs, width, width, device=device)
    total = 0.0
    draws = torch.from_numpy(np.random.default_rng(seed).random(n, dtype=np.float32)).to(device)
    kept: list[list[Tensor]] = [[] for _ in range(outputs)]
    expected = _curvature(sample, pilot, parts).mean(dim=1)  # (c,)
    for panel in panels:
        x = panel.of(0)
        curvature = _curvature(x, pilot, parts)  # (c, rows)
        if weights is not None:
            curvature = curvature * weights[panel.rows]
        total += x.shape[1] if weights is None else float(weights[panel.rows].sum())
        chance = (curvature * (wanted / (n * expected[:, None]))).clamp_(max=1)
        for j in range(outputs):
            rows = (draws[panel.rows] < chance[j]).nonzero()[:, 0]
            if len(rows):
                kept[j].append(x[:, rows] * (curvature[j, rows] / chance[j, rows]).sqrt())
            if sum(part.shape[1] for part in kept[j]) > 4096:
                _accumulate(grams[j], kept[j])
    for j in range(outputs):
        _accumulate(grams[j], kept[j])
    return grams.div_(total)


def _accumulate(gram: Tensor, kept: list[Tensor]) -> None:
    """Adds A A' of the rows kept so far; forgets the rows."""
    if not kept:
        return
    a = torch.cat(kept, dim=1)
    kept.clear()
    add_gram(gram, a, a)


def _curvature(x: Tensor, pilot: Tensor, parts: list[Segment]) -> Tensor:
    logits = forward(pilot, x[: pilot.shape[2]], parts)[0]
    p = torch.sigmoid(logits) if logits.shape[0] == 1 else torch.softmax(logits, dim=0)
    return p.mul_(1 - p).clamp_(min=1e-6)
