"""Second moments of a layer: the Gram matrix and the products with the targets, from one pass over its rows.

They are taken of the standardised columns, in float32 products summed in float64, and then serve every
seed (by permuting), fraction (by slicing) and l2 of preconditioners and ridge probes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design.design_matrix import Panels


@dataclass(frozen=True)
class Moments:
    """gram: float64 (1 + d, 1 + d), mean over rows of panel panel'; cross: float64 (1 + d, t), of panel Y';
    square: float64 (t,), of Y^2. Row 0 is the intercept's. count: sum of the sample weights, or rows."""

    gram: Tensor
    cross: Tensor
    square: Tensor
    count: float

    @property
    def effective_rank(self) -> float:
        """tr(G)^2 / tr(G^2) of the neurons' Gram matrix: 1 where they are all alike, d where uncorrelated."""
        gram = self.gram[1:, 1:]
        return float(gram.diagonal().sum() ** 2 / gram.square().sum())

    def to(self, device: torch.device) -> "Moments":
        """The moments on a device."""
        return Moments(self.gram.to(device), self.cross.to(device), self.square.to(device), self.count)

    def take(self, order: np.ndarray) -> "Moments":
        """The moments with neurons in the given order; the intercept stays first."""
        index = torch.from_numpy(np.concatenate([[0], order + 1])).to(self.gram.device)
        return Moments(self.gram[index[:, None], index], self.cross[index], self.square, self.count)

    def without(self, part: "Moments") -> "Moments":
        """The moments of the other rows: a fold's are subtracted instead of read again."""
        count = self.count - part.count

        def rest(a: Tensor, b: Tensor) -> Tensor:
            return (a * self.count - b * part.count) / count

        return Moments(
            rest(self.gram, part.gram), rest(self.cross, part.cross), rest(self.square, part.square), count
        )


def moments(
    panels: Panels, targets: Tensor, weights: Tensor | None = None, known: Moments | None = None
) -> Moments:
    """Weighted means over the rows: targets float (n, t), weights float (n,) or None.

    known: moments of the same rows with other targets, whose Gram matrix is not computed again.
    """
    width, device = panels.width, panels.device
    gram = torch.zeros(width, width, dtype=torch.float64, device=device)
    cross = torch.zeros(width, targets.shape[1], dtype=torch.float64, device=device)
    square = torch.zeros(targets.shape[1], dtype=torch.float64, device=device)
    count = 0.0
    for rows, panel in ((p.rows, p.of(0)) for p in panels):
        y = targets[rows].to(panel.dtype)
        weighted = panel if weights is None else panel * weights[rows].to(panel.dtype)
        if known is None:
            add_gram(gram, weighted, panel)
        cross += weighted @ y
        square += (y.double() ** 2 if weights is None else y.double() ** 2 * weights[rows, None]).sum(dim=0)
        count += panel.shape[1] if weights is None else float(weights[rows].sum())
    gram = gram / count if known is None else known.gram
    return Moments(gram, cross / count, square / count, count)


def add_gram(gram: Tensor, left: Tensor, right: Tensor, blocks: int = 4) -> None:
    """Adds left right', which must be symmetric, to gram (w, w): blocks above the diagonal, mirrored."""
    width = gram.shape[0]
    step = -(-width // blocks)
    for a in range(0, width, step):
        b = min(a + step, width)
        strip = left[a:b] @ right[a:].T
        gram[a:b, a:] += strip
        gram[b:, a:b] += strip[:, b - a :].T


def class_targets(labels: Tensor, n_classes: int) -> Tensor:
    """+1 for the sample's class, -1 for the others, float32 (n, t); t is 1 for two classes."""
    if n_classes == 2:
        return (2 * labels - 1).float()[:, None]
    return 2 * torch.nn.functional.one_hot(labels, n_classes).float() - 1
