"""Nested products on a GPU by pairs of bfloat16 numbers: nearly float32, at several times its rate.

A number is a + b, both bfloat16, but for 2^-17 of it. Of the product of two such, a a', a b' and b a' are
summed in float32; what is left out is 2^-17 too. All three come of one product of matrices, three times as
deep: weights lie as (a, a, b), rows as (a', b', a'). Nothing is switched for the process, as TF32 is, whose
inputs keep 2^-11.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from probecache.analyze.probes.design.design_matrix import Panel, Panels
from probecache.analyze.probes.design.float32_sums import aligned, fast, product
from probecache.analyze.probes.design.nested_matmul import Segment

FLOPS = 1e11  # of an evaluation, below which its launches take longer than its float32 products
BYTES = 24  # per logit, that an evaluation holds at its peak: logits, residuals, their parts and sums
SCARCE = 2  # rows per column, below which fits are nearly perfect, and losses small


def serves(panels: Panels, flops: float, logits: float, width: int) -> bool:
    """Whether evaluations of so many operations and logits, of `width` columns, are better made so."""
    if not fast(panels.device) or flops < FLOPS or not panels.in_memory or panels.n_samples < SCARCE * width:
        return False
    here = panels.device
    held = torch.cuda.memory_reserved(here) - torch.cuda.memory_allocated(here)
    return BYTES * logits <= torch.cuda.mem_get_info(here)[0] + held


@dataclass(frozen=True)
class Paired:
    """Columns (w, n) as pairs: parts is bfloat16 (w', 3, n'), w' and n' aligned, zero beyond."""

    parts: Tensor
    width: int
    count: int

    @classmethod
    def of(cls, panel: Panel, group: int) -> "Paired":
        """A panel in one of its orders; remembered where the panel is."""
        key = (group, "pairs")
        if panel.held is not None and key in panel.held:
            found: Paired = panel.held[key]
            return found
        columns = panel.of(group)
        parts = columns.new_zeros(aligned(len(columns)), 3, aligned(columns.shape[1]), dtype=torch.bfloat16)
        made = cls(parts, *columns.shape)
        here = parts[: made.width, :, : made.count]
        here[:, ::2] = columns[:, None]
        torch.sub(columns, here[:, 0], out=here[:, 1])
        if panel.held is not None:
            panel.held[key] = made
        return made

    def forward(self, weights: Tensor, segments: list[Segment]) -> Tensor:
        """`nested_matmul.forward`: logits float32 (m, c, n) of weights (m, c, w)."""
        m, c, w = weights.shape
        flat, deep = weights.reshape(m * c, w), self.parts.flatten(0, 1)
        parts = flat.new_zeros(m * c, len(self.parts), 3, dtype=torch.bfloat16)
        parts[:, :w, :2] = flat[..., None]
        torch.sub(flat, parts[:, :w, 0], out=parts[:, :w, 2])
        left, logits = parts.flatten(1), None
        for part in segments:
            depth = slice(3 * part.start, 3 * self._end(part))
            found = product(left[: part.probes * c, depth], deep[depth])
            if logits is None:
                logits = found
            else:
                logits[: part.probes * c] += found
        assert logits is not None
        return logits[:, : self.count].unflatten(0, (m, c))

    def backward(self, residual: Tensor, segments: list[Segment], out: Tensor) -> None:
        """`nested_matmul.backward`: adds residual (m, c, n) times columns' to out (m, c, w), by segments."""
        m, c, n = residual.shape
        shape = (m, c, 3, self.parts.shape[2])
        whole = n == self.parts.shape[2]
        parts = (residual.new_empty if whole else residual.new_zeros)(shape, dtype=torch.bfloat16)
        parts[:, :, :2, :n] = residual[:, :, None]
        torch.sub(residual, parts[:, :, 0, :n], out=parts[:, :, 2, :n])
        left, right, total = parts.view(m * c, -1), self.parts.flatten(1), out.view(m * c, -1)
        for part in segments:
            rows, those = part.probes * c, slice(part.start, part.stop)
            found = product(left[:rows], right[part.start : self._end(part)].T)
            total[:rows, those] += found[:, : part.stop - part.start]

    def _end(self, part: Segment) -> int:
        """Where a segment ends: the last one with the columns of nothing, which fill it up."""
        return len(self.parts) if part.stop == self.width else part.stop
