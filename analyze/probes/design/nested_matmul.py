"""Products of nested probes with a panel, in segments of columns: no gather and few wasted multiplications.

Probes are sorted by size, largest first, and share one weight array W (m, c, 1 + d) that is zero beyond each
probe's own columns. The columns are cut where probes end; segment j is multiplied by the weights of the
probes that reach it, one wide product. Cuts closer than `MIN_SEGMENT` columns are merged: a product that is
too narrow costs more than the zeros it would save.

Products of bfloat16 inputs are summed in float32 over the segments, on CUDA and on CPUs with tiles
(`bfloat16_product.py`) without rounding; on other CPUs each is rounded once.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from probecache.analyze.probes.design import bfloat16_product
from probecache.analyze.probes.design.float32_sums import ALIGNED

MIN_SEGMENT = 256
WASTE = 1.17  # of the columns' number, up to which one product of them all is faster than two
ROUNDED = 8  # weight vectors from which torch's product of bfloat16 is faster than one with float32 sums
FULL = 256  # weight vectors
FLOAT32_SUMS = hasattr(torch.ops.aten.mm, "dtype")  # torch 2.8 on


@dataclass(frozen=True)
class Segment:
    start: int  # first panel row
    stop: int
    probes: int  # the first `probes` of the batch reach it


def segments(widths: list[int], step: int = 1) -> list[Segment]:
    """Segments for probes of `widths` panel rows (1 + k each), which must not increase.

    Cuts, but for the last, are multiples of `step`.

    >>> [(s.start, s.stop, s.probes) for s in segments([601, 401, 391, 201])]
    [(0, 401, 4), (401, 601, 1)]
    >>> [s.stop for s in segments(list(range(1281, 1, -64)))]  # close cuts, three segments
    [449, 897, 1281]
    """
    widest = max(widths)
    if widest * len(widths) <= WASTE * sum(widths):
        return [Segment(0, widest, len(widths))]
    cuts = [0]
    for width in sorted({min(-(-width // step) * step, widest) for width in widths}):
        near = len(cuts) > 1 and width - cuts[-1] < MIN_SEGMENT
        if near and width - cuts[-2] < 2 * MIN_SEGMENT:
            cuts[-1] = width
        else:
            cuts.append(width)
    return [Segment(a, b, sum(width > a for width in widths)) for a, b in pairwise(cuts)]


@dataclass(frozen=True)
class Span:
    """Probes of one column order that are multiplied together."""

    group: int
    probes: slice
    segments: list[Segment]


def spans(groups: Tensor, widths: Tensor, outputs: int, device: torch.device) -> list[Span]:
    """The products of a batch on `device`: groups, widths int64 (a,), on the CPU, sorted by group, then by
    width, largest first."""
    found = []
    for group in groups.unique().tolist():
        members = (groups == group).nonzero()[:, 0]
        for run in runs(len(members), outputs, device):
            probes = slice(int(members[0]) + run.start, int(members[0]) + run.stop)
            step = ALIGNED if device.type == "cuda" else 1
            found.append(Span(group, probes, segments(widths[probes].tolist(), step)))
    return found


def runs(count: int, outputs: int, device: torch.device) -> list[slice]:
    """`count` probes of `outputs` weight vectors each, as many at a time as fill a product.

    More would gain nothing but zeros beyond the narrower probes' columns. A GPU is filled by all of them.
    """
    size = count if device.type == "cuda" else -(-FULL // outputs)
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def forward(weights: Tensor, panel: Tensor, parts: list[Segment]) -> Tensor:
    """Logits float32 (m, c, rows) of every probe: sum over segments of W[:, :, segment] panel[segment]."""
    m, c, _ = weights.shape
    flat = weights.reshape(m * c, -1).to(panel.dtype)
    logits = torch.empty(m * c, panel.shape[1], device=panel.device)
    for i, part in enumerate(parts):
        left, right = flat[: part.probes * c, part.start : part.stop], panel[part.start : part.stop]
        _add_product(left, right, logits[: part.probes * c], fresh=i == 0)
    return logits.view(m, c, -1)


def rounded(weights: Tensor, panel: Tensor, parts: list[Segment]) -> list[Tensor]:
    """Each segment's share of `forward`, rounded to bfloat16 (m', c, rows), of its first m' probes: torch's
    product of many rows at once is twice as fast as one with float32 sums. Empty where the weight vectors are
    few, or no bfloat16 on a CPU.
    """
    m, c, _ = weights.shape
    if panel.dtype != torch.bfloat16 or panel.is_cuda or m * c < ROUNDED:
        return []
    flat = weights.reshape(m * c, -1).to(panel.dtype)
    cut = [(flat[: p.probes * c, p.start : p.stop], panel[p.start : p.stop]) for p in parts]
    return [(left @ right).view(-1, c, panel.shape[1]) for left, right in cut]


def backward(residual: Tensor, panel: Tensor, parts: list[Segment], out: Tensor) -> None:
    """Adds residual (m, c, rows) times panel' to out (m, c, 1 + d), within each probe's segments."""
    m, c, rows = residual.shape
    flat, total = residual.reshape(m * c, rows), out.view(m * c, -1)
    tiles = panel.dtype == torch.bfloat16 and not panel.is_cuda and bfloat16_product.available()
    for part in parts:
        left, right = flat[: part.probes * c], panel[part.start : part.stop]
        sums = total[: part.probes * c, part.start : part.stop]
        if tiles and len(left) < FULL:  # the other way round: in three quarters of the time
            found = torch.empty(len(right), len(left))
            bfloat16_product.add_product(right, left.T, found, fresh=True)
            sums += found.T
        else:
            _add_product(left, right.T, sums)


def _add_product(left: Tensor, right: Tensor, out: Tensor, fresh: bool = False) -> None:
    """out plus left right, in place; fresh: instead of what was in it."""
    if left.dtype == torch.float32:
        _ = torch.mm(left, right, out=out) if fresh else out.addmm_(left, right)
    elif not left.is_cuda and bfloat16_product.available():
        bfloat16_product.add_product(left, right, out, fresh)
    else:
        # CUDA may else add parts of a long sum in bfloat16.
        on_cuda = left.is_cuda and FLOAT32_SUMS
        found = torch.mm(left, right, out_dtype=torch.float32) if on_cuda else left @ right
        _ = out.copy_(found) if fresh else out.add_(found)
