"""Any measure between layers, between backbones, and between subsets and the layer they come from."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.similarity.gram import FeatureStore, centred_gram, cross_products
from probecache.analyze.similarity.measures import Measure, Products, measure_named


def similarity(
    store: FeatureStore,
    *,
    layers: Sequence[str],
    split: str,
    other: FeatureStore | None = None,
    other_layers: Sequence[str] | None = None,
    measure: str = "linear_cka",
) -> xr.DataArray:
    """The measure between every layer of `layers` and every one of `other_layers`: (layer, other_layer).

    Without `other`, layers of one store; with it, of two stores that hold the same samples in the same
    order, which is checked by sample identity. Each pair costs one pass over the two layers; nothing but (d,
    e) matrices is kept. `attrs` carry the measure's range, direction and invariances.

    Raises InputError for an unknown measure, or stores whose samples differ.
    """
    kind = measure_named(measure)
    theirs = store if other is None else other
    columns = list(layers) if other_layers is None else list(other_layers)
    values = np.empty((len(layers), len(columns)))
    for i, mine in enumerate(layers):
        for j, yours in enumerate(columns):
            if other is None and kind.symmetric and yours in layers[:i] and mine in columns:
                values[i, j] = values[layers.index(yours), columns.index(mine)]
                continue
            products = cross_products(store, mine, theirs, yours, split, squares=kind.needs_squares)
            values[i, j] = kind.compute(products)
    return xr.DataArray(
        values,
        dims=("layer", "other_layer"),
        coords={"layer": list(layers), "other_layer": columns},
        name=measure,
        attrs=_declared(kind) | {"split": split, "store": store.path, "other_store": theirs.path},
    )


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
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
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
