"""Products of nested probes with a panel, in segments of columns: no gather and few wasted multiplications.

Probes are sorted by size, largest first, and share one weight array W (m, c, 1 + d) that is zero beyond each
probe's own columns. The columns are cut where probes end; segment j is multiplied by the weights of the
probes that reach it, one wide GEMM. Cuts closer than `MIN_SEGMENT` columns are merged: a GEMM that is too
narrow costs more than the zeros it would save.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

MIN_SEGMENT = 64


@dataclass(frozen=True)
class Segment:
    start: int  # first panel row
    stop: int
    probes: int  # the first `probes` of the batch reach it


def segments(widths: list[int]) -> list[Segment]:
    """Segments for probes of `widths` panel rows (1 + k each), which must not increase.

    >>> [(s.start, s.stop, s.probes) for s in segments([301, 201, 191, 101])]
    [(0, 101, 4), (101, 201, 3), (201, 301, 1)]
    """
    cuts = [0]
    for width in sorted(set(widths)):
        if width - cuts[-1] < MIN_SEGMENT and len(cuts) > 1:
            cuts[-1] = width
        else:
            cuts.append(width)
    return [Segment(a, b, sum(width > a for width in widths)) for a, b in pairwise(cuts)]


def forward(weights: Tensor, panel: Tensor, parts: list[Segment]) -> Tensor:
    """Logits (m, c, rows) of every probe: sum over segments of W[:, :, segment] panel[segment]."""
    m, c, _ = weights.shape
    flat = weights.view(m * c, -1)
    logits = torch.empty(m * c, panel.shape[1], dtype=panel.dtype, device=panel.device)
    for i, part in enumerate(parts):
        top = part.probes * c
        block = flat[:top, part.start : part.stop]
        if i == 0:
            torch.mm(block, panel[part.start : part.stop], out=logits[:top])
        else:
            logits[:top].addmm_(block, panel[part.start : part.stop])
    return logits.view(m, c, -1)


def backward(residual: Tensor, panel: Tensor, parts: list[Segment], out: Tensor) -> None:
    """Adds residual (m, c, rows) times panel' to out (m, c, 1 + d), within each probe's segments."""
    m, c, rows = residual.shape
    flat, total = residual.view(m * c, rows), out.view(m * c, -1)
    for part in parts:
        top = part.probes * c
        total[:top, part.start : part.stop].addmm_(flat[:top], panel[part.start : part.stop].T)
