"""Read a store: every panel is checked against its crc32c and its shard's commit on the way in."""

import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from probecache.store.errors import InputError, UnfinishedSplit
from probecache.store.layout import DTYPES, MISSING
from probecache.store.reading.datatree import split_tree
from probecache.store.reading.digest import label_digest, layer_digest, target_digest
from probecache.store.reading.documents import Documents
from probecache.store.reading.moments import read_moments
from probecache.store.reading.prefetch import prefetched
from probecache.store.reading.read_matrix import (
    Columns,
    Rows,
    column_index,
    panels_of_rows,
    read_matrix,
    require_room,
    row_range,
)
from probecache.store.reading.row_chunks import read_row_arrays
from probecache.store.reading.targets import read_target
from probecache.store.storage.files import open_files
from probecache.store.targets import Target

if TYPE_CHECKING:
    import torch
    import xarray as xr

Array = np.ndarray[Any, Any]


def open_store(path: "str | os.PathLike[str] | Store", partial: bool = False) -> "Store":
    """Open STORE for reading. Nothing but its documents is read until rows are asked for.

    Parameters
    ----------
    path : str, Path or Store
        A local folder or an fsspec URL; an open store is returned as it is.
    partial : bool
        False (default): shards that no writer has committed raise UnfinishedSplit when they are read. True:
        they read as NaN, label -1 and status MISSING.

    Returns
    -------
    Store

    Raises
    ------
    NotAStore
        If there is no store at `path`. Damage raises DamagedStore when it is read.

    Examples
    --------
    >>> store = pc.open_store("features.zarr")
    >>> store.splits, store.layers, store.shape("train", "late")
    (['test', 'train'], ['early', 'late'], (60, 8))
    """
    if isinstance(path, Store):
        return path
    if not isinstance(path, str | os.PathLike):
        raise InputError(
            f"got a {type(path).__name__} for a store; give its path, or what open_store or write_arrays "
            "returned"
        )
    return Store(open_files(path), partial)


class Store(Documents):
    """A store opened for reading: matrix(split, layer)[i, j] is neuron j of sample i, every panel checked.

    Holds no data; may be used from threads and pickled to processes. Made by `open_store`.

    Parameters
    ----------
    files : Files
        Where the store lies; `open_store` makes it of a path.
    partial : bool
        As in `open_store`.

    Raises
    ------
    NotAStore, InputError
        No store there; no such split, layer or target: the message has the nearest names.
    DamagedStore, UnfinishedSplit
        On reading: bytes that changed or are missing; rows that no writer has committed.

    Examples
    --------
    >>> store = pc.open_store("features.zarr")
    >>> store.matrix("train", "late", columns=[0, 3], rows=(0, 10)).shape
    (10, 2)
    >>> store.target("train", "label").names
    ('cat', 'dog', 'hen')
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.path, self.partial)

    def __repr__(self) -> str:
        return f"Store({self.path!r}, splits={self.splits}, layers={self.layers})"

    def _repr_html_(self) -> str:
        from probecache.store.info import as_html

        return as_html(self)

    def digest(self, split: str, layer: str) -> str:
        """32 hex digits that change when any label, identity, status or activation does."""

        def read() -> str:
            return layer_digest(
                self.files, self.split_info(split), self.layer_info(split, layer), self.commits
            )

        return self._steady(split, read)

    def row_arrays(self, split: str) -> tuple[Array, list[str], Array]:
        """Labels, identity and states of a split's rows, as one reading has them."""
        return self._steady(split, lambda: self._row_arrays(split))

    def _row_arrays(self, split: str, names: bool = True) -> tuple[Array, list[str], Array]:
        """Labels, identity where `names` are wanted, and states."""
        info = self.split_info(split)
        n = info.geometry.n_samples
        found = self._committed(info, (0, n), finished=False)
        require_room(64 * n, f"{n} labels, sample names and states of split {split!r} in {self.path}")
        return read_row_arrays(self.files, info, found, self._indexes.get(info.key), names)

    def labels(self, split: str) -> Array:
        """int64 (samples,): class of each row, -1 where missing."""
        return self._steady(split, lambda: self._row_arrays(split, names=False))[0]

    def samples(self, split: str) -> Array:
        """(samples,) of str: what identifies each row."""
        return np.array(self.row_arrays(split)[1], dtype=np.dtypes.StringDType())

    def target(self, split: str, name: str) -> Target:
        """One target, every chunk of it checked. UnfinishedSplit if rows of it are not written.

        With `partial` such rows are unlabelled.
        """
        info = self.split_info(split)
        if name == "label":
            return Target("label", "classes", self.labels(split), info.class_names)
        return read_target(self.files, self._target_info(split, name), self.partial)

    def target_digest(self, split: str, name: str) -> str:
        """32 hex digits that change when any value or name of a target does."""
        info = self.split_info(split)
        if name == "label":
            found = self._committed(info, (0, info.geometry.n_samples), finished=False)
            return label_digest(info, found)
        return target_digest(self._target_info(split, name))

    def status(self, split: str, layer: str | None = None) -> Array:
        """uint8 (samples,): OK = 1, FAILED = 2; with `partial` MISSING = 0, in `layer` if given."""
        status = self._steady(split, lambda: self._row_arrays(split, names=False))[2]
        if layer is not None:
            info = self.layer_info(split, layer)
            for s, rows, _ in self._committed(info, (0, len(status)), self._finished(info)):
                status[s.start + rows : s.stop] = MISSING
        return status

    def matrix(
        self,
        split: str,
        layer: str,
        columns: Columns = None,
        rows: Rows = None,
        dtype: Any = None,
    ) -> Array:
        """Activations, (rows, neurons or columns), in the stored dtype unless `dtype` is given.

        Panels of full rows are read and checked, `columns` taken from each: no random access inside a shard.
        Memory: the result, and one panel (about 4 MiB) per reading thread.

        Parameters
        ----------
        split, layer : str
        columns : whole numbers or None
            In the order they are wanted; None: all.
        rows : whole numbers, (start, stop), slice or None
            Likewise; None: all.
        dtype : numpy dtype or None
            None: as stored (float16, bfloat16 or float32).

        Returns
        -------
        numpy.ndarray

        Examples
        --------
        >>> pc.open_store("features.zarr").matrix("train", "late", columns=[7, 0], rows=(0, 5)).shape
        (5, 2)
        """
        info = self.layer_info(split, layer)
        taken = column_index(columns, info.spec.neurons, layer)
        asked = row_range(rows, info.geometry.n_samples)

        def read(start: int, stop: int) -> Array:
            now = self.layer_info(split, layer)
            found = self._committed(now, (start, stop), self._finished(now)) if stop > start else []
            return read_matrix(self.files, now, found, (start, stop), taken, dtype)

        if isinstance(asked, tuple):
            return self._steady(split, lambda: read(*asked))
        width = info.spec.neurons if taken is None else len(taken)
        kind = np.dtype(DTYPES[info.spec.dtype] if dtype is None else dtype)
        require_room(len(asked) * width * kind.itemsize, f"{len(asked)} rows of {info.key} in {self.path}")
        out = np.empty((len(asked), width), kind)
        for at, start, stop in panels_of_rows(asked, info.form.panel):
            out[at] = self._steady(split, partial(read, start, stop))[asked[at] - start]
        return out

    def blocks(
        self,
        split: str,
        layer: str,
        columns: Columns = None,
        rows: int = 8192,
        prefetch: int = 2,
        dtype: Any = None,
    ) -> Iterator[tuple[int, Array]]:
        """Blocks of `rows` rows in order, while a thread reads `prefetch` of them ahead.

        Parameters
        ----------
        split, layer, columns, dtype
            As in `matrix`.
        rows : int
            Rows per block, 8192 by default; the last may have fewer.
        prefetch : int
            Blocks that are read ahead, 2 by default; 0 reads without a thread.

        Returns
        -------
        Iterator of (int, numpy.ndarray)
            First row and block.

        Examples
        --------
        >>> [at for at, block in pc.open_store("features.zarr").blocks("train", "late", rows=25)]
        [0, 25, 50]
        """
        if rows < 1 or prefetch < 0:
            raise InputError(f"blocks of {rows} rows, {prefetch} ahead: use at least 1 and 0")
        n = self.shape(split, layer)[0]
        starts = range(0, n, rows)

        def read(at: int) -> tuple[int, Array]:
            return at, self.matrix(split, layer, columns, (at, min(at + rows, n)), dtype)

        return prefetched(read, starts, prefetch)

    def tensor(
        self,
        split: str,
        layer: str,
        columns: Columns = None,
        rows: Rows = None,
        device: Any = "cpu",
    ) -> "torch.Tensor":
        """`matrix` as a torch tensor of the stored dtype, sharing its memory on the CPU."""
        import torch

        values = self.matrix(split, layer, columns, rows)
        if values.dtype == DTYPES["bfloat16"]:
            return torch.from_numpy(values.view(np.uint16)).view(torch.bfloat16).to(device)
        return torch.from_numpy(values).to(device)

    def moments(self, split: str, layer: str) -> "xr.Dataset":
        """Mean, variance (over n), minimum, maximum, share of zeros: (neuron,) float64, rows that are ok."""
        info = self.layer_info(split, layer)
        if not self._finished(info):
            strict = self if not self.partial else Store(self.files)
            strict._committed(info, (0, info.geometry.n_samples), finished=False)
            raise UnfinishedSplit(
                f"layer {layer!r} of split {split!r} in {self.path}: every shard is written but the "
                "run did not finish; run the command that writes it again"
            )
        return read_moments(self.files, info)

    def __getitem__(self, split: str) -> "xr.DataTree":
        """One split as a lazy xarray.DataTree: sample, label, status, and a child per layer in row blocks."""
        return split_tree(self, split)
