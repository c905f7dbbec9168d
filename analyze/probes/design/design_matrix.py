"""A task's rows as panels: standardised, in one column order, transposed: a subset is a leading slice.

A panel is float32 (1 + d, rows): row 0 is all ones (its weight is the intercept), row 1 + j is neuron
order[j]. The first 1 + k rows of a panel are the design matrix of the probe on k neurons, contiguous in
memory, so every nested probe multiplies a slice and nothing is gathered.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design.upload import to_device
from probecache.analyze.tasks.matrix import Matrix, row_blocks

CACHED = 256  # rows that are arranged while they are in cache


@dataclass(frozen=True)
class Panel:
    """Rows start..start + rows of the matrix, in every column order that is asked of them.

    `base` is (1 + d, rows) with columns as stored; `of(g)` is the panel of order g, in any dtype,
    remembered only where `held` is set, as are other forms of it.
    """

    start: int
    base: Tensor
    orders: tuple[Tensor, ...]  # int64 (1 + d',) panel rows, the intercept's first
    held: dict[tuple[int, Any], Any] | None = None

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.base.shape[1])

    def of(self, group: int, dtype: torch.dtype = torch.float32) -> Tensor:
        if self.held is not None and (group, dtype) in self.held:
            found: Tensor = self.held[group, dtype]
            return found
        panel = self.base[self.orders[group]].to(dtype) if self.orders else self.base.to(dtype)
        if self.held is not None:
            self.held[group, dtype] = panel
        return panel


@dataclass(frozen=True)
class Strip:
    """Rows from `start` on: x is (1 + k, rows), their first columns; `take(rows)` is (1 + d, a) of some;
    whole: (1 + d, rows), where it is at hand."""

    start: int
    x: Tensor
    take: Callable[[Tensor], Tensor]
    whole: Tensor | None = None

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.x.shape[1])


@dataclass
class Panels:
    """Panels of one matrix. Iterating gives them in row order: one pass over the matrix.

    orders: int64 (d',) columns each, or empty for one order, as stored. mean, scale: float32 (d,) or None.
    keep: hold what the first pass made, on `device`; else each pass reads and arranges the rows again.
    source: panels of the same matrix with its columns as stored, held on the device, to take the rows from.
    """

    matrix: Matrix
    mean: np.ndarray | None
    scale: np.ndarray | None
    device: torch.device
    orders: list[np.ndarray] = field(default_factory=list)
    rows: int = 0
    keep: bool = False
    source: "Panels | None" = None

    def __post_init__(self) -> None:
        # A gradient is rounded to bfloat16 once per panel: the more rows cancel in it, the finer.
        self.rows = self.rows or (65536 if self.in_memory else 8192)
        self._orders = tuple(
            torch.from_numpy(np.concatenate([[0], order + 1])).to(self.device) for order in self.orders
        )
        self._held: list[Panel] = []

    @property
    def in_memory(self) -> bool:
        """Whether a pass over the rows reads no disk."""
        return isinstance(self.matrix, np.ndarray)

    @property
    def width(self) -> int:
        """Rows of a panel: 1 + the number of columns."""
        return 1 + (len(self.orders[0]) if self.orders else self.matrix.shape[1])

    @property
    def n_samples(self) -> int:
        return self.matrix.shape[0]

    def __iter__(self) -> Iterator[Panel]:
        if self._held:
            yield from self._held
            return
        made = []
        once = self.keep and len(self._orders) == 1
        for start, base in self._stored(ordered=once):
            if once:
                # Only the ordered columns are kept: the stored order would double the memory.
                panel = Panel(start, base, (), {})
            else:
                panel = Panel(start, base, self._orders, {} if self.keep else None)
            if self.keep:
                made.append(panel)
            yield panel
        self._held = made

    def first(self, k: int) -> "Panels":
        """The first k columns of one order that is kept, of what the first pass has arranged: no copy."""
        part = replace(self, orders=[self.orders[0][:k]])
        for panel in self:
            every = (panel.held or {}).items()
            held: dict[tuple[int, Any], Any] = {key: x[: 1 + k] for key, x in every if isinstance(x, Tensor)}
            part._held.append(Panel(panel.start, panel.base[: 1 + k], (), held))
        return part

    def _stored(self, ordered: bool) -> Iterator[tuple[int, Tensor]]:
        """(start, standardised rows (1 + d, rows) with columns as stored, or in the one order)."""
        if self.source is not None:
            for panel in self.source:
                yield panel.start, panel.base[self._orders[0]] if ordered else panel.base
            return
        for start, block in row_blocks(self.matrix, self.rows):
            if ordered and self.device.type == "cpu":
                yield start, self._arranged(block, self._orders[0][1:] - 1)
            else:
                base = self.standardised(block)
                yield start, base[self._orders[0]] if ordered else base

    def strips(self, k: int, known: "Panels | None" = None) -> Iterator["Strip"]:
        """The rows in pieces for who wants k columns of all of them and all columns of some.

        known: panels that hold k columns or more, as stored, of these rows or of some of them; where they are
        of all, nothing is standardised again.
        """
        if self.source is not None or self.keep:
            for panel in self:
                base = panel.of(0)
                yield Strip(panel.start, base[: 1 + k], lambda rows, base=base: base[:, rows], base)  # type: ignore[misc]
            return
        held: list[Panel] = []
        if known is not None and (known.n_samples, known.rows) == (self.n_samples, self.rows):
            held = list(known)
        for i, (start, block) in enumerate(row_blocks(self.matrix, self.rows)):
            x = held[i].of(0)[: 1 + k] if held else self.standardised(block[:, :k])
            # A row is contiguous in the matrix, and a stride apart in a panel.
            yield Strip(start, x, lambda rows, block=block: self._design(block[rows.cpu().numpy()]).T)  # type: ignore[misc]

    def standardised(self, block: np.ndarray) -> Tensor:
        """The panel (1 + k, rows) of some rows (rows, k), the first k columns of the matrix, as stored."""
        if self.device.type == "cpu" and not block.flags.c_contiguous:
            return self._arranged(block)  # torch transposes parts of rows at half the speed
        columns = to_device(block, self.device).T  # (k, rows), a view
        panel = torch.empty(1 + len(columns), len(block), device=self.device)
        panel[0] = 1
        panel[1:] = columns  # transposed once: what follows runs along memory
        if self.mean is not None and self.scale is not None:
            panel[1:] -= torch.from_numpy(self.mean[: len(columns)]).to(self.device)[:, None]
            panel[1:] /= torch.from_numpy(self.scale[: len(columns)]).to(self.device)[:, None]
        return panel

    def _arranged(self, block: np.ndarray, order: Tensor | None = None) -> Tensor:
        """`standardised(block)`, on the CPU, in an order: a few rows at a time, which stay in cache."""
        k = block.shape[1]
        panel = torch.empty(1 + (k if order is None else len(order)), len(block))
        panel[0] = 1
        for start in range(0, len(block), CACHED):
            rows = torch.from_numpy(block[start : start + CACHED])
            if self.mean is not None and self.scale is not None:
                mean, scale = torch.from_numpy(self.mean[:k]), torch.from_numpy(self.scale[:k])
                rows = torch.sub(rows, mean).div_(scale)
            columns = rows.T if order is None else rows.T.contiguous()[order]
            panel[1:, start : start + CACHED] = columns
        return panel

    def _design(self, block: np.ndarray) -> Tensor:
        """The same as rows: (rows, 1 + k), the first column all ones."""
        k = block.shape[1]
        rows = torch.empty(len(block), 1 + k, device=self.device)
        rows[:, 0] = 1
        rows[:, 1:] = torch.from_numpy(block).to(self.device)
        if self.mean is not None and self.scale is not None:
            rows[:, 1:] -= torch.from_numpy(self.mean[:k]).to(self.device)
            rows[:, 1:] /= torch.from_numpy(self.scale[:k]).to(self.device)
        return rows
