"""Ways to pick k of d columns: an order of the neurons, or a basis whose first k columns are kept.

    random            first k of a random permutation (one per seed)
    first             the layer's first k neurons (nested training, "Matryoshka")
    variance          neurons of highest training variance first; `variance-least` lowest first
    greedy            neurons in the order in which they lower ridge's error most; `greedy-worst` least
    index:FILE        the neurons that a file ranks, then the others in the layer's order
    pca               the top k principal components of the training rows; `pca-least` the last k
    randproj          the first k columns of a random matrix, uniform on [0, 1), columns of unit norm (one
    per seed)

Every selection is a prefix problem on a task: an order for all but the last two, an identity order in rotated
columns for the projections, so that one solver serves all (docs/design.md; arXiv 2306.00183, section 3).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from probecache.analyze.selections.greedy import centred_moments, greedy_order
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.tasks.matrix import row_blocks
from probecache.analyze.tasks.task import Task, rotate
from probecache.store.errors import InputError, close_names
from probecache.store.writing.subset import read_indices

SELECTIONS = (
    *("random", "first", "pca", "pca-least", "randproj", "variance", "variance-least"),
    *("greedy", "greedy-worst", "index:FILE"),
)
SEEDED = ("random", "randproj")

# A component whose standard deviation is below 1e-5 of the largest is rounding noise of float32 features.
_NULL_VARIANCE = 1e-10


@dataclass(frozen=True)
class Selection:
    """A task with the column orders to fit on it: the probes of `seeds`, or one fit that holds for all of
    them.

    orders: int64 (len(seeds), d); or (1, d) where the selection draws nothing, so that every seed is the same
    probe.
    basis: float64 (d, r) where the columns are rotated: standardised features times it.
    """

    task: Task
    orders: np.ndarray
    seeds: tuple[int, ...]
    basis: np.ndarray | None = None


def select(
    task: Task, selection: str, seeds: Sequence[int], *, standardize: bool = True
) -> Iterator[Selection]:
    """The prefix problems of a selection: the first k columns of `orders` on `task`, for each item in turn.

    `random` gives one item with an order per seed; selections that draw nothing give one item with a single
    order; `randproj` one item per seed, each with its own rotated columns (float32 (n, d) copies: take them
    one by one).

    Components are those of the columns that the probe sees: standardised where `standardize`, else as they
    are. They keep their own variances (scale 1), so that all d of them are the full layer again, and the
    same probe under l2. Random projections are standardised afterwards, like neurons.

    Raises InputError for an unknown selection or an index file that does not fit the layer.
    """
    check_selection(selection)
    d, seeds = task.n_neurons, tuple(int(s) for s in seeds)
    if selection == "random":
        yield Selection(task, np.stack([permutation(d, s) for s in seeds]), seeds)
    elif selection == "randproj":
        for seed in seeds:
            # rotate() standardises first; the random matrix acts on centred features, as the paper's does.
            basis = random_basis(d, seed) * task.scale[:, None]
            yield Selection(rotate(task, basis), np.arange(d)[None], (seed,), basis)
    elif selection in ("pca", "pca-least"):
        basis = principal_components(task, least=selection == "pca-least", standardize=standardize)
        basis = basis if standardize else basis * task.scale[:, None]
        rotated = rotate(task, basis)
        plain = replace(rotated, mean=np.zeros(d, np.float32), scale=np.ones(d, np.float32))
        yield Selection(plain, np.arange(d)[None], seeds, basis)
    else:
        yield Selection(task, _order(task, selection, standardize)[None], seeds)


def check_selection(selection: str) -> None:
    """InputError unless `selection` is one of SELECTIONS, or `index:` and a file that is there."""
    if selection.startswith("index:"):
        if not Path(selection[6:]).expanduser().is_file():
            raise InputError(
                f"got selection {selection}: no file {selection[6:]}; write neuron numbers to it, one a line"
            )
    elif selection not in SELECTIONS:
        raise InputError(f"got selection {selection!r}; {close_names(selection, SELECTIONS)}")


def principal_components(task: Task, *, least: bool = False, standardize: bool = True) -> np.ndarray:
    """Eigenvectors of the training rows' covariance as columns, float64 (d, d), largest variance first.

    The covariance of the columns divided by their standard deviation, or of the raw ones without
    `standardize`.

    `least` reverses the components that have variance, so that the first k columns are the last k components.
    Directions in which the training rows do not vary (there are some wherever d >= n) come last and are zero.
    The test rows play no part.
    """
    n, d = task.train.shape[0], task.n_neurons
    scale = task.scale if standardize else 1.0
    # float64: the last components are as small as float32's rounding of the first ones
    blocks = ((rows.astype(np.float64) - task.mean) / scale for _, rows in row_blocks(task.train, 8192))
    if n <= d:  # the rows themselves are the smaller matrix: n^2 d operations in place of d^3
        _, roots, components = np.linalg.svd(np.concatenate(list(blocks)), full_matrices=False)
        values, vectors = roots**2, components.T
    else:
        covariance = np.zeros((d, d))
        for centred in blocks:
            covariance += centred.T @ centred
        values, vectors = np.linalg.eigh(covariance)  # rising
        values, vectors = values[::-1], vectors[:, ::-1]
    rank = min(int((values > _NULL_VARIANCE * max(values[0], 0)).sum()), n - 1)
    kept = vectors[:, :rank]
    if least:
        kept = kept[:, ::-1]
    return np.concatenate([kept, np.zeros((d, d - rank))], axis=1)


def random_basis(d: int, seed: int) -> np.ndarray:
    """A matrix uniform on [0, 1) (`torch.rand` under the seed), columns of unit norm, float64 (d, d)."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.rand(d, d, generator=generator, dtype=torch.float64, device="cpu").numpy()
    return matrix / np.linalg.norm(matrix, axis=0)


def _order(task: Task, selection: str, standardize: bool) -> np.ndarray:
    d = task.n_neurons
    if selection == "first":
        return np.arange(d)
    if selection.startswith("index:"):
        listed = read_indices(selection[6:], d)
        return np.concatenate([listed, np.setdiff1d(np.arange(d), listed)])
    if selection in ("greedy", "greedy-worst"):
        gram, cross, _ = centred_moments(task, standardize)
        return greedy_order(gram, cross, worst=selection == "greedy-worst")
    spread = np.zeros(d)
    for _, rows in row_blocks(task.train, 8192):
        spread += ((rows - task.mean) ** 2).sum(0, dtype=np.float64)
    return np.argsort(spread if selection == "variance-least" else -spread, kind="stable")
