"""What every block of one task shares: moments, a sample of the rows, and the curvature of each l2.

Computed once per task and process, from the task alone, so that blocks of any size get the same numbers.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.design.gram import Moments
from probecache.analyze.probes.design.kept_panels import KeptPanels
from probecache.analyze.probes.design.task_panels import (
    resident,
    some_rows,
    task_panels,
    task_weights,
    units,
)
from probecache.analyze.probes.optim.cross_entropy import n_outputs
from probecache.analyze.probes.optim.pilot import fit_pilots
from probecache.analyze.probes.precondition.class_grams import ROWS_PER_NEURON, class_grams
from probecache.analyze.tasks.matrix import Matrix
from probecache.analyze.tasks.task import Task

SAMPLE_ROWS = 16384
GRAM_LIMIT = 2**30  # bytes of class Grams on a CPU without a memory limit
FEWEST = 64  # neurons that a class Gram has rows for: fewer rows may miss a class of many
PILOT_ROWS = 65536  # of rows in memory; of rows on disk, the sample serves
# (the largest share of the neurons served, the pilot's own share). Grams of their own for narrower probes
# took as many evaluations (403 for 391 of CIFAR-10's rows at tol 5e-6, 160 for 146 of 26,000 at l2 1e-2).
PILOTS = ((1.0, 0.5),)
# With fewer rows per neuron, probes on half of the neurons are much softer than those on all: the widest
# pilot is as wide as they are, and halves their evaluations (10,000 rows of 1,280 neurons: 112 to 51).
AMPLE = 20


@dataclass(frozen=True)
class Curvature:
    """Class Grams float32 (c, 1 + d, 1 + d) that precondition probes of up to `widest` neurons."""

    widest: int
    grams: Tensor


@dataclass
class SharedState:
    """Made by `share`. sample: some of the rows, as stored, or None where `rows` has them; sample_labels:
    int64, theirs. rows, test_rows: all of them on a GPU that has the room: they go there once per task.

    share_curvature: whether penalties that are less alike share class Grams too (`_few`). kept: training rows
    in one column order, where many fits of it follow each other.
    gram_limit: bytes that the class Grams may take, of all penalties together. Where those of one l2 would
    take more, fewer are made; with none, the plain Gram matrix serves, or nothing where rows are scarce.
    """

    task: Task
    standardize: bool
    device: torch.device
    moments: Moments
    sample: Panels | None
    sample_labels: Tensor
    gram_limit: int
    curvatures: dict[float, list[Curvature]] = field(default_factory=dict)
    rows: Panels | None = None
    test_rows: Panels | None = None
    share_curvature: bool = False
    kept: KeptPanels | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held: moments, sampled rows, rows on a GPU and the curvatures computed so far."""
        rows = sum(p.n_samples * p.width for p in (self.sample, self.rows, self.test_rows) if p is not None)
        grams = sum(level.grams.nbytes for levels in self.curvatures.values() for level in levels)
        return self.moments.gram.nbytes + self.moments.cross.nbytes + 4 * rows + grams

    @property
    def gram_bytes(self) -> int:
        """Bytes of the class Grams of one level."""
        return 4 * n_outputs(len(self.task.classes)) * (1 + self.task.n_neurons) ** 2

    @property
    def levels(self) -> int:
        """How many levels of class Grams a penalty has."""
        if self.is_scarce:
            return 0
        return min(len(PILOTS), self.gram_limit // self.gram_bytes)

    @property
    def is_scarce(self) -> bool:
        """Fewer than two rows per neuron: probes fit such rows nearly perfectly, and neither the Gram
        matrix nor another probe's curvature is like theirs."""
        return self.task.train.shape[0] < 2 * self.task.n_neurons

    @property
    def narrow(self) -> int:
        """Neurons up to which, where rows are scarce, the Gram matrix still helps: eight rows for each."""
        return self.task.train.shape[0] // 8

    def curvature(self, l2: float) -> list[Curvature]:
        """Curvatures for probes of this penalty, by width; remembered as far as `gram_limit` goes.

        As many as `gram_limit` holds, the widest first; none where rows are scarce.
        """
        l2 = self.alike(l2)
        if l2 not in self.curvatures:
            each, count = self.gram_bytes, self.levels
            if (1 + sum(map(bool, self.curvatures.values()))) * count * each > self.gram_limit:
                self.curvatures.clear()  # computed again where needed: what a probe gets depends on l2 alone
            self.curvatures[l2] = curvatures_of([self], l2, PILOTS[:count])[0] if count else []
        return self.curvatures[l2]

    def alike(self, l2: float) -> float:
        """The penalty whose curvature serves this one."""
        return _few(l2) if self.share_curvature else _decade(l2)

    def sampled(self, chosen: np.ndarray | None) -> Tensor:
        """Panel (1 + d, a) of the sample, or of some of it."""
        if self.sample is not None:
            matrix = np.asarray(self.sample.matrix)
            return self.sample.standardised(matrix if chosen is None else matrix[chosen])
        assert self.rows is not None
        drawn = some_rows(self.task.train.shape[0], SAMPLE_ROWS)
        whole = np.arange(self.task.train.shape[0]) if drawn is None else drawn
        rows = torch.from_numpy(whole if chosen is None else whole[chosen]).to(self.device)
        parts = []
        for panel in self.rows:
            here = rows[(rows >= panel.rows.start) & (rows < panel.rows.stop)] - panel.start
            parts.append(panel.base[:, here])
        return torch.cat(parts, dim=1)

    def panels(
        self, orders: list[np.ndarray] | None = None, keep: bool = False, test: bool = False
    ) -> Panels:
        """`task_panels` of this task, from the rows that are on the device already, or that are kept."""
        if keep and self.kept is not None and orders is not None and len(orders) == 1:
            return self.kept.of(orders[0], lambda: replace(self, kept=None).panels(orders, keep, test))
        panels = task_panels(self.task, self.standardize, self.device, orders, keep, test)
        if test and self.test_rows is None and self.rows is not None:
            self.test_rows = resident(task_panels(self.task, self.standardize, self.device, test=True), None)
        panels.source = self.test_rows if test else self.rows
        return panels


def curvatures_of(
    states: list[SharedState], l2: float, levels: tuple[tuple[float, float], ...]
) -> list[list[Curvature]]:
    """Curvatures of each state, narrowest first, from one pass over the rows: of one task, or of several of
    two classes over the same rows."""
    first, several = states[0], len(states) > 1
    d, count = first.task.n_neurons, first.task.train.shape[0]
    widest = [math.ceil(served * d) for served, _ in levels]
    ks = [max(round(share * d), min(d, 16)) for _, share in levels]
    ks[0] = d if count < AMPLE * d else ks[0]
    labels = [state.sample_labels for state in states]
    if isinstance(first.task.train, np.ndarray):
        chosen = some_rows(count, PILOT_ROWS)
        picked = slice(None) if chosen is None else chosen
        matrix: Matrix = first.task.train[picked]
        labels = [torch.from_numpy(state.task.train_labels[picked]).to(first.device) for state in states]
    else:
        assert first.sample is not None
        matrix = first.sample.matrix
    source = first.rows if len(labels[0]) == count else None
    mean, scale = units(first.task, first.standardize)
    known = first.moments
    if several:
        cross = torch.cat([state.moments.cross for state in states], dim=1)
        known = Moments(known.gram, cross, torch.cat([state.moments.square for state in states]), known.count)
    columns, pilots = fit_pilots(
        Panels(matrix, mean, scale, first.device, source=source),
        torch.stack(labels, dim=1) if several else labels[0],
        len(first.task.classes),
        known,
        ks,
        l2,
    )
    grams = class_grams(
        first.panels(),
        [pilot for own in pilots for pilot in own],
        columns,
        [ROWS_PER_NEURON * max(w, FEWEST) for w in widest] * len(states),
        first.moments.gram,
        task_weights(first.task, first.device),
    )
    made = iter(grams)
    return [[Curvature(w, next(made)) for w in widest][::-1] for _ in states]


def prepare_together(states: list[SharedState], l2: float) -> None:
    """Have the curvature of one penalty ready for several tasks of two classes over the same rows."""
    decade, levels = states[0].alike(l2), states[0].levels
    lacking = [state for state in states if decade not in state.curvatures]
    found = curvatures_of(lacking, decade, PILOTS[:levels]) if lacking and levels else [[] for _ in lacking]
    for state, curvatures in zip(lacking, found, strict=True):
        state.curvatures[decade] = curvatures


def _decade(l2: float) -> float:
    """The nearest power of ten: penalties that are alike share one curvature, and what a probe gets depends
    on its own penalty alone.

    >>> [_decade(l2) for l2 in (0.0, 1e-4, 3e-4, 4e-4)]
    [0.0, 0.0001, 0.0001, 0.001]
    """
    return float(f"1e{round(math.log10(l2))}") if l2 > 0 else 0.0


def _few(l2: float) -> float:
    """One penalty for all: of many that are fitted, class Grams cost more than the evaluations that better
    ones save. 8,000 rows at 1e-4 to 1: 1,124, 500, 238, 199 and 191 evaluations with those of 1e-2, where
    their own take 1,146, 511, 238, 162 and 112; five sizes at 1e-6: 648 for 656.

    >>> [_few(l2) for l2 in (0.0, 1e-6, 10.0)]
    [0.0, 0.01, 0.01]
    """
    return 1e-2 if l2 > 0 else 0.0
