"""Where a batch of logistic probes starts, and its preconditioner: Gram factors, class Grams, or none."""

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design.gram import Moments
from probecache.analyze.probes.design.task_panels import some_rows
from probecache.analyze.probes.optim.cross_entropy import indicator
from probecache.analyze.probes.optim.multinomial import Batch
from probecache.analyze.probes.optim.start import best_scale, newton_start
from probecache.analyze.probes.precondition.preconditioner import NULL, Preconditioner, cholesky, gram_factor
from probecache.analyze.probes.shared_state import SharedState

# Effective rank of the columns: 1.03 to 1.08 of random projections of 1,280 neurons, 31 to 98 of the neurons.
ALIKE = 1.5


def precondition_and_start(
    tasks: list[SharedState],
    orders: list[np.ndarray],
    batch: Batch,
    near: Tensor | None = None,
    curved: bool = True,
    alike: float | None = None,
) -> tuple[Preconditioner, Tensor]:
    """The preconditioner and the starting weights (m, c, w) of a batch.

    tasks: one, or one of two classes for each of the batch's targets, over the same rows.
    near: weights (m, c, w) to start from instead, where they are known. curved: by the class Grams of each
    task, where there are any; else by the Gram matrix that all share. alike: the penalty whose class Grams
    serve instead of the batch's own.
    """
    shared, groups, all_widths, l2s = tasks[0], batch.groups, batch.widths, batch.l2
    classes, device = len(shared.task.classes), shared.device
    targets = torch.zeros_like(groups) if batch.targets is None else batch.targets
    # Few rows tell a scale, and a probe's logits of all of the sample are many where classes are.
    chosen = some_rows(len(shared.sample_labels), max(1024, 2**16 // batch.outputs))
    rows = slice(None) if chosen is None else torch.from_numpy(chosen)
    mask = batch.mask
    factors: list[Tensor | None] = []
    # Plain L-BFGS needs columns of one scale that are not all alike, as random projections are.
    plain = shared.is_scarce and shared.standardize and shared.moments.effective_rank > ALIKE
    which = torch.zeros_like(groups)
    start = torch.zeros(len(which), batch.outputs, 1 + len(orders[0]), device=device)
    sample = shared.sampled(chosen) if near is None else None
    by_gram = near is None or not curved or not shared.levels
    for g, order in enumerate(orders):
        part = shared.moments.take(order)
        index = torch.from_numpy(np.concatenate([[0], order + 1])).to(device)
        panel = None if sample is None else sample[index]
        for l2 in l2s[groups == g].unique().tolist():
            plainly = [gram_factor(part, l2, classes)] if by_gram else []
            gram = Preconditioner([*plainly], torch.zeros_like(which), mask)
            for t, task in enumerate(tasks):
                probes = ((groups == g) & (l2s == l2) & (targets == t)).nonzero()[:, 0]
                widths = all_widths[probes]
                if near is None:
                    assert panel is not None
                    known = Moments(part.gram, task.moments.cross[index], task.moments.square, part.count)
                    truth = indicator(task.sample_labels[rows], batch.outputs)
                    x = newton_start(known, gram, probes)
                    start[probes] = best_scale(x, widths, l2s[probes], panel, truth)
                else:
                    start[probes] = near[probes]
                levels = task.curvature(l2 if alike is None else alike) if curved else []
                limits = [shared.narrow] if plain else [c.widest for c in levels]
                served = torch.bucketize(widths - 1, torch.tensor(limits, dtype=torch.int64))
                for i in served.unique().tolist():
                    mine = probes[served == i]
                    if not levels:
                        factor = None if plain and i else gram.factors[0]
                        if not factors or factors[-1] is not factor:  # tasks share it
                            factors.append(factor)
                        which[mine] = len(factors) - 1
                        continue
                    which[mine] = len(factors)
                    leading = index[: int(all_widths[mine].max())]
                    grams = _taken(levels[i].grams, leading)
                    factors.append(cholesky(grams, l2, most=1e-2, least=NULL))
    return Preconditioner(factors, which, mask).for_products(), start


def _taken(grams: Tensor, index: Tensor) -> Tensor:
    """grams[:, index][:, :, index] of (c, w, w): numpy takes numbers of a row in half of torch's time."""
    if grams.is_cuda:
        return grams[:, index[:, None], index]
    places = index.numpy()
    taken = torch.empty(len(grams), len(index), len(index))
    for gram, out in zip(grams.numpy(), taken.numpy(), strict=True):
        np.take(gram[places], places, axis=1, out=out, mode="clip")
    return taken
