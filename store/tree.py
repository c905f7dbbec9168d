"""A split as xarray sees it: lazy, labelled, in row blocks of one shard."""

from typing import TYPE_CHECKING, Any

import numpy as np

from store.layout import DTYPES

if TYPE_CHECKING:
    import xarray as xr

    from store.reader import Store


def split_tree(store: "Store", split: str) -> "xr.DataTree":
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


def _lazy(store: "Store", split: str, layer: str) -> Any:
    import dask.array as da

    n, d = store.shape(split, layer)
    info = store.layer_info(split, layer)
    rows = tuple(s.rows for s in info.geometry.shards())
    name = f"probecache-{store.digest(split, layer)}-{layer}"
    parts = {
        (name, s.index, 0): (_rows_of, store, split, layer, s.start, s.stop) for s in info.geometry.shards()
    }
    assert sum(rows) == n
    return da.Array(parts, name, (rows, (d,)), DTYPES[info.spec.dtype])


def _rows_of(store: "Store", split: str, layer: str, start: int, stop: int) -> Any:
    return store.matrix(split, layer, rows=(start, stop))
