"""Representational similarity analysis of column subsets: do the same pairs of samples lie far apart?

    RSA(X, Y) = Spearman correlation of the upper triangles of  1 - corr(x_i, x_j)  and  1 - corr(y_i, y_j)

(Kriegeskorte et al. 2008; ReSi's representational_similarity_analysis.) Its matrices are sample by sample,
so it reads `samples` rows, drawn once, rather than the moments. Range -1 to 1, larger is closer; unchanged
by permuting neurons, and by adding to or scaling a whole row.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from probecache.analyze.selections.subsets import check_seeds, permutation, sizes
from probecache.analyze.similarity.gram import FeatureStore
from probecache.store.errors import InputError
from probecache.store.layout import OK


def rsa(
    store: FeatureStore,
    *,
    layer: str,
    split: str,
    fractions: Sequence[float],
    seeds: int | Sequence[int] = 5,
    samples: int = 1000,
) -> xr.Dataset:
    """RSA of random subsets with the full layer: `rsa` (fraction, seed), and `n_neurons` (fraction).

    A subset of one neuron has no correlation across neurons: its value is NaN.
    Raises InputError for fewer than 3 samples asked for or there.
    """
    good = np.flatnonzero(store.status(split) == OK)
    if min(samples, len(good)) < 3:
        raise InputError(
            f"got {min(samples, len(good))} samples of {split}; RSA compares pairs of at least 3"
        )
    drawn = np.sort(good[permutation(len(good), 0)[:samples]])
    x = np.concatenate(
        [
            block[drawn[(drawn >= start) & (drawn < start + len(block))] - start]
            for start, block in store.blocks(split, layer)
        ]
    ).astype(np.float64)
    seed_list = list(check_seeds(seeds))
    d = x.shape[1]
    counts = sizes(fractions, d)
    full = ranks(dissimilarity(x))
    values = np.array(
        [
            [correlation(ranks(dissimilarity(x[:, permutation(d, s)[:k]])), full) for s in seed_list]
            for k in counts
        ]
    )
    return xr.Dataset(
        {
            "rsa": (("fraction", "seed"), values, {"long_name": "RSA with the full layer", "units": "1"}),
            "n_neurons": ("fraction", counts, {"units": "neurons"}),
        },
        coords={"fraction": np.asarray(fractions, dtype=np.float64), "seed": seed_list},
        attrs={"store": store.path, "split": split, "layer": layer, "samples": len(drawn)},
    )


def dissimilarity(x: np.ndarray) -> np.ndarray:
    """1 - Pearson correlation of every pair of rows: (n, k) -> (n (n - 1) / 2,)."""
    centred = x - x.mean(1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    # Rows that do not vary correlate with nothing: 0, so that one dead sample does not void the rest.
    unit = np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0)
    # Rounded, so that equal distances tie whatever the order of summation.
    return np.round(1 - (unit @ unit.T)[np.triu_indices(len(x), 1)], 12)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks with ties averaged."""
    from scipy.stats import rankdata

    return rankdata(values)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation; NaN where one side is constant."""
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")
