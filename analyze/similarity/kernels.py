"""CKA where neurons outnumber samples: from (n, n) kernels of the samples, without a (d, d) matrix.

With K_S = X_S X_S' of centred columns, ||X_S' X_T||_F^2 = <K_S, K_T>, and the unbiased HSIC is

    n (n - 3) HSIC(S, T) = <K_S, K_T> - n/(n - 2) diag K_S . diag K_T + tr K_S tr K_T / ((n - 1)(n - 2))
"""

from collections.abc import Iterator

import numpy as np

from probecache.analyze.similarity.gram import FeatureStore, column_means, good_rows


def serve(store: FeatureStore, split: str, layer: str, seeds: int) -> bool:
    """Whether kernels of that many column orders cost less than the (d, d) Gram matrix."""
    n, d = store.shape(split, layer)
    return n * max(seeds, 2) < d


def centred_rows(store: FeatureStore, split: str, layer: str) -> np.ndarray:
    """X (n, d), float64: the samples that did not fail, columns centred."""
    mean = column_means(store, split, layer)[1]
    return np.concatenate(list(good_rows(store, split, layer))) - mean


def cka_of_orders(
    x: np.ndarray, orders: np.ndarray, counts: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """CKA of the first k columns of each order: {"": plain, "_debiased": debiased}, each with the full layer
    (f, s) and between all orders at one size (f, s, s).

    x: (n, d), centred. orders: (s, d). counts: (f,), of any order.
    """
    full = (x @ x.T)[None]
    shape = (len(counts), len(orders))
    found = {end: (np.empty(shape), np.empty((*shape, len(orders)))) for end in ("", "_debiased")}
    for at, kernels in _nested(x, orders, counts):
        both = np.concatenate([kernels, full])
        for end, (whole, between) in found.items():
            products = _products(both, debiased=end != "")
            own = np.diag(products)
            with np.errstate(invalid="ignore", divide="ignore"):
                size = np.sqrt(np.where(own > 0, own, np.nan))
                values = products / np.outer(size, size)
            whole[at], between[at] = values[:-1, -1], values[:-1, :-1]
    return found


def _nested(x: np.ndarray, orders: np.ndarray, counts: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(place of a count, kernels (s, n, n)), the smallest count first: each adds the next columns."""
    kernels = np.zeros((len(orders), len(x), len(x)))
    before = 0
    for at in np.argsort(counts, kind="stable"):
        for kernel, order in zip(kernels, orders, strict=True):
            more = x[:, order[before : counts[at]]]
            kernel += more @ more.T
        before = int(counts[at])
        yield int(at), kernels


def _products(kernels: np.ndarray, debiased: bool) -> np.ndarray:
    """(m, m) of kernels (m, n, n): <K, L>, or n (n - 3) HSIC."""
    n = kernels.shape[1]
    flat = kernels.reshape(len(kernels), -1)
    found = flat @ flat.T
    if debiased:
        diagonal = np.diagonal(kernels, axis1=1, axis2=2)
        trace = diagonal.sum(axis=1)
        found -= n / (n - 2) * (diagonal @ diagonal.T) - np.outer(trace, trace) / ((n - 1) * (n - 2))
    return found
