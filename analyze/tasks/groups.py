"""What samples belong together (a patient's images, a video's frames): a target whose classes are groups."""

from typing import TYPE_CHECKING

import numpy as np

from probecache.analyze.tasks.labels import splits_of, told_apart
from probecache.store.choose import choose
from probecache.store.errors import InputError
from probecache.store.layout import OK

if TYPE_CHECKING:
    from probecache.store.reader import Store


def load_groups(store: "Store", union: str, target: str) -> list[str]:
    """The group of each row of a split or union, by name; "" for rows that failed.

    Raises InputError for a target that is not of classes, and where a usable row has none.
    """
    found: list[str] = []
    choose(store, "target", [target], splits_of(union))
    for split in splits_of(union):
        groups, usable = store.target(split, target), np.asarray(store.status(split)) == OK
        if groups.kind != "classes":
            raise InputError(
                f"got groups {target!r}, a target of {groups.kind}; groups are classes: write them with "
                f"`probecache target --kind {target}=classes`"
            )
        lacking = int((usable & ~groups.labelled).sum())
        if lacking:
            raise InputError(
                f"got groups {target!r}, which {lacking} of {int(usable.sum())} usable rows of split "
                f"{split!r} lack; give each row a group, one of its own if it belongs to none"
            )
        highest = int(groups.values.max(initial=-1))
        names = told_apart(groups.names) or [str(i) for i in range(highest + 1)]
        found += [names[i] if ok else "" for i, ok in zip(groups.values.tolist(), usable, strict=True)]
    return found
