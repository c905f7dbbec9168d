"""What the Hessian of a task's logistic probes looks like: one reweighted Gram matrix per class.

The Hessian of multinomial cross-entropy is sum_i (diag p_i - p_i p_i') (x) x_i x_i' / n. Its blocks on the
diagonal, sum_i p_ij (1 - p_ij) x_i x_i' / n for class j, say where class j is decided; the Gram matrix, with
every row weighted alike, does not, and is up to five times slower as a preconditioner.

p comes from a pilot (`pilot.py`), about half as wide as the widest probes that it serves: one that is softer
than the probes is better than a sharp one, and one that is much sharper or softer misleads. Rows enter the
Gram of class j with probability proportional to p_ij (1 - p_ij) and the inverse weight, so that a few
thousand rows per class are enough. All of it depends on the task and l2 alone: blocks of any size get the
same.
"""

import numpy as np
import torch
from torch import Tensor

from analyze.probes.moments import add_gram
from analyze.probes.nested import Segment, forward, segments
from analyze.probes.panels import Panels
from analyze.task import row_blocks

ROWS_PER_NEURON = (
    6  # of the widest probes served; with 4, noise costs a third more evaluations, 40 gain little
)


def class_grams(
    panels: Panels,
    pilot: Tensor,
    sample: Tensor,
    wanted: int,
    weights: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """float32 (c, 1 + d, 1 + d): sum_i w_i p_ij (1 - p_ij) x_i x_i' / sum w, estimated by sampling rows.

    panels: one column order, as stored; pilot: weights (1, c, 1 + k) of a probe on its first k columns;
    sample: a panel of some rows, which tells how many rows to expect; wanted: rows per class; weights:
    float32 (n,) sample weights or None.
    """
    _, outputs, k = pilot.shape
    width, n, device = panels.width, panels.n_samples, panels.device
    parts = segments([k])
    grams = torch.zeros(outputs, width, width, device=device)
    total = float(n) if weights is None else float(weights.sum(dtype=torch.float64))
    draws = np.random.default_rng(seed).random(n, dtype=np.float32)
    expected = _curvature(sample, pilot, parts).mean(dim=1, keepdim=True)  # (c, 1)
    for start, block in row_blocks(panels.matrix, panels.rows):
        here = slice(start, start + len(block))
        curvature = _curvature(panels.standardised(block[:, : k - 1]), pilot, parts)  # (c, rows)
        if weights is not None:
            curvature = curvature * weights[here]
        chance = (curvature * (wanted / (n * expected))).clamp_(max=1)
        scale = (curvature / chance).sqrt_()
        chosen = torch.from_numpy(draws[here]).to(device) < chance  # (c, rows)
        for j in range(outputs):
            rows = chosen[j].nonzero()[:, 0]
            if len(rows):
                # A row is contiguous in the matrix, and a stride apart in a panel.
                a = panels.design(block[rows.cpu().numpy()])
                a *= scale[j, rows, None]
                add_gram(grams[j], a.T, a.T, blocks=8)
    return grams.div_(total)


def _curvature(x: Tensor, pilot: Tensor, parts: list[Segment]) -> Tensor:
    logits = forward(pilot, x[: pilot.shape[2]], parts)[0]
    p = torch.sigmoid(logits) if logits.shape[0] == 1 else torch.softmax(logits, dim=0)
    return p.mul_(1 - p).clamp_(min=1e-6)
