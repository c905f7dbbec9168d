"""Control tasks: the same rows with labels that say nothing, for what a probe can learn by heart.

    shuffled    the labels of each split in a random order, one per seed
    random      every type of row gets a label drawn for it, the same wherever the type occurs (Hewitt and
                Liang, Designing and Interpreting Probes with Control Tasks, EMNLP 2019)

    selectivity = accuracy - control accuracy

A type is what a probe could know a row by: a word, a subject, a scene. Without types, each sample's name is a
type of its own, so that test rows are unknown to the probe unless they are training rows too.
"""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError, close_names

CONTROLS = ("shuffled", "random")
_STREAM = 0xC047


def control_task(
    task: Task, control: str, seed: int, train_types: Any = None, test_types: Any = None
) -> Task:
    """The task with control labels in train and test; features, classes and weights stay.

    Labels come from the training rows' own, so each is about as common as before and every class has a row.
    train_types, test_types: what tells rows apart, one each; needed for "random".
    Raises InputError for an unknown control, and for fewer types in train than classes.
    """
    check_control(control)
    if control == "shuffled":
        random = np.random.default_rng([_STREAM, int(seed)])
        train, test = (random.permutation(labels) for labels in (task.train_labels, task.test_labels))
    else:
        train, test = _drawn(task, seed, train_types, test_types)
    return replace(task, train_labels=train, test_labels=test)


def check_control(control: str) -> str:
    if control not in CONTROLS:
        raise InputError(f"got control {control!r}; {close_names(str(control), CONTROLS)}")
    return control


def _drawn(task: Task, seed: int, train_types: Any, test_types: Any) -> tuple[np.ndarray, np.ndarray]:
    """Each type takes over the label of one training row: types in the order of their hash, rows shuffled."""
    if train_types is None or test_types is None:
        raise InputError("got no types for control 'random'; give one for each training and test row")
    mine, theirs = ([str(one) for one in types] for types in (train_types, test_types))
    labels = task.train_labels
    for name, types, wanted in (("train", mine, labels), ("test", theirs, task.test_labels)):
        if len(types) != len(wanted):
            raise InputError(f"got {len(types)} {name} types for {len(wanted)} {name} rows; needed: one each")
    hashes = {name: _hash(seed, name) for name in {*mine, *theirs}}
    known = sorted(set(mine), key=lambda name: (hashes[name], name))
    donors = np.random.default_rng([_STREAM, int(seed)]).permutation(len(labels))
    if not task.is_regression:
        if len(known) < len(task.classes):
            raise InputError(
                f"got {len(known)} types in train for {len(task.classes)} classes; control 'random' needs "
                "at least as many types as classes"
            )
        # one row of every class comes first, or rare classes would have no type
        _, first = np.unique(labels[donors], return_index=True)
        donors = np.concatenate([donors[np.sort(first)], np.delete(donors, first)])
    given = {name: int(donors[rank]) for rank, name in enumerate(known)}
    given |= {name: int(hashes[name] % len(labels)) for name in theirs if name not in given}
    return labels[[given[name] for name in mine]], labels[[given[name] for name in theirs]]


def _hash(seed: int, name: str) -> int:
    text = f"{int(seed)}:{name}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
