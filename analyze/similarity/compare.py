"""Any measure between layers, between backbones, and between subsets and the layer they come from."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from probecache.analyze.selections.subsets import check_seeds, permutation, sizes
from probecache.analyze.similarity.gram import FeatureStore, centred_gram, cross_products
from probecache.analyze.similarity.measures import Measure, Products, measure_named
from probecache.store.reader import open_store

_TURNED = "orthogonal transformation"


def similarity(
    store: FeatureStore | str | Path,
    *,
    layers: str | Sequence[str] | None = None,
    split: str = "test",
    other: FeatureStore | str | Path | None = None,
    other_layers: str | Sequence[str] | None = None,
    measure: str = "linear_cka",
) -> xr.DataArray:
    """||X'Y||_F^2 / (||X'X||_F ||Y'Y||_F), linear CKA, or another measure, between each layer and each other.

    Of one store, or of two (two backbones) that hold the same samples in the same order, which is checked by
    their names. Columns are centred, not scaled. Each pair takes one pass over its layers.

    Parameters
    ----------
    store : Store, str or Path
        An open store, or its path.
    layers : str, list of str or None
        None: all that the split has.
    split : str
    other : Store, str, Path or None
        The store of `other_layers`. None: the same one.
    other_layers : str, list of str or None
        None: `layers`, or all of `other`'s.
    measure : str
        linear_cka, linear_cka_debiased, orthogonal_procrustes_centered_and_normalized, svcca (99% of the
        variance), or pwcca, which is not symmetric: the layer gives the weights.

    Returns
    -------
    xarray.DataArray
        float64 (layer, other_layer), named after the measure; `attrs` have its range, whether more is closer,
        and what it ignores.

    Raises
    ------
    InputError
        For an unknown measure or layer, samples that differ, fewer than 4 that did not fail, NaN, and
        matrices larger than the machine's memory.

    Examples
    --------
    >>> found = pc.similarity("features.zarr", layers=["late"], split="test")
    >>> found.dims, round(float(found[0, 0]), 6)
    (('layer', 'other_layer'), 1.0)
    """
    kind = measure_named(measure)
    ours = _opened(store)
    theirs = ours if other is None else _opened(other)
    names = _names(ours, split, layers)
    columns = names if other is None and other_layers is None else _names(theirs, split, other_layers)
    values = np.empty((len(names), len(columns)))
    for i, mine in enumerate(names):
        for j, yours in enumerate(columns):
            if other is None and kind.symmetric and yours in names[:i] and mine in columns:
                values[i, j] = values[names.index(yours), columns.index(mine)]
                continue
            how = {"squares": kind.needs_squares, "rotated": _TURNED in kind.invariances}
            products = cross_products(ours, mine, theirs, yours, split, **how)
            values[i, j] = kind.compute(products)
    return xr.DataArray(
        values,
        dims=("layer", "other_layer"),
        coords={"layer": list(names), "other_layer": columns},
        name=measure,
        attrs=_declared(kind) | {"split": split, "store": ours.path, "other_store": theirs.path},
    )


def _opened(store: FeatureStore | str | Path) -> Any:
    return open_store(store) if isinstance(store, str | os.PathLike) else store


def _names(store: Any, split: str, layers: str | Sequence[str] | None) -> list[str]:
    if layers is None:
        return list(store.layers_of(split))
    return [layers] if isinstance(layers, str) else list(layers)


def subset_similarity(
    store: FeatureStore,
    *,
    layer: str,
    split: str,
    fractions: Sequence[float],
    seeds: int | Sequence[int] = 5,
    measures: Sequence[str] = (
        "linear_cka",
        "orthogonal_procrustes_centered_and_normalized",
        "svcca",
        "pwcca",
    ),
) -> xr.Dataset:
    """Random subsets against the full layer under several measures: one variable per measure (fraction,
    seed).

    One Gram serves all. For thousands of CKA values `cka` is the faster way: this one slices matrices per
    subset.
    """
    kinds = [measure_named(m) for m in measures]
    gram = centred_gram(store, split, layer, squares=any(k.needs_squares for k in kinds))
    squares = None if gram.squares is None else (gram.squares,) * 3
    whole = Products(gram.n, gram.products, gram.products, gram.products, squares)
    seed_list = list(check_seeds(seeds))
    counts = sizes(fractions, len(gram.products))
    out = xr.Dataset(coords={"fraction": np.asarray(fractions, dtype=np.float64), "seed": seed_list})
    parts = [[whole.take(permutation(len(gram.products), s)[:k]) for s in seed_list] for k in counts]
    for kind in kinds:
        values = np.array([[kind.compute(part) for part in row] for row in parts])
        out[kind.name] = (("fraction", "seed"), values, _declared(kind))
    out["n_neurons"] = ("fraction", counts, {"units": "neurons"})
    return out.assign_attrs(store=store.path, split=split, layer=layer, samples=gram.n)


def _declared(kind: Measure) -> dict[str, object]:
    return {
        "long_name": kind.name.replace("_", " "),
        "units": "1",
        "range": [kind.low, kind.high],
        "larger_is_closer": int(kind.larger_is_closer),
        "symmetric": int(kind.symmetric),
        "invariances": ", ".join(kind.invariances),
    }
