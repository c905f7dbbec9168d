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
from probecache.analyze.probes.design.probe_order import ProbeOrder
from probecache.analyze.probes.design.task_panels import task_panels
from probecache.analyze.probes.kind import Fitted, ProbeRequest
from probecache.analyze.probes.shared_state import SharedState
from probecache.analyze.tasks.size import LayerSize
from probecache.store.errors import InputError

TEST_ROWS = 1024
NEIGHBORS = 20
PARALLEL = 100  # squared means over variances from which cosines are taken in float64


def knn_votes(
    train: Panels,
    test: Panels,
    labels: Tensor,
    n_classes: int,
    sizes: np.ndarray,
    *,
    neighbors: int = NEIGHBORS,
    temperature: float = 0.07,
) -> Tensor:
    """Votes float32 (f, classes, n_test) for the first `sizes` (f,) columns of the panels' one order.

    A sample's class is the one with the most votes, the lower one of several.

    labels: int64 (n_train,). The columns are taken as the panels give them: unstandardised panels are the
    published protocol.
    """
    n = train.n_samples
    if not 1 <= neighbors <= n:
        raise InputError(f"got neighbors={neighbors}; allowed: 1 to {n}, the number of training samples")
    if not temperature > 0:
        raise InputError(f"got temperature={temperature}; it must be above 0")
    found = torch.empty(len(sizes), n_classes, test.n_samples, device=labels.device)
    rank = np.argsort(sizes, kind="stable")
    dtype = torch.float64 if _nearly_parallel(train) else torch.float32
    for rows, panel in _strips(test):
        similarity = torch.zeros(panel.shape[1], n, dtype=dtype, device=panel.device)
        square = torch.zeros(panel.shape[1], 1, dtype=dtype, device=panel.device)
        train_square = torch.zeros(n, dtype=dtype, device=panel.device)
        done = 1  # panel row 0 is the intercept's
        for f in rank:
            stop = 1 + int(sizes[f])
            left = panel[done:stop].T.to(dtype)  # (rows, added columns)
            for part in train:
                right = part.of(0)[done:stop].to(dtype)
                similarity[:, part.rows].addmm_(left, right)
                train_square[part.rows] += right.square().sum(dim=0)
            square += left.square().sum(dim=1, keepdim=True)
            done = stop
            length = (square.sqrt() * train_square.sqrt()).clamp_(min=1e-12)
            nearest, index = (similarity / length).topk(neighbors, dim=1)
            # Above the best one nothing is lost: the exponent is at most 0 and cannot overflow.
            vote = torch.exp((nearest - nearest[:, :1]) / temperature).float()
            votes = torch.zeros(panel.shape[1], n_classes, device=panel.device)
            found[f, :, rows] = votes.scatter_add_(1, labels[index], vote).T
    return found


def _nearly_parallel(train: Panels) -> bool:
    """Whether a column's mean hides its spread, so that cosines differ in digits that float32 has not."""
    for panel in train:
        columns = panel.of(0)[1:]
        mean = columns.mean(dim=1, dtype=torch.float64)
        spread = (columns - mean[:, None].float()).square().sum(dtype=torch.float64) / columns.shape[1]
        if bool(mean.square().sum() > PARALLEL * spread):
            return True
    return False


def _strips(test: Panels) -> Iterator[tuple[slice, Tensor]]:
    for panel in test:
        columns = panel.of(0)
        for start in range(0, columns.shape[1], TEST_ROWS):
            part = columns[:, start : start + TEST_ROWS]
            yield slice(panel.start + start, panel.start + start + part.shape[1]), part


class Knn:
    """k nearest neighbours by cosine: no weights, no penalty."""

    name = "knn"
    fewest_rows = NEIGHBORS
    has_l2 = False
    takes_weights = False
    targets = ("classes",)
    from_disk = False
    solvers = ("torch",)
    l2_choice = ""
    probabilities = False
    order_free = True
    votes = True
    counts = "nothing: no iterations"

    def orders_per_batch(self, shared: SharedState, request: ProbeRequest) -> int:
        return 1

    def fit(
        self, shared: SharedState, orders: list[np.ndarray], probes: ProbeOrder, request: ProbeRequest
    ) -> Fitted:
        task, device = shared.task, shared.device
        labels = torch.from_numpy(task.train_labels).to(device)
        found = []
        for g, order in enumerate(orders):
            train = task_panels(task, shared.standardize, device, [order], keep=True, as_stored=True)
            test = task_panels(task, shared.standardize, device, [order], test=True, as_stored=True)
            ks, which = np.unique(probes.size[probes.group == g], return_inverse=True)
            found.append(knn_votes(train, test, labels, len(task.classes), ks)[which])
        nothing = torch.full((len(probes),), torch.nan, dtype=torch.float64)
        zero = torch.zeros(len(probes), dtype=torch.int64)
        return Fitted(nothing, nothing, zero, torch.ones_like(zero).bool(), scores=torch.cat(found))

    def flops(self, size: LayerSize, ks: np.ndarray, penalties: int) -> float:
        """One product of the widest subset; for each fraction, the search among all similarities, which
        takes about as long as 60 multiplications of each."""
        return size.test * size.train * (2.0 * float(ks.max()) + 60.0 * len(ks))

    def shared_flops(self, size: LayerSize, penalties: int) -> float:
        return 0.0

    def memory(self, size: LayerSize, fractions: int, l2s: int) -> int:
        """Similarities of a strip of test rows, thrice, and the votes."""
        return 3 * 4 * TEST_ROWS * size.train + 4 * fractions * l2s * size.classes * size.test


KIND = Knn()
