"""All usable rows of a layer, of which targets that label some of them take theirs: read once, and their
Gram matrix is that of all rows without the rows that a target lacks."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.design.gram import Moments, moments
from probecache.analyze.tasks.load import Rows
from probecache.analyze.tasks.matrix import column_moments, row_blocks, scales
from probecache.analyze.tasks.task import Task

COPIES = 6  # matrices that the memory for data has room for where all rows are held beside a target's own
LEAST = 1e-3  # share of a column's variance below which a difference would have lost too many digits


@dataclass(frozen=True, eq=False)
class WholeRows:
    """rows: of each split, in memory; usable: bool over all rows of each split, those that `rows` holds;
    train: the split that is fitted on."""

    rows: dict[str, Rows]
    usable: dict[str, np.ndarray]
    train: str
    standardize: bool
    device: torch.device

    @property
    def nbytes(self) -> int:
        return sum(rows.nbytes for rows in self.rows.values())

    def of(self, keeps: dict[str, np.ndarray]) -> dict[str, Rows]:
        """The kept rows of each split."""
        return {name: self._of(name, keep) for name, keep in keeps.items()}

    def _of(self, split: str, keep: np.ndarray) -> Rows:
        mine = keep[self.usable[split]]
        if mine.all():
            return self.rows[split]
        units = self._units_of(mine) if split == self.train else None
        return Rows(self._matrix(split)[mine], *(units or (None, None)))

    def _matrix(self, split: str) -> np.ndarray:
        matrix = self.rows[split].matrix
        assert isinstance(matrix, np.ndarray)
        return matrix

    @cached_property
    def _units(self) -> tuple[np.ndarray, np.ndarray]:
        mean, scale = column_moments(self._matrix(self.train))
        return mean, scale if self.standardize else np.ones_like(scale)

    @cached_property
    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        return self._sums_of(slice(None))

    def _sums_of(self, chosen: "slice | np.ndarray") -> tuple[np.ndarray, np.ndarray]:
        """Sums of the training rows less the mean of all, and of their squares, float64 (d,) each."""
        matrix, mean = self._matrix(self.train)[chosen], self._units[0].astype(np.float64)
        total, square = np.zeros(matrix.shape[1]), np.zeros(matrix.shape[1])
        for _, block in row_blocks(matrix, 4096):
            centred = block - mean
            total += centred.sum(axis=0)
            square += np.einsum("nd,nd->d", centred, centred)
        return total, square

    def _units_of(self, mine: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """`column_moments` of some of the training rows, from those of all less those of the others; None
        where these are more than half, or a column is nearly constant without them."""
        if not _few(~mine):
            return None
        total, square = (whole - part for whole, part in zip(self._sums, self._sums_of(~mine), strict=True))
        shift = total / mine.sum()
        variance = square / mine.sum() - shift**2
        if (variance < LEAST * self._sums[1] / len(mine)).any():
            return None
        mean = (self._units[0] + shift).astype(np.float32)
        return mean, scales(np.sqrt(variance.clip(0))).astype(np.float32)

    @cached_property
    def _moments(self) -> Moments:
        return self._of_rows(slice(None))

    def _of_rows(self, chosen: "slice | np.ndarray") -> Moments:
        panels = Panels(self._matrix(self.train)[chosen], *self._units, self.device)
        return moments(panels, torch.zeros(panels.n_samples, 0, device=self.device))

    def gram_of(self, task: Task, keep: np.ndarray) -> Moments | None:
        """Moments of the kept rows, without targets, in the task's own units: those of all rows less those of
        the rows left out. None where these are more than half, or a column nearly constant without them."""
        left_out = ~keep[self.usable[self.train]]
        if not _few(left_out):
            return None
        whole = self._moments
        rest = whole.without(self._of_rows(left_out))
        variance = rest.gram.diagonal()[1:] - rest.gram[0, 1:] ** 2
        if bool((variance < LEAST * whole.gram.diagonal()[1:]).any()):
            return None
        mean, scale = (torch.from_numpy(values).to(self.device, torch.float64) for values in self._units)
        own_mean = torch.from_numpy(task.mean).to(self.device, torch.float64)
        own_scale = torch.from_numpy(task.scale).to(self.device, torch.float64)
        own_scale = own_scale if self.standardize else torch.ones_like(own_scale)
        return rest.in_units((mean - own_mean) / own_scale, scale / own_scale)


def _few(left_out: np.ndarray) -> bool:
    """Whether some rows are left out, and at most half of them."""
    return bool(0 < 2 * left_out.sum() <= len(left_out))


def has_room(shapes: dict[str, tuple[int, int]], memory: int | None) -> bool:
    """Whether all rows (n, d) of the splits may be held in memory beside a target's own."""
    return memory is None or COPIES * sum(4 * n * d for n, d in shapes.values()) <= memory
