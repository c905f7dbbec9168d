"""Products of nested probes with rows as they are stored: nothing is standardised, ordered or gathered.

Standardisation is folded into the weights, which are put where their columns lie in the store, zeros between
them: one wide product per block of rows. Few weight vectors are served so, for whom arranging the rows costs
more than the zeros; and columns whose means are not so large beside their spreads that float32 sums of them
would lose the spreads.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.tasks.matrix import row_blocks

# Weight vectors of one order up to which the zeros are cheaper: arranging a number of a test matrix takes
# 8 ns here, a multiplication by a zero 0.02 ns, and half of them are zeros.
MOST = 600
FAR = 32.0  # means over spreads beyond which rows are standardised first
ROWS = 8192  # multiplied at once


def serves(panels: Panels, groups: Tensor, outputs: int) -> bool:
    """Whether products with the stored rows are the cheaper ones, and as exact."""
    if panels.device.type != "cpu" or outputs * int(groups.bincount().max()) > MOST:
        return False
    if panels.mean is None or panels.scale is None:
        return True
    return bool((np.abs(panels.mean) <= FAR * panels.scale).all())


def products(x: Tensor, groups: Tensor, panels: Panels) -> Iterator[tuple[slice, Tensor]]:
    """(rows, logits float32 (m, c, rows)) of probes x (m, c, 1 + d'), block by block.

    groups: int64 (m,), the column order of each probe, in panels.orders.
    """
    m, outputs, _ = x.shape
    weights = torch.zeros(m, outputs, panels.matrix.shape[1])
    for group in groups.unique().tolist():
        mine = (groups == group).nonzero()[:, 0]
        if panels.orders:
            order = torch.from_numpy(panels.orders[group])
            weights[mine[:, None, None], torch.arange(outputs)[:, None], order] = x[
                mine, :, 1 : 1 + len(order)
            ]
        else:
            weights[mine] = x[mine, :, 1:]
    offset = x[..., 0].double()
    if panels.mean is not None and panels.scale is not None:
        weights /= torch.from_numpy(panels.scale)
        offset -= weights.double() @ torch.from_numpy(panels.mean).double()
    flat, offset = weights.view(m * outputs, -1), offset.view(m * outputs, 1).float()
    for start, block in row_blocks(panels.matrix, ROWS):
        logits = torch.addmm(offset, flat, torch.from_numpy(block).T)
        yield slice(start, start + len(block)), logits.view(m, outputs, -1)
