"""What the Hessian of a task's logistic probes looks like: one reweighted Gram matrix per class.

The Hessian of multinomial cross-entropy is sum_i (diag p_i - p_i p_i') (x) x_i x_i' / n. Its blocks on the
diagonal, sum_i p_ij (1 - p_ij) x_i x_i' / n for class j, say where class j is decided; the Gram matrix, with
every row weighted alike, does not, and is up to five times slower as a preconditioner.

p comes from a pilot (`pilot.py`), no wider than the widest probes that it serves: one that is softer
than the probes is better than a sharp one, and one that is much sharper or softer misleads. Rows enter the
Gram of class j with probability proportional to p_ij (1 - p_ij) and the inverse weight, so that a few
thousand rows per class are enough. All of it depends on the task and l2 alone: blocks of any size get the
same.
"""

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design import bfloat16_product
from probecache.analyze.probes.design.design_matrix import CACHED, Panels, Strip
from probecache.analyze.probes.design.float32_sums import aligned, fast, product
from probecache.analyze.probes.design.gram import add_gram
from probecache.analyze.probes.design.nested_matmul import forward, segments

# Of the widest probes served: with 4, noise costs a third more evaluations; 40 gain little.
ROWS_PER_NEURON = 6
# A class with a smaller share of its wanted rows has the Gram matrix. A third still preconditions better:
# 112 evaluations instead of 173 on 10,000 rows of 1,280 neurons.
FEW = 1 / 12
TOGETHER = 2**29  # bytes of rows that are gathered at a time on a GPU
DENSE = 1.4  # rows for each one drawn up to which columns in memory are multiplied whole, not gathered
LINES = 32  # columns that are gathered at a time: they stay in cache


def class_grams(
    panels: Panels,
    pilots: list[Tensor],
    known: Panels,
    wanted: list[int],
    gram: Tensor,
    weights: Tensor | None = None,
    narrow: bool = False,
) -> list[Tensor]:
    """For each pilot, float32 (c, 1 + d, 1 + d): sum_i w_i p_ij (1 - p_ij) x_i x_i' / sum w, estimated by
    sampling rows. One pass over the rows for all. narrow: each no wider than its pilot.

    panels: one column order, as stored; pilots: weights (c, 1 + k) of probes on their first k columns;
    known: the pilots' columns, of these rows or of some, which tell how many rows to expect; wanted: rows per
    class, of each pilot; gram: (1 + d, 1 + d), every row's: its multiple serves a class of which too few rows
    are drawn; weights: float32 (n,) sample weights or None.
    """
    outputs, n, device = len(pilots[0]), panels.n_samples, panels.device
    widest = max(pilot.shape[1] for pilot in pilots)
    widths = [pilot.shape[1] if narrow else panels.width for pilot in pilots]
    grams = [torch.zeros(outputs, width, width, device=device) for width in widths]
    total = float(n) if weights is None else float(weights.sum(dtype=torch.float64))
    draws = np.random.default_rng(0).random(n, dtype=np.float32)
    expected = [torch.zeros(outputs, 1, device=device) for _ in pilots]
    for panel in known:
        for mean, curvature in zip(expected, _curvatures(panel.of(0), pilots), strict=True):
            mean += curvature.sum(dim=1, keepdim=True) / known.n_samples
    found = [torch.zeros(outputs, 2, dtype=torch.float64, device=device) for _ in pilots]  # rows, curvature
    for strip in panels.strips(widest - 1, known):
        x, here = strip.x, strip.rows
        drawn = torch.from_numpy(draws[here]).to(device)
        curvatures = _curvatures(x, pilots)  # (c, rows) each
        for curvature, blocks, mean, count, seen in zip(
            curvatures, grams, expected, wanted, found, strict=True
        ):
            if weights is not None:
                curvature *= weights[here]
            chance = (curvature * (count / (total * mean))).clamp_(max=1)
            scale = (curvature / chance).sqrt_()
            chosen = drawn < chance  # (c, rows)
            counts = chosen.sum(dim=1)
            seen += torch.stack([counts, curvature.sum(dim=1, dtype=torch.float64)], dim=1)
            # A device is waited for twice for all classes, not for each.
            classes, rows = chosen.nonzero(as_tuple=True)
            own, each = scale[classes, rows], counts.tolist()
            if fast(device) and strip.whole is not None:
                _add_together(blocks, strip.whole, (classes, rows), own, max(each))
                continue
            for j, (those, scales) in enumerate(zip(rows.split(each), own.split(each), strict=True)):
                if len(those):
                    _add_weighted(blocks[j], strip, those, scales)
    for blocks, seen, count in zip(grams, found, wanted, strict=True):
        blocks.div_(total)
        told = seen.cpu()
        few, size = (told[:, 0] < FEW * count).nonzero()[:, 0], blocks.shape[1]
        if len(few):
            means = (told[few, 1] / total).float().to(device)[:, None, None]
            blocks[few.to(device)] = means * gram[:size, :size].float()
    return grams


def _add_together(
    blocks: Tensor, whole: Tensor, drawn: tuple[Tensor, Tensor], scales: Tensor, most: int
) -> None:
    """Adds to each class's block (c, w, w) the Gram matrix of its rows of `whole` (1 + d, n), each times its
    scale, rounded to bfloat16: many classes in one product.

    drawn: classes and rows, int64 (a,) each, in order of the classes; scales: float32 (a,); most: rows of one
    class at most. Classes with fewer have rows of nothing.
    """
    if not most:
        return
    (c, width, _), (classes, rows), device = blocks.shape, drawn, blocks.device
    # Rows are gathered where their numbers lie side by side, at a width that is fast.
    columns = torch.zeros(whole.shape[1], aligned(width), dtype=torch.bfloat16, device=device)
    columns[:, :width] = whole[:width].T
    first = torch.searchsorted(classes, torch.arange(c, device=device))
    place = torch.arange(len(rows), device=device) - first[classes]
    picked = torch.zeros(c, aligned(most), dtype=torch.int64, device=device)
    weight = torch.zeros(c, aligned(most), device=device)
    picked[classes, place], weight[classes, place] = rows, scales
    step = max(1, TOGETHER // (2 * picked.shape[1] * columns.shape[1]))
    for start in range(0, c, step):
        part = slice(start, start + step)
        a = columns[picked[part]].mul_(weight[part, :, None])  # (classes, rows, w)
        blocks[part] += product(a.mT, a)[:, :width, :width]


def _add_weighted(gram: Tensor, strip: Strip, rows: Tensor, scale: Tensor) -> None:
    """Adds the Gram matrix of some rows, each times its scale. Where bfloat16 products have float32 sums, of
    rounded rows: that is a Gram matrix too, which noise of 2^-9 does not harm as a preconditioner."""
    if gram.is_cuda or not bfloat16_product.available():
        a = strip.take(rows)[: len(gram)]
        a *= scale
        add_gram(gram, a, a, blocks=1 if a.is_cuda else 8)
        return
    # Scaled in float32 while they are in cache: a product of two dtypes takes three times as long.
    width = len(gram)
    if strip.whole is None:
        rounded = torch.empty(len(rows), width, dtype=torch.bfloat16).T
        for start in range(0, len(rows), CACHED):
            part = slice(start, start + CACHED)
            rounded[:, part] = strip.take(rows[part])[:width].mul_(scale[part])
    else:
        dense = DENSE * len(rows) > strip.whole.shape[1]
        if dense:
            every = torch.zeros(strip.whole.shape[1])
            every[rows] = scale
        rounded = torch.empty(width, strip.whole.shape[1] if dense else len(rows), dtype=torch.bfloat16)
        for start in range(0, width, LINES):
            lines = slice(start, min(start + LINES, width))
            whole = strip.whole[lines]
            rounded[lines] = whole * every if dense else whole.index_select(1, rows).mul_(scale)
    add_gram(gram, rounded, rounded, blocks=4)


def _curvatures(x: Tensor, pilots: list[Tensor]) -> list[Tensor]:
    """p (1 - p) of each pilot, (c, rows); pilots of one width are multiplied together."""
    outputs, count = len(pilots[0]), x.shape[1]
    found: list[Tensor] = [x] * len(pilots)
    for k in {pilot.shape[1] for pilot in pilots}:
        mine = [i for i, pilot in enumerate(pilots) if pilot.shape[1] == k]
        logits = forward(torch.stack([pilots[i] for i in mine]), x[:k], segments([k] * len(mine)))
        for i, z in zip(mine, logits.view(len(mine), outputs, count), strict=True):
            p = torch.sigmoid(z) if outputs == 1 else torch.softmax(z, dim=0)
            found[i] = p.mul_(1 - p).clamp_(min=1e-6)
    return found
