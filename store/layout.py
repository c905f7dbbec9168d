"""Names, shapes and shard geometry of a store.

STORE/                            group      fingerprint of backbone and compute
  train/                          group      n_samples, shard_rows, class_names, fingerprint of the data
    sample  label  status         (sample,)  identity (text), class (int64), 0 missing / 1 ok / 2 failed
    commit                        (shard, word)      beside it `rows/I`: a shard's rows in one object
    blocks.5/                     group      neurons, dtype, compression, attributes of the layer
      activations                 (sample, neuron)   one file per shard of `shard_rows` rows
      mean variance minimum maximum zeros   (neuron,)  over the rows that are ok
      commit                      (shard, word)      with the shard's part of these moments; written last: a
                                                     shard is there when its commit is

Format 1 has a file for each of a shard's labels, samples, status, moments (`partial`) and commits.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from probecache.store.errors import InputError
from probecache.store.fingerprint import Fingerprint, canonical

MISSING, OK, FAILED = 0, 1, 2
SHARD_ROWS = 8192
PANEL_BYTES = 4 << 20
MAX_CHUNK_BYTES = 1 << 30
ROWS_OF_A_CHUNK = 1 << 20  # of `label`, `sample` and `status`, where a shard has fewer
MOST_ROWS = 1 << 24  # of a shard, and of such a chunk
NAME_BYTES = 4096  # a sample's name, on average over a shard: as long as a path may be
ROW_ARRAYS = ("label", "sample", "status")
MOMENTS = ("mean", "variance", "minimum", "maximum", "zeros")
COMPRESSIONS = (None, "zstd")
DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=,-]{0,199}")
_RESERVED = {*ROW_ARRAYS, *MOMENTS, "commit", "partial", "activations", "zarr.json", "c"}


def check_name(name: str, what: str) -> str:
    """`name`, if it may name a split or a layer: one path segment of plain characters."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("__"):
        raise InputError(
            f"{what} {name!r:.80} cannot be a name: use letters, digits and _ . + @ = , - (at most 200, not "
            "starting with . + @ = , - or __)"
        )
    if name in _RESERVED:
        raise InputError(
            f"{what} {name!r} has a name that stores keep for themselves, as {', '.join(sorted(_RESERVED))}: "
            "use another one"
        )
    return name


def check_split_name(name: str) -> str:
    """`name`, if it may name a split that is written: `check_name`, and no union of splits."""
    if "+" in check_name(name, "split"):
        raise InputError(
            f"split {name!r:.80}: where probes are fitted, + joins splits (--train a+b): name it with _ or -"
        )
    return name


@dataclass(frozen=True)
class LayerSpec:
    """One layer as it is stored. `attrs` (module, pool, ...) are part of the layer's fingerprint."""

    name: str
    neurons: int
    dtype: str = "float16"
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name, "layer")
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r:.40} of layer {self.name!r}: allowed {', '.join(DTYPES)}")
        limit = MAX_CHUNK_BYTES // DTYPES[self.dtype].itemsize
        if isinstance(self.neurons, np.integer):
            object.__setattr__(self, "neurons", int(self.neurons))
        if type(self.neurons) is not int or not 1 <= self.neurons <= limit:
            raise InputError(f"layer {self.name!r} has {self.neurons!r:.40} neurons: allowed 1 to {limit}")
        canonical(dict(self.attrs))

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class SplitSpec:
    """One split as it is to be written: its rows, the layers of this writer, and what decides the values.

    shard_rows   rows per shard; None: what the split has, or 8192
    compression  "zstd", or None: what a stored layer has, else none
    """

    split: str
    n_samples: int
    layers: Sequence[LayerSpec]
    class_names: Sequence[str]
    fingerprint: Fingerprint
    shard_rows: int | None = None
    compression: str | None = None

    def __post_init__(self) -> None:
        names = [spec.name for spec in self.layers]
        if not names or len(set(names)) != len(names):
            raise InputError(f"layers to write: {names}: name at least one, each once")
        if self.compression not in COMPRESSIONS:
            raise InputError(f"compression {self.compression!r:.40}: allowed none or zstd")
        check_split_name(self.split)
        _ = self.geometry

    @property
    def geometry(self) -> "Geometry":
        """As it is asked for here; a split that is there has its own rows per shard."""
        return Geometry(self.n_samples, SHARD_ROWS if self.shard_rows is None else self.shard_rows)


@dataclass(frozen=True)
class Shard:
    """Rows [start, stop) of a split: the unit of writing. `layers` are those that still lack it."""

    index: int
    start: int
    stop: int
    layers: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Geometry:
    """How `n_samples` rows fall into shards of `shard_rows`; the last shard may hold fewer.

    >>> list(Geometry(10, 4).shards())[-1]
    Shard(index=2, start=8, stop=10, layers=())
    """

    n_samples: int
    shard_rows: int

    def __post_init__(self) -> None:
        if type(self.n_samples) is not int or not 1 <= self.n_samples < 1 << 48:
            raise InputError(f"a split holds 1 to 2**48 samples, not {self.n_samples!r:.40}")
        if type(self.shard_rows) is not int or not 1 <= self.shard_rows <= MOST_ROWS:
            raise InputError(f"a shard holds 1 to 2**24 rows, not {self.shard_rows!r:.40}")
        if self.n_shards > 1 << 20:
            raise InputError(f"{self.n_samples} samples in shards of {self.shard_rows}: at most 2**20 shards")

    @property
    def n_shards(self) -> int:
        return -(-self.n_samples // self.shard_rows)

    def shard(self, index: int) -> Shard:
        start = index * self.shard_rows
        return Shard(index, start, min(start + self.shard_rows, self.n_samples))

    def shards(self, rows: tuple[int, int] | None = None) -> Iterator[Shard]:
        """The shards that hold any of `rows` (default all), in order."""
        start, stop = rows or (0, self.n_samples)
        return map(self.shard, range(start // self.shard_rows, -(-stop // self.shard_rows)))

    def shards_of_a_row_chunk(self) -> int:
        """How many shards share a chunk of `label`, `sample` and `status`: a power of two.

        Few rows make no large chunk, many rows few chunks.

        >>> Geometry(60, 8).shards_of_a_row_chunk(), Geometry(400_000_000, 8192).shards_of_a_row_chunk()
        (8, 128)
        """
        most = max(1, ROWS_OF_A_CHUNK // self.shard_rows)
        return int(min(1 << (self.n_shards - 1).bit_length(), 1 << (most.bit_length() - 1)))

    def require_whole_shards(self, rows: tuple[int, int]) -> None:
        """A range to write must begin and end on shard borders: two writers in one shard lose rows."""
        start, stop = rows
        if not 0 <= start < stop <= self.n_samples:
            raise InputError(f"rows {start}:{stop} are outside this split's 0:{self.n_samples}")
        if start % self.shard_rows or (stop % self.shard_rows and stop != self.n_samples):
            low = start // self.shard_rows * self.shard_rows
            high = min(-(-stop // self.shard_rows) * self.shard_rows, self.n_samples)
            raise InputError(
                f"rows {start}:{stop} cut through a shard of {self.shard_rows} rows, which has one writer: "
                f"use multiples of {self.shard_rows}, such as {low}:{high}"
            )


def panel_rows(shard_rows: int, row_bytes: int) -> int:
    """Rows of an inner chunk: the largest divisor of `shard_rows` that keeps it within about 4 MiB.

    >>> panel_rows(8192, 2 * 2048)
    1024
    """
    most = max(1, PANEL_BYTES // row_bytes)
    return max(r for r in range(1, min(most, shard_rows) + 1) if shard_rows % r == 0)
