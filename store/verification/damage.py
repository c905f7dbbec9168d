"""A damaged piece of a store, and telling damage from what a living writer is just changing."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from probecache.store import catalog
from probecache.store.claims import Holder, being_written
from probecache.store.errors import ProbecacheError
from probecache.store.storage.files import Files

UNFIT = "its consolidated metadata do not fit"
OTHER = "is not what follows from its group"
OUTGROWN = "does not fit its split's size"
FOLLOWS = (UNFIT, OTHER, OUTGROWN)  # what a document is called whose group a writer has changed before it


@dataclass(frozen=True)
class Damage:
    """One damaged or missing piece. None: not of one split, layer or shard but of what holds them.

    kind  document   a zarr.json; `piece` is its path
          rows       labels, identity or status of a shard
          shard      activations, moments or commit of a shard of a layer
          target     a shard of a target other than `label`; `piece` names it
          moments    a layer's merged moments or counts
          index      what is made of a finished split's commits: its index, the row arrays that zarr reads
          unwritten  a shard that no writer has committed
    """

    kind: str
    split: str | None
    layer: str | None
    shard: int | None
    rows: tuple[int, int] | None
    piece: str
    why: str

    def __str__(self) -> str:
        parts = [f"split {self.split}" if self.split else "", f"layer {self.layer}" if self.layer else ""]
        parts += [f"shard {self.shard}" if self.shard is not None else ""]
        parts += [f"rows {self.rows[0]}:{self.rows[1]}" if self.rows else "", f"{self.piece}: {self.why}"]
        return ", ".join(part for part in parts if part)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def harmful(self) -> bool:
        """Whether it is damage, not only work that is still to be done."""
        return self.kind != "unwritten"


def settled(
    files: Files, split: str | None, found: list[Damage], again: Callable[[], list[Damage]]
) -> list[Damage]:
    """`found`, or what a second look (`again`) finds: a writer may have changed the store between two reads.

    Beside a living writer the look is repeated for two seconds, and what its claim covers is not damage.
    """
    for attempt in range(8):
        if not any(damage.harmful for damage in found):
            return found
        holder = _writer(files, split)
        if attempt > 1 and holder is None:  # documents are written before a claim is taken
            return found
        if attempt:
            time.sleep(0.25)
        try:
            found = again()
        except ProbecacheError:  # a document of it is damaged, and is named by itself
            return found
    return [_claimed(files, damage) for damage in found]


def _writer(files: Files, split: str | None) -> Holder | None:
    names = [split] if split is not None else catalog.children(files, "")
    return next((holder for name in names if (holder := being_written(files, name))), None)


def _claimed(files: Files, damage: Damage) -> Damage:
    if not damage.harmful:
        return damage
    if damage.kind == "document" and damage.why in FOLLOWS and (holder := _writer(files, damage.split)):
        return replace(damage, kind="unwritten", why=f"is being written by {holder}")
    if damage.split is None:
        return damage
    if damage.kind in (
        "moments",
        "index",
    ):  # every shard is there: its claims are given back, its lease is not
        return replace(damage, kind="unwritten", why="its writer has not finished")
    holder = being_written(files, damage.split, damage.shard) if damage.shard is not None else None
    return replace(damage, kind="unwritten", why=f"is being written by {holder}") if holder else damage
