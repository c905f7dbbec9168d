"""The groups of a store: a split and a layer, where their pieces lie, the documents that follow."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probecache.store.format import metadata
from probecache.store.format.shard_format import ShardFormat
from probecache.store.layout import DTYPES, ROW_ARRAYS, Geometry, LayerSpec, Shard, panel_rows


def commits_key(split: str, layer: str) -> str:
    """The folder of a layer's commits, also of a layer whose document cannot be read."""
    return f"{split}/{layer}/commit/c"


def commit_key(split: str, layer: str, index: int) -> str:
    """The commit of a layer's shard of that number."""
    return f"{commits_key(split, layer)}/{index}/0"


@dataclass(frozen=True)
class Layer:
    """One layer's group. `complete`: the number of samples it held when its split was finished (0: never)."""

    split: str
    spec: LayerSpec
    compression: str | None
    geometry: Geometry
    complete: int = 0
    report: dict[str, Any] = field(default_factory=dict)
    n_statistics: int = len(metadata.STATISTICS)
    packed: bool = True  # its commits hold the shards' moments; False in format 1

    @property
    def key(self) -> str:
        return f"{self.split}/{self.spec.name}"

    @property
    def form(self) -> ShardFormat:
        rows, d = self.geometry.shard_rows, self.spec.neurons
        stored = np.dtype(np.uint16) if self.spec.dtype == "bfloat16" else DTYPES[self.spec.dtype]
        fill = 0x7FC0 if self.spec.dtype == "bfloat16" else np.nan
        return ShardFormat(rows, panel_rows(rows, d * self.spec.itemsize), d, stored, fill, self.compression)

    def shard_key(self, shard: Shard) -> str:
        return f"{self.key}/activations/c/{shard.index}/0"

    def partial_key(self, shard: Shard) -> str:
        """Where a shard's moments lie in format 1."""
        return f"{self.key}/partial/c/{shard.index}/0/0"

    def commit_key(self, shard: Shard) -> str:
        return commit_key(self.split, self.spec.name, shard.index)

    @property
    def commits_key(self) -> str:
        """The folder of the shards' commits."""
        return commits_key(self.split, self.spec.name)

    @property
    def n_words(self) -> int:
        """crc32c words of a commit: of the moments, then of each panel."""
        return 1 + self.form.n_panels

    @property
    def partial_bytes(self) -> int:
        return 8 * self.n_statistics * self.spec.neurons

    def attributes(self) -> dict[str, Any]:
        counted = {"statistics": self.n_statistics}
        return {
            "probecache": {
                "neurons": self.spec.neurons,
                "dtype": self.spec.dtype,
                "compression": self.compression,
                "attrs": dict(self.spec.attrs),
                "complete": self.complete,
                "report": self.report,
                **(counted if self.n_statistics != metadata.OLD_STATISTICS else {}),
            }
        }

    def arrays(self) -> dict[str, dict[str, Any]]:
        return metadata.layer_arrays(
            self.geometry, self.spec, self.compression, self.n_statistics, self.packed
        )


@dataclass(frozen=True)
class Split:
    """One split's group. `origin`: its copy of the store's own fingerprint, backbone and compute.

    streaming   it is being written by a stream whose end is not known: it holds more rows than it says
    row_shards  shards to a chunk of `label`, `sample` and `status`, which are made of the shards' own objects
                once all of these are there; 0 in format 1, where each shard's rows are chunks themselves
    """

    name: str
    geometry: Geometry
    class_names: tuple[str, ...]
    data: dict[str, Any]
    origin: dict[str, Any] = field(default_factory=dict)
    streaming: bool = False
    row_shards: int = 0

    @property
    def key(self) -> str:
        return self.name

    @property
    def packed(self) -> bool:
        return self.row_shards > 0

    @property
    def n_words(self) -> int:
        """crc32c words of a commit: of labels, identity and status."""
        return len(ROW_ARRAYS)

    def row_key(self, array: str, index: int) -> str:
        """A chunk of labels, identity, status or, packed, their commits: of a shard, or of `row_shards`."""
        return f"{self.name}/{array}/c/{index}" + ("/0" if array == "commit" else "")

    def commit_key(self, shard: Shard) -> str:
        return f"{self.commits_key}/{shard.index}" + ("" if self.packed else "/0")

    @property
    def commits_key(self) -> str:
        """The folder of the shards' commits; packed, each holds the shard's rows too."""
        return f"{self.name}/commit/{'rows' if self.packed else 'c'}"

    def attributes(self) -> dict[str, Any]:
        return {
            "class_names": list(self.class_names),
            "probecache": {
                "n_samples": self.geometry.n_samples,
                "shard_rows": self.geometry.shard_rows,
                "fingerprint": {**self.origin, "data": self.data},
                **({"row_shards": self.row_shards} if self.packed else {}),
                **({"streaming": True} if self.streaming else {}),
            },
        }

    def arrays(self) -> dict[str, dict[str, Any]]:
        return metadata.split_arrays(self.geometry, self.row_shards)
