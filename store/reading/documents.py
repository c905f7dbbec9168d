"""What a store's documents say of its splits, layers and targets, and what its commits vouch for."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from probecache.store import catalog
from probecache.store.errors import InputError, close_names
from probecache.store.fingerprint import Fingerprint
from probecache.store.format.groups import Layer, Split
from probecache.store.format.index import Index
from probecache.store.format.target_array import TargetArray
from probecache.store.layout import Shard
from probecache.store.reading import commits
from probecache.store.reading.commits import Vouched
from probecache.store.reading.read_index import load_index
from probecache.store.reading.steady import Read, steady
from probecache.store.reading.vouched import require_committed, require_ended
from probecache.store.storage.files import Files


class Documents:
    """The part of a `Store` that reads no values: documents and commits, kept until a writer changes them."""

    def __init__(self, files: Files, partial: bool = False) -> None:
        self.files, self.partial = files, partial
        self.path = files.url
        self._root = catalog.read_root(files)
        self._layers: dict[tuple[str, str], Layer] = {}
        self._indexes: dict[str, Index | None] = {}

    @cached_property
    def _splits(self) -> dict[str, tuple[Split, list[str]]]:
        splits = [catalog.read_split(self.files, n) for n in catalog.children(self.files, "")]
        for split in splits:
            catalog.require_own(self.files, self._root, split)
        return {s.name: (s, catalog.layer_names(self.files, s)) for s in splits}

    @property
    def splits(self) -> list[str]:
        return list(self._splits)

    @property
    def layers(self) -> list[str]:
        """Every layer that some split has, in name order."""
        return sorted({layer for _, layers in self._splits.values() for layer in layers})

    @property
    def fingerprint(self) -> Fingerprint:
        """Backbone and compute of the store; `data` maps each split to its own part."""
        stored = self._root["fingerprint"]
        data = {name: split.data for name, (split, _) in self._splits.items()}
        return Fingerprint(stored["backbone"], stored["compute"], data)

    def layers_of(self, split: str) -> list[str]:
        self.split_info(split)
        return self._splits[split][1]

    def class_names(self, split: str) -> list[str]:
        return list(self.split_info(split).class_names)

    def shape(self, split: str, layer: str) -> tuple[int, int]:
        """(samples, neurons)"""
        info = self.layer_info(split, layer)
        return info.geometry.n_samples, info.spec.neurons

    def split_info(self, split: str) -> Split:
        if split not in self._splits:
            raise InputError(
                f"no split {split!r:.80} in {self.path}; "
                f"{close_names(str(split), self.splits) if self.splits else 'it has none yet'}"
            )
        return self._splits[split][0]

    def layer_info(self, split: str, layer: str) -> Layer:
        self.split_info(split)
        names = self._splits[split][1]
        if layer not in names:
            raise InputError(
                f"no layer {layer!r:.80} in split {split!r} of {self.path}; "
                f"{close_names(str(layer), names) if names else 'it has none yet'}"
            )
        key = split, layer
        if key not in self._layers:

            def read() -> Layer:
                found = catalog.read_layer(self.files, self.split_info(split), layer)
                catalog.require_arrays(self.files, found)
                return found

            self._layers[key] = self._steady(split, read)
        return self._layers[key]

    def _steady(self, split: str, read: Callable[[], Read]) -> Read:
        """`read()`, again where a writer changed the store in between."""

        def forget() -> None:
            self._layers.clear()
            self._indexes.clear()
            self.__dict__.pop("_splits", None)  # it may have grown

        return steady(self.files, split, read, forget)

    def report(self, split: str, layer: str) -> dict[str, Any]:
        """Counts of non-finite and saturated values, and the summary of the run that finished the layer."""
        return dict(self.layer_info(split, layer).report)

    def targets(self, split: str) -> tuple[str, ...]:
        """What a split's rows are labelled with: "label", that came with the data, then the others."""
        return "label", *catalog.target_names(self.files, self.split_info(split))

    def _target_info(self, split: str, name: str) -> TargetArray:
        info = self.split_info(split)
        found = catalog.find_target(self.files, info, name)
        if found is None:
            raise InputError(
                f"no target {name!r:.80} in split {split!r} of {self.path}; "
                f"{close_names(str(name), self.targets(split))}"
            )
        return found

    def commits(self, owner: Split | Layer, shards: list[Shard]) -> list[commits.Committed]:
        """Rows and crc32c words of each shard's commit, or what is wrong with it.

        By the index, where many are asked for and it holds.
        """
        if len(shards) > commits.FEW:
            if owner.key not in self._indexes:
                self._indexes[owner.key] = load_index(self.files, owner)
            if (index := self._indexes[owner.key]) is not None:
                return list(index.commits(shards))
        return commits.read_commits(self.files, owner, shards)

    def _committed(self, owner: Split | Layer, rows: tuple[int, int], finished: bool) -> list[Vouched]:
        """The shards of `rows` with what their commits vouch for; raises unless all are there, or `partial`.

        `finished`: that a commit is missing is damage.
        """
        require_ended(
            self.files, owner if isinstance(owner, Split) else self.split_info(owner.split), self.partial
        )
        wanted = list(owner.geometry.shards(rows))
        found = zip(wanted, self.commits(owner, wanted), strict=True)
        return require_committed(self.files, owner, list(found), finished, self.partial)

    def _finished(self, layer: Layer) -> bool:
        return layer.complete == layer.geometry.n_samples
