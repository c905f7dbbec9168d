"""What a search measures: probes of a sweep, kept in RESULTS, or the CKA of subsets, from one Gram matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from probecache.analyze.findings.critical.search import Search
from probecache.analyze.findings.score import score_of
from probecache.analyze.probes.kind import claims
from probecache.analyze.selections.projections import SEEDED
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.similarity.cka import cka_with_full, debiased_form, nested_masks, products_squared
from probecache.analyze.similarity.gram import centred_gram
from probecache.analyze.similarity.kernels import centred_rows, cka_of_orders, serve
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.analyze.sweeps.sweep import Running, run_plan
from probecache.analyze.sweeps.worker import Cache
from probecache.analyze.tasks.shots import ALL
from probecache.store.errors import ProbecacheError
from probecache.store.reader import Store

if TYPE_CHECKING:
    from distributed import Client


class Measure(Protocol):
    """Scores of subsets of one layer."""

    @property
    def score(self) -> str:
        """What is measured."""
        ...

    def search(self, size: int, seeds: Sequence[int], deltas: tuple[float, ...], confidence: float) -> Search:
        """A search on `size` sizes of what this measures."""
        ...

    def __call__(self, fractions: Sequence[float], seeds: Sequence[int]) -> np.ndarray:
        """(fraction, seed)"""
        ...


@dataclass
class Probes:
    """Probes of a plan of one cell, at any fractions and seeds; the layer stays in memory between calls.

    asked: a variable of RESULTS; None: accuracy, and r2 of numbers.
    """

    plan: SweepPlan
    store: Store
    asked: str | None
    out: Path
    client: "Client | None" = None
    device: str = "auto"
    memory_limit: int | None = None
    progress: Callable[[int, int], None] | None = None
    cache: Cache = field(default_factory=Cache)
    score: str = "accuracy"

    def search(self, size: int, seeds: Sequence[int], deltas: tuple[float, ...], confidence: float) -> Search:
        # a selection that draws nothing is the same subset for every seed, unless something else is drawn
        drawn = bool(set(self.plan.selection) & set(SEEDED)) or self._redrawn
        count = len(seeds) if drawn else 1
        alike = claims(self.plan.kind, "order_free") and not self._redrawn
        return Search(size, count, deltas, 1 if alike else count, confidence)

    @property
    def _redrawn(self) -> bool:
        """Whether a seed draws rows, labels, or what the kind of probe begins with."""
        return self.plan.shots != (ALL,) or self.plan.control is not None or claims(self.plan.kind, "draws")

    def __call__(self, fractions: Sequence[float], seeds: Sequence[int]) -> np.ndarray:
        results = run_plan(
            replace(self.plan, fractions=tuple(fractions), seeds=tuple(seeds)),
            self.store,
            Running(self.client, self.out, self.device, self.memory_limit, self.progress, cache=self.cache),
        )
        values = score_of(results, self.asked)
        self.score = str(values.name)
        extra = [d for d in values.dims if d not in ("fraction", "seed")]
        scores = values.squeeze(extra, drop=True).transpose("fraction", "seed").to_numpy()
        if np.isnan(scores).any():
            raise ProbecacheError(
                f"{int(np.isnan(scores).sum())} of {scores.size} probes in {self.out} have no score "
                f"({results.attrs.get('failures', '')[:300]}): run the same command again"
            )
        return scores


class Similarity:
    """Linear CKA of random subsets with the full layer, plain or debiased ("cka", "cka_debiased")."""

    def __init__(self, store: Store, split: str, layer: str, score: str) -> None:
        self.store, self.split, self.layer = store, split, layer
        self.score, self.debiased = score, score == "cka_debiased"
        self.d = store.shape(split, layer)[1]
        self.matrix: np.ndarray | None = None
        self.rows: np.ndarray | None = None

    def search(self, size: int, seeds: Sequence[int], deltas: tuple[float, ...], confidence: float) -> Search:
        return Search(size, len(seeds), deltas, 1, confidence)

    def __call__(self, fractions: Sequence[float], seeds: Sequence[int]) -> np.ndarray:
        if serve(self.store, self.split, self.layer, len(seeds)):
            if self.rows is None:
                self.rows = centred_rows(self.store, self.split, self.layer)
            orders = np.stack([permutation(self.d, s) for s in seeds])
            found = cka_of_orders(self.rows, orders, sizes(fractions, self.d))
            return found["_debiased" if self.debiased else ""][0]
        if self.matrix is None:
            gram = centred_gram(self.store, self.split, self.layer, squares=self.debiased)
            self.matrix = debiased_form(gram) if self.debiased else products_squared(gram)
        orders = np.stack([permutation(self.d, s) for s in seeds])
        masks = nested_masks(orders, sizes(fractions, self.d))
        return cka_with_full(self.matrix, masks.reshape(-1, self.d)).reshape(masks.shape[:2])
