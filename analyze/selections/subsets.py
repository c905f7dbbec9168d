"""Column subsets: which k of a layer's d neurons a probe sees, and how fractions become k."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from probecache.store.errors import InputError

MOST_SEEDS = 100_000  # a larger count is a seed by mistake


def permutation(d: int, seed: int) -> np.ndarray:
    """The random column order of one seed, int64 (d,): `torch.randperm(d)` under `torch.manual_seed(seed)`.

    A subset of k neurons is its first k entries, so the subsets of one seed nest. This is the paper's own
    draw (arXiv 2306.00183, authors' code); the global generator is left alone.

    >>> permutation(6, 0).tolist() == permutation(6, 0).tolist()
    True
    """
    if d < 1:
        raise InputError(f"got a layer of {d} neurons; a subset needs at least 1")
    if not -(2**63) <= seed < 2**64:
        raise InputError(f"got seed {seed}; allowed: whole numbers of 64 bits")
    generator = torch.Generator().manual_seed(int(seed))
    return torch.randperm(d, generator=generator, device="cpu").numpy()


def check_seeds(seeds: Any) -> tuple[int, ...]:
    """0, 1, ... for a count; of a list each seed once, in its order; else InputError.

    >>> check_seeds(3), check_seeds([7, 3, 7])
    ((0, 1, 2), (7, 3))
    """
    if _is_whole(seeds):
        if not 1 <= seeds <= MOST_SEEDS:
            raise InputError(
                f"got seeds {seeds}; allowed: a count of 1 or more (at most {MOST_SEEDS:,}), "
                "or a list of seeds"
            )
        return tuple(range(int(seeds)))
    values = tuple(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, str) else (None,)
    if not values or not all(_is_whole(seed) and 0 <= seed < 2**63 for seed in values):
        raise InputError(f"got seeds {seeds!r}; allowed: a count, or a list of whole numbers of 0 or more")
    return tuple(dict.fromkeys(int(seed) for seed in values))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def sizes(fractions: Iterable[float], d: int) -> np.ndarray:
    """k = max(1, round(fraction * d)) for each fraction in (0, 1], int64 (f,), in the order given.

    >>> sizes([0.001, 0.2, 1], 1280).tolist()
    [1, 256, 1280]
    """
    given = list(fractions)
    try:
        values = np.atleast_1d(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError):
        raise InputError(f"got fractions {given!r}; allowed: numbers above 0, up to 1") from None
    if values.size == 0:
        raise InputError("got no fractions; give at least one in (0, 1]")
    wrong = values[~((values > 0) & (values <= 1))]
    if wrong.size:
        raise InputError(f"got fraction {wrong[0]:g}; allowed: above 0, up to 1 (1 is the full layer)")
    return np.maximum(1, np.rint(values * d)).astype(np.int64)


def check_sizes(ks: np.ndarray, d: int) -> np.ndarray:
    """`ks` as int64 (f,), each in 1..d, or InputError."""
    ks = np.atleast_1d(np.asarray(ks, dtype=np.int64))
    wrong = ks[(ks < 1) | (ks > d)]
    if wrong.size or ks.ndim != 1:
        raise InputError(
            f"got a subset of {wrong[:1].tolist() or ks.shape} neurons; allowed: 1 to {d}, one list"
        )
    return ks


def check_orders(orders: np.ndarray, d: int) -> np.ndarray:
    """`orders` as int64 (s, d'), each row distinct columns of 0..d-1 (d' <= d), or InputError."""
    orders = np.atleast_2d(np.asarray(orders, dtype=np.int64))
    if orders.ndim != 2 or orders.shape[1] > d or orders.shape[1] < 1:
        raise InputError(f"got column orders of shape {orders.shape}; allowed: (seeds, up to {d} neurons)")
    for row, order in enumerate(orders):
        if order.min() < 0 or order.max() >= d:
            raise InputError(f"got column {int(order.max())} in order {row}; allowed: 0 to {d - 1}")
        if np.unique(order).size != order.size:
            raise InputError(f"got a column twice in order {row}; each neuron may be picked once")
    return orders
