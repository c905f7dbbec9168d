"""A split as xarray sees it: lazy, labelled, in row blocks of one shard."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from probecache.store.catalog import Layer, Split
from probecache.store.layout import DTYPES

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray[Any, Any]


class Readable(Protocol):
    """What a tree needs of a store that is open for reading. Pickled into the graph of its dask blocks."""

    def split_info(self, split: str) -> Split: ...

    def layer_info(self, split: str, layer: str) -> Layer: ...

    def layers_of(self, split: str) -> Sequence[str]: ...

    def row_arrays(self, split: str) -> tuple[Array, list[str], Array]: ...

    def moments(self, split: str, layer: str) -> "xr.Dataset": ...

    def digest(self, split: str, layer: str) -> str: ...

    def matrix(
        self, split: str, layer: str, columns: None = None, rows: tuple[int, int] | None = None
    ) -> Array: ...


def split_tree(store: Readable, split: str) -> "xr.DataTree":
    """`sample` (coordinate), `label`, `status`; a child per layer.

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
    tree = xr.DataTree(top, name=split)
    for layer in store.layers_of(split):
        found = store.layer_info(split, layer)
        variables: dict[str, Any] = {"activations": (("sample", "neuron"), _lazy(store, split, layer))}
        if found.complete == found.geometry.n_samples:
            variables |= {str(k): ("neuron", v.data) for k, v in store.moments(split, layer).items()}
        tree[layer] = xr.DataTree(xr.Dataset(variables, attrs=dict(found.spec.attrs)))
    return tree


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
