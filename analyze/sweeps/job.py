"""All that a block needs beside its own coordinates; a few hundred bytes, sent with every block."""

from dataclasses import dataclass
from typing import Any

from probecache.analyze.metrics import Metric
from probecache.analyze.probes.kind import Kind
from probecache.analyze.sweeps.cost import BASELINE
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.analyze.tasks.labels import splits_of
from probecache.store.errors import InputError


@dataclass(frozen=True)
class Job:
    """A sweep as its workers see it.

    kind, metrics: the objects themselves, since a worker does not know what its client registered.
    digests: (name, digest) of each layer, and of "target:NAME", so that a store that changed under a running
    sweep is noticed. memory_limit: bytes for the process, or None.
    """

    store: str
    plan: SweepPlan
    kind: Kind
    metrics: tuple[Metric, ...]
    device: str
    memory_limit: int | None
    digests: tuple[tuple[str, str], ...]
    rows_differ: bool = False

    @property
    def working_memory(self) -> int | None:
        return working_memory(self.memory_limit)

    @property
    def task_settings(self) -> tuple[Any, ...]:
        """What decides a task beside its rows and target."""
        return self.plan.standardize, self.plan.class_weight

    def digests_of(self, layer: str, target: str) -> tuple[str, str]:
        known = dict(self.digests)
        return known[layer], known.get(f"target:{target}", "")

    def check_unchanged(self, store: Any, layer: str, target: str) -> None:
        """InputError where the store is not what it was when the sweep began."""
        splits, (rows, labels) = used_splits(self.plan), self.digests_of(layer, target)
        require_same(store, f"layer {layer!r}", layer_digest(store, layer, *splits), rows)
        if labels:
            self.check_target(store, target)

    def check_target(self, store: Any, target: str) -> None:
        """InputError where a target is not what it was when the sweep began."""
        then = dict(self.digests).get(f"target:{target}", "")
        if then:
            require_same(
                store, f"target {target!r}", target_digest(store, target, *used_splits(self.plan)), then
            )


def used_splits(plan: SweepPlan) -> tuple[str, ...]:
    """The splits, or unions of them, that a plan reads."""
    return (plan.train, plan.test) if plan.val is None else (plan.train, plan.test, plan.val)


def working_memory(limit: int | None) -> int | None:
    """What of a process's limit is left for data: less what an interpreter with its libraries takes."""
    return None if limit is None else max(limit // 4, limit - BASELINE)


def layer_digest(store: Any, layer: str, *unions: str) -> str:
    """What identifies the rows that the probes of a layer see: the digests of their splits."""
    return "+".join(store.digest(split, layer) for union in unions for split in splits_of(union))


def target_digest(store: Any, target: str, *unions: str) -> str:
    """What identifies a target of those rows."""
    return "+".join(store.target_digest(split, target) for union in unions for split in splits_of(union))


def require_same(store: Any, what: str, now: str, then: str) -> None:
    if now != then:
        raise InputError(f"{store.path} changed while the sweep ran: {what} is {now}, it was {then}")
