"""A task's rows as panels: standardised, in one column order, transposed: a subset is a leading slice.

A panel is float32 (1 + d, rows): row 0 is all ones (its weight is the intercept), row 1 + j is neuron
order[j]. The first 1 + k rows of a panel are the design matrix of the probe on k neurons, contiguous in
memory, so every nested probe multiplies a slice and nothing is gathered.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analyze.task import Matrix, row_blocks

PANEL_ROWS = 2048  # a panel of 1280 neurons is 10 MB, so that logits and residual stay in cache


@dataclass
class Panels:
    """Panels of one matrix. Iterate: (start, panel) in row order; held in memory or made anew at each pass.

    order: int64 (d',) columns, or None for all as stored; mean, scale: float32 (d,) or None.
    keep: hold the panels on `device` after the first pass.
    """

    matrix: Matrix
    order: np.ndarray | None
    mean: np.ndarray | None
    scale: np.ndarray | None
    device: torch.device
    rows: int = PANEL_ROWS
    keep: bool = True

    def __post_init__(self) -> None:
        self._held: list[tuple[int, Tensor]] = []

    @property
    def width(self) -> int:
        """1 + the number of columns: rows of a panel."""
        return 1 + (self.matrix.shape[1] if self.order is None else len(self.order))

    @property
    def n_samples(self) -> int:
        return self.matrix.shape[0]

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        if self._held:
            yield from self._held
            return
        held = []
        for start, block in row_blocks(self.matrix, self.rows):
            panel = self._panel(block)
            if self.keep:
                held.append((start, panel))
            yield start, panel
        self._held = held

    def _panel(self, block: np.ndarray) -> Tensor:
        columns = torch.from_numpy(block).to(self.device).T  # (d, rows), a view
        panel = torch.empty(self.width, columns.shape[1], device=self.device)
        panel[0] = 1
        order = slice(None) if self.order is None else torch.from_numpy(self.order).to(self.device)
        chosen = columns[order]
        if self.mean is not None and self.scale is not None:
            mean = torch.from_numpy(self.mean).to(self.device)[order]
            scale = torch.from_numpy(self.scale).to(self.device)[order]
            torch.sub(chosen, mean[:, None], out=panel[1:])
            panel[1:] /= scale[:, None]
        else:
            panel[1:] = chosen
        return panel
