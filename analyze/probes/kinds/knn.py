"""Weighted k-nearest-neighbour probes by cosine similarity, on nested column subsets.

A test sample's class is the one with the largest sum of exp(similarity / temperature) over its `neighbors`
nearest training samples: the protocol of DINO (Caron et al. 2021, section 4.1; 20 neighbours, temperature
0.07). Nothing is fitted.

The inner products of a subset are those of the next smaller one plus the products of the added columns, so
all fractions of a seed together cost one product of the full width.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.store.errors import InputError

TEST_ROWS = 1024


def knn_predictions(
    train: Panels,
    test: Panels,
    labels: Tensor,
    n_classes: int,
    sizes: np.ndarray,
    *,
    neighbors: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Predicted classes int64 (f, n_test) for the first `sizes` (f,) columns of the panels' one order.

    labels: int64 (n_train,). The columns are taken as the panels give them: unstandardised panels are the
    published protocol. Ties go to the lower class.
    """
    n = train.n_samples
    if not 1 <= neighbors <= n:
        raise InputError(f"got neighbors={neighbors}; allowed: 1 to {n}, the number of training samples")
    if not temperature > 0:
        raise InputError(f"got temperature={temperature}; it must be above 0")
    predictions = torch.empty(len(sizes), test.n_samples, dtype=torch.int64, device=labels.device)
    rank = np.argsort(sizes, kind="stable")
    for rows, panel in _strips(test):
        similarity = torch.zeros(panel.shape[1], n, device=panel.device)
        square = torch.zeros(panel.shape[1], 1, device=panel.device)
        train_square = torch.zeros(n, device=panel.device)
        done = 1  # panel row 0 is the intercept's
        for f in rank:
            stop = 1 + int(sizes[f])
            left = panel[done:stop].T  # (rows, added columns)
            for part in train:
                right = part.of(0)[done:stop]
                similarity[:, part.rows].addmm_(left, right)
                train_square[part.rows] += right.square().sum(dim=0)
            square += left.square().sum(dim=1, keepdim=True)
            done = stop
            length = (square.sqrt() * train_square.sqrt()).clamp_(min=1e-12)
            nearest, index = (similarity / length).topk(neighbors, dim=1)
            # Above the best one nothing is lost: the exponent is at most 0 and cannot overflow.
            vote = torch.exp((nearest - nearest[:, :1]) / temperature)
            votes = torch.zeros(panel.shape[1], n_classes, device=panel.device)
            predictions[f, rows] = votes.scatter_add_(1, labels[index], vote).argmax(dim=1)
    return predictions


def _strips(test: Panels) -> Iterator[tuple[slice, Tensor]]:
    for panel in test:
        columns = panel.of(0)
        for start in range(0, columns.shape[1], TEST_ROWS):
            part = columns[:, start : start + TEST_ROWS]
            yield slice(panel.start + start, panel.start + start + part.shape[1]), part
