"""The order in which a batch of nested probes is fitted: by column order, then by size, largest first."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ProbeOrder:
    """The m = s f p probes of orders, sizes and their l2s, in the solver's order.

    shape: (s, f, p); group, size, l2: (m,); back: where in the solver's order the probes of the grid are.
    """

    shape: tuple[int, int, int]
    group: np.ndarray
    size: np.ndarray
    l2: np.ndarray
    back: np.ndarray

    @classmethod
    def of(cls, sizes: np.ndarray, penalties: np.ndarray) -> "ProbeOrder":
        """sizes: (f,); penalties: (s, f, p)."""
        group, at, _ = (axis.ravel() for axis in np.indices(penalties.shape))
        size, l2 = np.asarray(sizes)[at], penalties.ravel()
        rank = np.lexsort((-size, group))
        back = np.empty_like(rank)
        back[rank] = np.arange(rank.size)
        return cls(penalties.shape, group[rank], size[rank], l2[rank], back)

    def __len__(self) -> int:
        return len(self.size)

    def to_grid(self, values: np.ndarray) -> np.ndarray:
        """(m, ...) in the solver's order as (s, f, p, ...)."""
        return values[self.back].reshape(*self.shape, *values.shape[1:])
