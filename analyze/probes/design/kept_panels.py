"""A task's training rows held in one column order, for fits that follow each other: subsets are prefixes.

Arranging the rows takes a tenth of a fit or more; many fits of one order, as choosing a penalty needs, do it
once. A request for another order, or for more columns, takes their place.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from probecache.analyze.probes.design.design_matrix import Panels


@dataclass
class KeptPanels:
    """The rows in the order that was asked for last."""

    _order: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    _panels: Panels | None = None

    def of(self, order: np.ndarray, make: Callable[[], Panels]) -> Panels:
        """Panels of an order that is held, or that `make` makes, which hold what the first pass arranges."""
        held = self._panels
        if held is None or not np.array_equal(self._order[: len(order)], order):
            self._order, self._panels = order, None  # let go before others are made
            held = self._panels = make()
        return held if len(order) == len(self._order) else held.first(len(order))
