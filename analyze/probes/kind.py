"""A kind of probe: what it needs, how it is fitted, what it costs. One file per kind in `kinds/`.

Whatever plans, prices, schedules, fits or prints probes asks the kind; nothing else knows kinds by name.

    logistic    multinomial logistic regression
    ridge       least squares with a penalty; numbers as targets too
    knn         weighted nearest neighbours by cosine
    sgd         the paper's linear layer and its schedule

`registry` finds them by name; a kind of your own is registered there. What a kind may say or do beside the
protocol, and `claims` asks for:

    order_free        the same neurons give the same probe, whatever their order
    strongly_convex   its objective is l2-strongly convex in the weights: gradient and l2 bound the gap
    closed_form       the probe without some neurons follows from the one with all (`attribution`)
    fit_several       `fit` of several tasks of two classes over the same rows, in shared products
    draws             it draws from the request's seeds: the same order under another seed is another probe
    votes             its scores order the classes of a sample, but not samples
    fewest_rows       training rows without which it cannot be fitted (default 1)
    fits_any_together   `fit_several` takes tasks of any classes, labels and numbers
    rough_moments     its fits only start from the moments and are preconditioned by them: those of rows
                      rounded to bfloat16 serve
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import numpy as np

from probecache.analyze.selections.subsets import check_orders, check_sizes
from probecache.store.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from probecache.analyze.metrics import Metric
    from probecache.analyze.probes.design.probe_order import ProbeOrder
    from probecache.analyze.probes.shared_state import SharedState
    from probecache.analyze.tasks.size import LayerSize

TOL = 5e-6
MAX_ITER = 500
MOST_L2 = 1e30  # float32 holds no much larger one


@dataclass(frozen=True)
class ProbeRequest:
    """Probes on the first `sizes` columns of every order, for every l2: which, how, and what to keep of each.

    kind: what a probe is (`analyze.probes.kind`). orders: int64 (s, d'), one column order per seed; a list of
    indices that nests in nothing is an order of its own, with one size. sizes: int64 (f,), each at most d'.
    l2s: float64 (p,); kinds without l2 give the same values for each.
    seeds: (s,), what a kind that draws numbers draws them from.
    standardize: by the training rows' moments. device: 'auto', 'cpu', 'cuda', 'cuda:N'.
    memory_limit: bytes, for what is held beside the task.
    tol: the relative gap of the objective at which an iterative probe has converged; max_iter: its limit.
    metrics: what is computed of the test scores beside accuracy.
    return_coef, return_predictions, return_scores: whether weights, classes and test scores are returned.
    own_l2: float64 (s, f), one l2 for each probe, instead of every one of l2s, which then lists them.
    """

    kind: "Kind"
    orders: np.ndarray
    sizes: np.ndarray
    l2s: np.ndarray
    seeds: tuple[int, ...] = ()
    standardize: bool = True
    device: str = "auto"
    memory_limit: int | None = None
    tol: float = TOL
    max_iter: int = MAX_ITER
    metrics: "tuple[Metric, ...]" = ()
    return_coef: bool = False
    return_predictions: bool = False
    return_scores: bool = False
    own_l2: np.ndarray | None = None

    def __post_init__(self) -> None:
        fix = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        fix("orders", np.asarray(self.orders))
        fix("sizes", check_sizes(np.asarray(self.sizes), self.orders.shape[-1]))
        fix("l2s", check_l2s(self.l2s))
        if self.own_l2 is not None:
            fix("own_l2", check_l2s(self.own_l2).reshape(len(self.orders), len(self.sizes)))
            fix("l2s", np.unique(self.own_l2))
        fix("seeds", tuple(self.seeds) or tuple(range(len(self.orders))))
        if not 0 < self.tol < 1:
            raise InputError(f"got tol {self.tol!r}; allowed: above 0 and below 1")
        if self.max_iter < 1:
            raise InputError(f"got max_iter {self.max_iter!r}; allowed: 1 or more")

    def on(self, n_neurons: int) -> Self:
        """The request with its orders checked against a layer of so many neurons."""
        return replace(self, orders=check_orders(self.orders, n_neurons))

    def part(self, rows: slice | np.ndarray) -> Self:
        """Some of the orders."""
        seeds = tuple(np.asarray(self.seeds)[rows].tolist())
        own = None if self.own_l2 is None else self.own_l2[rows]
        return replace(self, orders=self.orders[rows], seeds=seeds, own_l2=own)

    def penalties(self) -> np.ndarray:
        """Each probe's l2, float64 (s, f, p)."""
        if self.own_l2 is not None:
            return self.own_l2[..., None]
        return np.broadcast_to(self.l2s, (len(self.orders), len(self.sizes), len(self.l2s)))


@dataclass(frozen=True)
class Fitted:
    """What a kind found for the m probes of a batch, in the order of its `ProbeOrder`.

    objective, grad_norm: float64 (m,), NaN where there is none; n_iter: int64 (m,); converged: bool (m,).
    weights: float32 (m, c, 1 + d), intercept first, which the engine scores on the test rows; or, of kinds
    that are not linear, scores: (m, c, n_test), the largest of a sample's c being its class.
    predictions: int64 (m, n_test), of kinds whose classes are not always those of the largest scores.
    """

    objective: "Tensor"
    grad_norm: "Tensor"
    n_iter: "Tensor"
    converged: "Tensor"
    weights: "Tensor | None" = None
    scores: "Tensor | None" = None
    predictions: "Tensor | None" = None


@runtime_checkable
class Kind(Protocol):
    """What a kind of probe says of itself, and does."""

    @property
    def name(self) -> str: ...

    @property
    def has_l2(self) -> bool:
        """Whether l2 changes the probe; without, every l2 gives the same values."""

    @property
    def takes_weights(self) -> bool:
        """Sample and class weights."""

    @property
    def targets(self) -> tuple[str, ...]:
        """What it can predict, of classes, labels, numbers."""

    @property
    def from_disk(self) -> bool:
        """Whether rows may stay in the store and be read in blocks."""

    @property
    def solvers(self) -> tuple[str, ...]:
        """Of torch, sklearn, cuml."""

    @property
    def l2_choice(self) -> str:
        """How l2 "auto" chooses: "folds", "held out", or "" where it cannot."""

    @property
    def probabilities(self) -> bool:
        """Whether the softmax of its scores are probabilities."""

    @property
    def counts(self) -> str:
        """What n_iter counts, in words."""

    def orders_per_batch(self, shared: "SharedState", request: ProbeRequest) -> int:
        """How many column orders are fitted together."""

    def fit(
        self, shared: "SharedState", orders: list[np.ndarray], probes: "ProbeOrder", request: ProbeRequest
    ) -> Fitted:
        """Fit the probes of some column orders, each of the size and with the l2 that `probes` says."""

    def flops(self, size: "LayerSize", ks: np.ndarray, penalties: int) -> float:
        """Floating-point operations of fitting one column order's probes of ks (f,) neurons, scoring not
        counted."""

    def shared_flops(self, size: "LayerSize", penalties: int) -> float:
        """Those of what all blocks of a layer share, beside its Gram matrix."""

    def memory(self, size: "LayerSize", fractions: int, l2s: int) -> int:
        """Bytes at the peak of a fit, beside the matrices and their moments."""


def claims(kind: Kind, what: str) -> bool:
    """Whether a kind claims one of the optional properties above; one that does not speak of it does not."""
    return bool(getattr(kind, what, False))


def check_standardize(value: object) -> None:
    """InputError unless it is True or False: the text "no" would count as yes."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"got standardize {value!r}; allowed: True or False")


def check_l2s(l2s: np.ndarray) -> np.ndarray:
    """`l2s` as float64 (p,), each from 0 to MOST_L2, or InputError."""
    values = np.atleast_1d(np.asarray(l2s, dtype=np.float64))
    wrong = values[~((values >= 0) & (values <= MOST_L2))]
    if wrong.size or not values.size:
        got = f"{wrong[0]:g}" if wrong.size else "none"
        raise InputError(f"got l2 {got}; allowed: one or more finite numbers, 0 to {MOST_L2:g}")
    return values
