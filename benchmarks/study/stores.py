"""The stores of the study: which backbone on which task lies where."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import probecache as pc

TASKS = ("pets37", "flowers102", "cifar10", "sentiment")


@dataclass(frozen=True)
class Study:
    """One backbone on one task: a store and the two splits of it that the task is."""

    path: Path
    backbone: str
    task: str
    train: str = ""  # TASK-train and TASK-test where nothing else is said
    test: str = ""

    @property
    def splits(self) -> dict[str, str]:
        """What `sweep` and its like call train and test."""
        return {"train": self.train or f"{self.task}-train", "test": self.test or f"{self.task}-test"}

    @property
    def name(self) -> str:
        return f"{self.backbone} / {self.task}"

    @property
    def file(self) -> str:
        return f"{self.backbone}__{self.task}.zarr"

    @property
    def is_control(self) -> bool:
        return "random" in self.backbone

    @property
    def image_size(self) -> int | None:
        """Pixels, where the store says how its features were computed."""
        preprocess = pc.open_store(self.path).fingerprint.compute.get("preprocess", {})
        return preprocess.get("input_size", [None])[-1] if isinstance(preprocess, dict) else None


def find_studies(features: Path, more: Sequence[str] = ()) -> list[Study]:
    """Every backbone's tasks: stores of a folder that have the splits TASK-train and TASK-test, and `more`.

    more: BACKBONE/TASK=STORE, whose splits are called so or just train and test; they win over the folder's.
    Splits that are still being written are left out: the same command takes them up when they are there.
    Pretrained backbones come first, and small tasks first: what is told soonest is worth most where time is
    short.
    """
    found = {study.name: study for study in map(named_study, more)}
    if len(found) < len(more):
        raise pc.InputError(f"got --store {', '.join(more)}; name each backbone and task once")
    ours: list[Study] = []
    for path in sorted(p.parent for p in features.glob("*/zarr.json")):
        store = pc.open_store(path)
        backbone = re.sub(r"(-\d+px)?\.zarr$", "", path.name).replace("tf_efficientnet_", "")
        for study in (Study(path, backbone, task) for task in TASKS):
            there = set(study.splits.values()) & set(store.splits)
            if study.name in found:
                continue
            if len(there) == 2 and all(is_finished(store, split) for split in there):
                ours.append(study)
            elif there:
                print(f"left out, its extraction is not finished: {study.name}", flush=True)
    names = [s.name for s in ours]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise pc.InputError(f"{features} holds more than one store of {twice[0]}: keep one image size")
    every = [*found.values(), *ours]
    if not every:
        raise pc.InputError(f"{features} holds no store with splits such as cifar10-train and cifar10-test")
    return sorted(every, key=lambda s: (s.is_control, TASKS.index(s.task), s.backbone))


def named_study(said: str) -> Study:
    """BACKBONE/TASK=STORE as a study; InputError for other forms, and for a store without such splits.

    >>> named_study("lite0/birds=birds.zarr")
    Traceback (most recent call last):
    probecache.store.errors.InputError: got --store lite0/birds=birds.zarr; allowed: BACKBONE/TASK=STORE, a \
task of pets37, flowers102, cifar10, sentiment
    """
    match = re.fullmatch(r"([^/=]+)/([^/=]+)=(.+)", said)
    if match is None or match[2] not in TASKS:
        allowed = f"BACKBONE/TASK=STORE, a task of {', '.join(TASKS)}"
        raise pc.InputError(f"got --store {said}; allowed: {allowed}")
    store = pc.open_store(match[3])
    for train, test in ((f"{match[2]}-train", f"{match[2]}-test"), ("train", "test")):
        if {train, test} <= set(store.splits):
            return Study(Path(match[3]), match[1], match[2], train, test)
    raise pc.InputError(
        f"got --store {said}, which has the splits {', '.join(store.splits)}; needed: train and test"
    )


def is_finished(store: pc.Store, split: str) -> bool:
    """Whether every row of every layer of a split is there."""
    n = store.split_info(split).geometry.n_samples
    return all(store.layer_info(split, layer).complete == n for layer in store.layers_of(split))


def ordered_layers(store: pc.Store) -> list[str]:
    """Layers from early to late, the penultimate one last."""
    return sorted(store.layers, key=lambda name: (name == "penultimate", name))
