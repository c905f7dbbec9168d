"""All usable rows of a layer, of which targets that label some of them take theirs: read once, and their
Gram matrix is that of all rows without the rows that a target lacks."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.design.gram import Moments, moments
from probecache.analyze.tasks.task import Rows, Task, column_moments

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
        whole = self.rows[split].matrix
        assert isinstance(whole, np.ndarray)
        return self.rows[split] if mine.all() else Rows(whole[mine])

    @cached_property
    def _units(self) -> tuple[np.ndarray, np.ndarray]:
        mean, scale = column_moments(self.rows[self.train].matrix)
        return mean, scale if self.standardize else np.ones_like(scale)

    @cached_property
    def _moments(self) -> Moments:
        return self._of_rows(slice(None))

    def _of_rows(self, chosen: "slice | np.ndarray") -> Moments:
        matrix = self.rows[self.train].matrix
        assert isinstance(matrix, np.ndarray)
        panels = Panels(matrix[chosen], *self._units, self.device)
        return moments(panels, torch.zeros(panels.n_samples, 0, device=self.device))

    def gram_of(self, task: Task, keep: np.ndarray) -> Moments | None:
        """Moments of the kept rows, without targets, in the task's own units: those of all rows less those of
        the rows left out. None where these are more than half, or a column nearly constant without them."""
        left_out = ~keep[self.usable[self.train]]
        if not 0 < 2 * left_out.sum() <= len(left_out):
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


def has_room(shapes: dict[str, tuple[int, int]], memory: int | None) -> bool:
    """Whether all rows (n, d) of the splits may be held in memory beside a target's own."""
    return memory is None or COPIES * sum(4 * n * d for n, d in shapes.values()) <= memory
