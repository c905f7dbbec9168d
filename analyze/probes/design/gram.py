"""Second moments of a layer: the Gram matrix and the products with the targets, from one pass over its rows.

They are of the standardised columns: float32 products of centred blocks of rows as they are stored, summed in
float64 and then divided by the scales. They serve every seed (by permuting), fraction (by slicing) and l2 of
preconditioners and ridge probes. Where they only precondition, the Gram matrix may be of rows rounded to
bfloat16: it has no negative eigenvalue either, and takes a quarter of the time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design import bfloat16_product
from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.design.float32_sums import fast, product
from probecache.analyze.tasks.matrix import row_blocks

SMALL = 2.0**-40  # spread of a column; those below it and above its inverse are brought near 1
GRAM_ROWS = 8192  # whose float32 products are summed at once; they fit in a cache


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

    def first(self, count: int) -> "Moments":
        """The moments of the first `count` neurons."""
        cross = self.cross[: 1 + count]
        return Moments(self.gram[: 1 + count, : 1 + count], cross, self.square, self.count)

    def of_target(self, column: int) -> "Moments":
        """The moments with one of the targets."""
        picked = slice(column, column + 1)
        return Moments(self.gram, self.cross[:, picked], self.square[picked], self.count)

    def in_units(self, shift: Tensor, ratio: Tensor) -> "Moments":
        """The moments of columns  ratio * column + shift,  float64 (d,) each: standardised by other rows."""
        mean = ratio * self.gram[0, 1:]
        both = mean + shift
        gram = torch.empty_like(self.gram)
        gram[0, 0], gram[0, 1:], gram[1:, 0] = self.gram[0, 0], both, both
        gram[1:, 1:] = torch.outer(ratio, ratio) * self.gram[1:, 1:]
        gram[1:, 1:] += torch.outer(both, both) - torch.outer(mean, mean)
        cross = torch.cat([self.cross[:1], ratio[:, None] * self.cross[1:] + shift[:, None] * self.cross[:1]])
        return Moments(gram, cross, self.square, self.count)

    def without(self, part: "Moments") -> "Moments":
        """The moments of the other rows: a fold's are subtracted instead of read again."""
        count = self.count - part.count

        def rest(a: Tensor, b: Tensor) -> Tensor:
            return (a * self.count - b * part.count) / count

        return Moments(
            rest(self.gram, part.gram), rest(self.cross, part.cross), rest(self.square, part.square), count
        )


def moments(
    panels: Panels,
    targets: Tensor,
    weights: Tensor | None = None,
    known: Moments | None = None,
    exact: bool = True,
) -> Moments:
    """Weighted means over the rows: targets float (n, t), weights float (n,) or None.

    panels: one column order, as stored. known: moments of the same rows with other targets, whose Gram matrix
    is not computed again. exact: else the Gram matrix is of rounded rows, where that is faster; nothing else
    is rounded.
    """
    on_cpu = panels.device.type == "cpu"
    exact = exact or not (bfloat16_product.available() if on_cpu else fast(panels.device))
    d, device, outputs = panels.width - 1, panels.device, targets.shape[1]
    scale = None if panels.scale is None or panels.keep else torch.from_numpy(panels.scale).to(device)
    power = _powers(scale)
    if scale is not None and power is not None:
        scale = scale * power
    gram = torch.zeros(d, d, dtype=torch.float64, device=device)
    total = torch.zeros(d, dtype=torch.float64, device=device)
    cross = torch.zeros(1 + d, outputs, dtype=torch.float64, device=device)
    square = torch.zeros(outputs, dtype=torch.float64, device=device)
    count = 0.0
    for start, block in _centred(panels, power):
        here = slice(start, start + len(block))
        y = targets[here].to(block.dtype)
        share = torch.ones(len(block), 1, device=device)
        if weights is not None:
            share = weights[here, None].to(block.dtype)
        if known is None and exact:
            left = (block if weights is None else block * share).T
            add_gram(gram, left, block.T, blocks=4 if block.is_cuda else 10)
        elif known is None:
            rounded = (block if weights is None else block * share.sqrt()).bfloat16().T
            if on_cpu:
                part = torch.zeros(d, d, device=device)
                add_gram(part, rounded, rounded)
            else:
                part = product(rounded, rounded.T)
            gram += part
        own = y * share
        sums = block.T @ torch.cat([share, own], dim=1)
        total += sums[:, 0]
        cross[1:] += sums[:, 1:]
        cross[0] += own.sum(dim=0, dtype=torch.float64)
        square += (own.double() * y).sum(dim=0)
        count += float(share.sum(dtype=torch.float64))
    if scale is not None:
        cross[1:] /= scale.double()[:, None]
    if known is not None:
        return Moments(known.gram, cross / count, square / count, count)
    if scale is not None:
        gram /= torch.outer(scale.double(), scale.double())
        total /= scale.double()
    whole = torch.empty(1 + d, 1 + d, dtype=torch.float64, device=device)
    whole[0, 0], whole[0, 1:], whole[1:, 0], whole[1:, 1:] = count, total, total, gram
    return Moments(whole / count, cross / count, square / count, count)


def _powers(scale: Tensor | None) -> Tensor | None:
    """Powers of two by which columns are multiplied whose squares float32 could not hold; None where none is
    so small or large. A column that is rounding noise, 1e-32, had a variance of 0 and covariances of 1."""
    if scale is None or bool(((scale > SMALL) & (scale < 1 / SMALL)).all()):
        return None
    return torch.exp2(-scale.log2().round().clamp(-126, 126))


def _centred(panels: Panels, power: Tensor | None) -> Iterator[tuple[int, Tensor]]:
    """(start, rows (a, d)): of panels that are kept, standardised; else centred, since what they are divided
    by is left to the sums, which lose nothing by it. A block is overwritten by the next."""
    if panels.keep:
        yield from ((panel.start, panel.of(0)[1:].T) for panel in panels)
        return
    mean = None if panels.mean is None else torch.from_numpy(panels.mean).to(panels.device)
    room = torch.empty(min(GRAM_ROWS, panels.n_samples), panels.width - 1, device=panels.device)
    for start, stored in row_blocks(panels.matrix, GRAM_ROWS):
        block = torch.from_numpy(stored).to(panels.device)
        if mean is not None:
            block = torch.sub(block, mean, out=room[: len(block)])
        yield start, block if power is None else torch.mul(block, power, out=room[: len(block)])


def add_gram(gram: Tensor, left: Tensor, right: Tensor, blocks: int = 4) -> None:
    """Adds left right', which must be symmetric, to gram (w, w): blocks above the diagonal, mirrored.

    bfloat16 is added to a float32 gram, where `bfloat16_product` is available.
    """
    width = gram.shape[0]
    step = -(-width // blocks)
    for a in range(0, width, step):
        b = min(a + step, width)
        strip = gram[a:b, a:]
        if left.dtype == torch.bfloat16:
            bfloat16_product.add_product(left[a:b], right[a:].T, strip)
        elif gram.dtype == left.dtype:
            strip.addmm_(left[a:b], right[a:].T)
        else:
            strip += left[a:b] @ right[a:].T
        gram[b:, a:b] = strip[:, b - a :].T


def class_targets(labels: Tensor, n_classes: int) -> Tensor:
    """+1 for the sample's class, -1 for the others, float32 (n, t); t is 1 for two classes."""
    if n_classes == 2:
        return (2 * labels - 1).float()[:, None]
    return 2 * torch.nn.functional.one_hot(labels, n_classes).float() - 1
