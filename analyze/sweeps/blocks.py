"""The unit of work: one layer and selection, a group of seeds, every missing fraction and l2 of them.

A block is 10 to 60 s of work: long beside the millisecond that a scheduler spends on a task and beside
loading a layer, short beside what a dead worker loses. It is cut along seeds only: the fractions of a seed
share every product and an l2 starts where its neighbour ended, while seeds have nothing in common. So the
arithmetic of a probe does not depend on how large blocks are, or on how many workers there are.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from probecache.analyze.selections.projections import SEEDED
from probecache.analyze.sweeps.plan import SweepPlan

ANY_TARGET = ("random",)  # selections whose columns and rows no target has a part in


@dataclass(frozen=True)
class Block:
    """Probes fitted together on one layer: every combination of fractions, seeds and l2s.

    path: the penalties that each probe chooses from, where l2s is ("auto",).
    also: further targets of the same rows, whose probes share each pass and product.
    """

    layer: str
    selection: str
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    l2s: tuple[float, ...] | tuple[str]
    path: tuple[float, ...] = ()
    target: str = "label"
    shots: str = "all"
    control: str | None = None
    also: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target, *self.also)

    def apart(self) -> "list[Block]":
        """A block of each target."""
        return [replace(self, target=target, also=()) for target in self.targets]

    @property
    def n_probes(self) -> int:
        return len(self.targets) * len(self.fractions) * len(self.seeds) * len(self.l2s)

    @property
    def penalties(self) -> int:
        """How many penalties each fraction is fitted with, counting those that are tried."""
        return len(self.l2s) + len(self.path)

    @property
    def seeded(self) -> bool:
        """Whether a seed draws anything: columns, training rows or control labels."""
        return self.selection in SEEDED or self.redrawn

    @property
    def redrawn(self) -> bool:
        """Whether each seed has a task of its own: other training rows, or other labels."""
        return self.shots != "all" or self.control is not None

    @property
    def draws(self) -> int:
        """How many column orders are fitted: one per seed, or one that serves all of them."""
        return len(self.seeds) if self.seeded else 1

    def __str__(self) -> str:
        extra = [_span(self.targets)] if self.targets != ("label",) else []
        extra += [f"shots {self.shots}"] if self.shots != "all" else []
        told = [self.layer, self.selection, *extra, f"seeds {_span(self.seeds)}", f"l2 {_span(self.l2s)}"]
        return ", ".join(told)

    def halves(self, by: tuple[str, ...] = ("also", "seeds", "l2s", "fractions")) -> tuple["Block", ...]:
        """Two blocks with the same probes, by targets, seeds, l2s or fractions; (self,) for one fit."""
        for name in by:
            if name == "seeds" and not self.seeded:
                continue  # one fit serves all seeds
            if name == "also" and self.also:
                middle, names = len(self.targets) // 2, self.targets
                parts = (names[:middle], names[middle:])
                return tuple(replace(self, target=part[0], also=part[1:]) for part in parts)
            values = getattr(self, name)
            if len(values) > 1:
                middle = len(values) // 2
                return tuple(replace(self, **{name: part}) for part in (values[:middle], values[middle:]))
        return (self,)


def missing_blocks(
    plan: SweepPlan,
    missing: np.ndarray,
    seconds: Callable[[Block], float],
    target: float,
    alike: Sequence[Sequence[str]] = (),
) -> Iterator[Block]:
    """Blocks that cover exactly the missing probes, in the plan's order.

    missing: bool (target, layer, selection, shots, fraction, seed, l2) over the plan's own coordinates.
    seconds: what the cost model expects of a block; one longer than `target` is halved along its seeds.
    alike: targets that are fitted together where the same of each is missing.
    """
    for block in _together(_whole_blocks(plan, missing), alike):
        yield from _split(block, seconds, target)


def _whole_blocks(plan: SweepPlan, missing: np.ndarray) -> Iterator[Block]:
    cells = product(*map(enumerate, (plan.target, plan.layer, plan.selection, plan.shots)))
    for (h, aim), (i, layer), (j, selection), (m, shots) in cells:
        groups: dict[tuple[tuple[float, ...], tuple[float, ...]], list[int]] = defaultdict(list)
        for k, seed in enumerate(plan.seeds):
            for rectangle in _rectangles(missing[h, i, j, m, :, k, :], plan):
                groups[rectangle].append(seed)
        for (fractions, l2s), seeds in groups.items():
            path = plan.l2_path or ()
            yield Block(layer, selection, fractions, tuple(seeds), l2s, path, aim, shots, plan.control)


def _together(blocks: Iterator[Block], alike: Sequence[Sequence[str]]) -> list[Block]:
    """The blocks, those of targets that are alike joined, each where the first of them stood."""
    group = {name: i for i, names in enumerate(alike) for name in names}
    found: dict[tuple[object, ...], Block] = {}
    for block in blocks:
        joins = block.target in group and block.selection in ANY_TARGET
        key = (group[block.target] if joins else block.target, replace(block, target=""))
        known = found.get(key)
        found[key] = block if known is None else replace(known, also=(*known.also, block.target))
    return list(found.values())


def _rectangles(
    missing: np.ndarray, plan: SweepPlan
) -> Iterator[tuple[tuple[float, ...], tuple[float, ...]]]:
    """(fractions, l2s) products that tile one seed's missing cells: one product, unless both axes grew."""
    by_fractions: dict[tuple[float, ...], list[float]] = defaultdict(list)
    for column, l2 in enumerate(plan.l2):
        fractions = tuple(f for f, absent in zip(plan.fractions, missing[:, column], strict=True) if absent)
        if fractions:
            by_fractions[fractions].append(l2)  # type: ignore[arg-type]
    for fractions, l2s in by_fractions.items():
        yield fractions, tuple(l2s)


def _split(block: Block, seconds: Callable[[Block], float], target: float) -> Iterator[Block]:
    if (block.draws == 1 and not block.also) or seconds(block) <= target:
        yield block
        return
    for half in block.halves(by=("seeds", "also", "l2s", "fractions")):
        yield from _split(half, seconds, target)


def _span(values: tuple) -> str:
    first, last = (value if isinstance(value, str) else f"{value:g}" for value in (values[0], values[-1]))
    return first if len(values) == 1 else f"{first}..{last}"
