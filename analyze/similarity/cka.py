"""Linear CKA of column subsets, thousands at a time, from one Gram matrix.

With X centred, C = X'X, Q = C * C elementwise, and subsets as 0/1 vectors s, t:

    CKA(S, T) = ||X_S' X_T||_F^2 / (||X_S' X_S||_F ||X_T' X_T||_F) = s'Qt / sqrt(s'Qs  t'Qt)

so that one subset costs a sum over Q instead of a pass over the data. Debiased CKA (Song et al. 2012's
unbiased HSIC) is the same form with another matrix: with P = sum_i (x_i^2)(x_i^2)', c = diag C and n samples,

    n (n - 3) HSIC(S, T) = s'Mt,    M = Q - n/(n - 2) P + c c' / ((n - 1)(n - 2))
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from probecache.analyze.selections.subsets import check_seeds, permutation, sizes
from probecache.analyze.similarity.gram import FeatureStore, Gram, centred_gram
from probecache.analyze.similarity.kernels import centred_rows, cka_of_orders, serve
from probecache.store.errors import InputError
from probecache.store.progress import Progress, reporting
from probecache.store.reader import open_store

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def cka(
    store: FeatureStore | str | Path,
    *,
    layer: str,
    split: str,
    fractions: float | Sequence[float] = FRACTIONS,
    seeds: int | Sequence[int] = 5,
    progress: Progress = None,
) -> xr.Dataset:
    """||X_S' X_T||_F^2 / (||X_S' X_S||_F ||X_T' X_T||_F): linear CKA of subsets S, T of neurons.

    Of random subsets with the full layer, and with each other.

    Columns are centred, not scaled (the paper's form). Subsets of one seed nest: the first k of
    `permutation`. Debiased: the unbiased HSIC of Song et al. (2012). All of them come from one pass over the
    rows.

    Parameters
    ----------
    store : Store, str or Path
        An open store, or its path.
    layer, split : str
    fractions : float or list of float
        Shares of the neurons, each in (0, 1]: k = max(1, round(fraction * d)); 1% to all by default.
    seeds : int or list of int
        A count (default 5), or the seeds.
    progress : bool, function or None
        True: a bar on stderr. A function: called with (done, total) rows of the pass that sums the products.
        False or None: silent.

    Returns
    -------
    xarray.Dataset
        `cka` and `cka_debiased` (fraction, seed): subset against full layer; `cka_pair` and
        `cka_pair_debiased` (fraction, pair): two subsets of one size, of the seeds `first` and `second` of
        the pair; `n_neurons` (fraction); `permutation` (layer, seed, neuron). Scores are float64 without
        unit, at most 1, NaN where a subset has no variance. `redundancy` takes it as it is.

    Raises
    ------
    InputError
        For a fraction outside (0, 1], no seed, fewer than 4 samples that did not fail, and a layer with NaN
        or infinite values.

    Examples
    --------
    >>> store = pc.open_store("features.zarr")
    >>> found = pc.cka(store, layer="late", split="test", fractions=[0.5, 1.0], seeds=3)
    >>> found["cka"].shape, bool((found["cka"].sel(fraction=1.0) > 0.999).all())
    ((2, 3), True)
    """
    seed_list = list(check_seeds(seeds))
    fractions = list(dict.fromkeys(np.ravel(fractions).tolist()))
    sizes(fractions, 1)  # refused before the data are read
    if isinstance(store, str | os.PathLike):
        store = open_store(store)
    if not isinstance(layer, str):
        raise InputError(
            f"got layer {layer!r}; one at a time: {{name: pc.cka(store, layer=name, ...)}}; between layers: "
            "pc.similarity(store, layers=[...])"
        )
    d = store.shape(split, layer)[1]
    counts = sizes(fractions, d)
    orders = np.stack([permutation(d, s) for s in seed_list])  # (seed, neuron)
    with reporting(progress, "rows") as told:
        if serve(store, split, layer, len(seed_list)):
            rows = centred_rows(store, split, layer)
            found, n = cka_of_orders(rows, orders, counts), len(rows)
        else:
            gram = centred_gram(store, split, layer, squares=True, told=told)
            found, n = _of_gram(gram, nested_masks(orders, counts)), gram.n

    second, first = np.tril_indices(len(seed_list), -1)  # every pair of seeds once
    out = xr.Dataset(
        coords={
            "fraction": ("fraction", np.asarray(fractions, dtype=np.float64), {"units": "1"}),
            "seed": seed_list,
            "layer": np.array([layer], dtype=np.dtypes.StringDType()),  # Zarr v3 has no fixed-width text
            "first": ("pair", np.asarray(seed_list)[first]),
            "second": ("pair", np.asarray(seed_list)[second]),
        }
    )
    for end, kind in (("", "linear CKA"), ("_debiased", "debiased linear CKA")):
        whole, between = found[end][0], found[end][1][:, first, second]  # (fraction, seed), (fraction, pair)
        out["cka" + end] = (
            ("fraction", "seed"),
            whole,
            {"long_name": f"{kind} with the full layer", "units": "1"},
        )
        out["cka_pair" + end] = (
            ("fraction", "pair"),
            between,
            {"long_name": f"{kind} of two subsets", "units": "1"},
        )
    out["n_neurons"] = ("fraction", counts, {"units": "neurons"})
    out["permutation"] = (("layer", "seed", "neuron"), orders[None])
    out.attrs = {"store": str(store.path), "split": split, "layer": layer, "samples": n}
    out.attrs["digest"] = store.digest(split, layer)
    return out


def _of_gram(gram: Gram, masks: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`cka_of_orders` of subsets as masks (f, s, d), from the Gram matrix."""
    found = {}
    for end, matrix in (("", products_squared(gram)), ("_debiased", debiased_form(gram))):
        whole = cka_with_full(matrix, masks.reshape(-1, masks.shape[-1])).reshape(masks.shape[:2])
        found[end] = (whole, np.stack([cka_between(matrix, m) for m in masks]))
    return found


def nested_masks(orders: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """0/1 masks of the first k of each order: orders (s, d), counts (f,) -> float64 (f, s, d)."""
    rank = np.argsort(orders, axis=1)  # place of each neuron in its order
    return (rank[None] < np.asarray(counts)[:, None, None]).astype(np.float64)


def products_squared(gram: Gram) -> np.ndarray:
    """Q = C * C, (d, d): s'Qt is the squared Frobenius norm of X_S' X_T."""
    return gram.products**2


def debiased_form(gram: Gram) -> np.ndarray:
    """M, (d, d): s'Mt / (n (n - 3)) is the unbiased HSIC of two subsets under linear kernels."""
    if gram.squares is None:
        raise InputError("debiased CKA needs the Gram of the squares: centred_gram(..., squares=True)")
    n, scale = gram.n, np.diag(gram.products)
    return gram.products**2 - n / (n - 2) * gram.squares + np.outer(scale, scale) / ((n - 1) * (n - 2))


def cka_with_full(matrix: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """CKA of each subset with the full layer: matrix Q or M (d, d), masks (m, d) -> (m,)."""
    own = ((masks @ matrix) * masks).sum(-1)  # s'Qs
    cross = masks @ matrix.sum(1)  # s'Q1
    return _ratio(cross, own, matrix.sum())


def cka_between(matrix: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """CKA of every pair of subsets: matrix Q or M (d, d), masks (m, d) -> (m, m)."""
    cross = masks @ matrix @ masks.T
    own = np.diag(cross)
    return _ratio(cross, own[:, None], own[None, :])


def _ratio(cross: np.ndarray, one: np.ndarray, other: np.ndarray | float) -> np.ndarray:
    """cross / sqrt(one * other); NaN where a subset has no variance (or, debiased, a self-similarity below
    zero).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return cross / np.sqrt(
            np.where(one > 0, one, np.nan) * np.where(np.asarray(other) > 0, other, np.nan)
        )
