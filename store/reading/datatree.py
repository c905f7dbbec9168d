"""A split as xarray sees it: lazy, labelled, in row blocks of one shard."""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from probecache.store.errors import UnfinishedSplit
from probecache.store.format.groups import Layer, Split
from probecache.store.layout import DTYPES
from probecache.store.targets import Target

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray[Any, Any]


class Readable(Protocol):
    """What a tree needs of a store that is open for reading. Pickled into the graph of its dask blocks."""

    def split_info(self, split: str) -> Split: ...

    def layer_info(self, split: str, layer: str) -> Layer: ...

    def layers_of(self, split: str) -> Sequence[str]: ...

    def row_arrays(self, split: str) -> tuple[Array, list[str], Array]: ...

    def targets(self, split: str) -> Sequence[str]: ...

    def target(self, split: str, name: str) -> Target: ...

    def moments(self, split: str, layer: str) -> "xr.Dataset": ...

    def digest(self, split: str, layer: str) -> str: ...

    def matrix(
        self, split: str, layer: str, columns: None = None, rows: tuple[int, int] | None = None
    ) -> Array: ...


def split_tree(store: Readable, split: str) -> "xr.DataTree":
    """`sample` (coordinate), `label`, `status`, the other targets that are whole; a child per layer.

    `activations` as dask blocks, and its moments.
    """
    import xarray as xr

    info = store.split_info(split)
    labels, names, status = store.row_arrays(split)
    sample = np.array(names, dtype=np.dtypes.StringDType())
    flags = {"flag_values": [0, 1, 2], "flag_meanings": "missing ok failed"}
    top = xr.Dataset(
        {"label": ("sample", labels), "status": ("sample", status, flags)},
        coords={"sample": sample},
        attrs={"class_names": list(info.class_names)},
    )
    for name in store.targets(split)[1:]:
        with contextlib.suppress(UnfinishedSplit):
            top = top.assign(_variable(store.target(split, name)))
    tree = xr.DataTree(top, name=split)
    for layer in store.layers_of(split):
        found = store.layer_info(split, layer)
        variables: dict[str, Any] = {"activations": (("sample", "neuron"), _lazy(store, split, layer))}
        if found.complete == found.geometry.n_samples:
            variables |= {str(k): ("neuron", v.data) for k, v in store.moments(split, layer).items()}
        tree[layer] = xr.DataTree(xr.Dataset(variables, attrs=dict(found.spec.attrs)))
    return tree


def _variable(target: Target) -> dict[str, "xr.DataArray"]:
    """A target along `sample`; several columns with their names as coordinate."""
    import xarray as xr

    attrs = {"kind": target.kind, "names": list(target.names)}
    if target.kind != "labels" and len(target.values.reshape(len(target), -1).T) == 1:
        return {target.name: xr.DataArray(target.values.reshape(-1), dims="sample", attrs=attrs)}
    along = f"{target.name}_{'label' if target.kind == 'labels' else 'column'}"
    coordinate = {along: list(target.names)}
    return {target.name: xr.DataArray(target.values, coordinate, dims=("sample", along), attrs=attrs)}


def _lazy(store: Readable, split: str, layer: str) -> Any:
    import dask.array as da

    info = store.layer_info(split, layer)
    n, d = info.geometry.n_samples, info.spec.neurons
    rows = tuple(s.rows for s in info.geometry.shards())
    name = f"probecache-{store.digest(split, layer)}-{layer}"
    parts = {
        (name, s.index, 0): (_rows_of, store, split, layer, s.start, s.stop) for s in info.geometry.shards()
    }
    assert sum(rows) == n
    return da.Array(parts, name, (rows, (d,)), DTYPES[info.spec.dtype])


def _rows_of(store: Readable, split: str, layer: str, start: int, stop: int) -> Any:
    return store.matrix(split, layer, rows=(start, stop))
