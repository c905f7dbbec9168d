"""A block of probes: every fraction and l2 of some column orders, on one task. The unit of scheduled work."""

from dataclasses import dataclass, field

import numpy as np
import torch

from probecache.analyze.probes.batches import Options, fit_orders
from probecache.analyze.probes.design.gram import Moments
from probecache.analyze.probes.kinds.logistic import search_dtype
from probecache.analyze.probes.optim.cross_entropy import n_outputs
from probecache.analyze.probes.shared_state import Prepared, prepare
from probecache.analyze.selections.subsets import check_orders, check_sizes
from probecache.analyze.tasks.class_weights import ClassWeight, weigh_classes
from probecache.analyze.tasks.task import StoredRows, Task
from probecache.store.errors import InputError

PROBES = ("logistic", "ridge", "knn", "sgd")


@dataclass
class BlockResult:
    """Arrays of shape (s, f, p): orders, sizes, l2s. NaN where a value has no meaning for the probe.

    accuracy: share of test samples that are right (R^2, mean over targets, for regression).
    objective, grad_norm: at the returned weights, float64. n_iter: evaluations of the objective.
    seconds: the wall time of the probe's batch divided by its probes.
    class_accuracy: (s, f, p, c). coef: float32 (s, f, p, c, d') in the order's columns and standardised
    units, and intercept (s, f, p, c), where asked for; predictions: int32 (s, f, p, n_test), likewise.
    """

    accuracy: np.ndarray
    objective: np.ndarray
    grad_norm: np.ndarray
    n_iter: np.ndarray
    converged: np.ndarray
    seconds: np.ndarray
    class_accuracy: np.ndarray
    coef: np.ndarray | None = None
    intercept: np.ndarray | None = None
    predictions: np.ndarray | None = None
    attrs: dict[str, str | int | float | bool] = field(default_factory=dict)


def fit_block(
    task: Task,
    orders: np.ndarray,
    sizes: np.ndarray,
    l2s: np.ndarray,
    *,
    probe: str = "logistic",
    solver: str = "auto",
    standardize: bool = True,
    device: str = "auto",
    memory_limit: int | None = None,
    tol: float = 5e-6,
    max_iter: int = 500,
    class_weight: ClassWeight = None,
    shared: Prepared | None = None,
    return_coef: bool = False,
    return_predictions: bool = False,
) -> BlockResult:
    """Fit and score a probe on the first `sizes` columns of every order, for every l2.

    orders: int64 (s, d'), one column order per seed; sizes: int64 (f,), each at most d'; l2s: float64 (p,).
    A list of indices that nests in nothing is an order of its own, with one size.
    probe: 'logistic', 'ridge', 'knn' (cosine, 20 neighbours, temperature 0.07), 'sgd' (the paper's schedule);
    the last two have no l2: every l2 gives the same values.
    standardize: by the training rows' moments; 'knn' and 'sgd' follow it as well.
    device: 'auto', 'cpu', 'cuda', 'cuda:N'. memory_limit: bytes, for what is held beside the task.
    tol: the estimated relative gap of the objective at which a logistic probe has converged; the true gap was
    at most twice that on real features; docs/probes.md has the worst case seen.
    max_iter: evaluations in float32 per logistic probe; one that needs more has converged = False. n_iter
    counts those of the search too, and of Newton's method, which small probes are left to after 150.
    class_weight: None, 'balanced' or a mapping of class names to weights: as `weigh_classes` says.
    shared: `task_moments(task)`, to be computed once per task instead of once per block.
    """
    orders, sizes = check_orders(orders, task.n_neurons), np.asarray(sizes)
    sizes = check_sizes(sizes, orders.shape[1])
    l2s = check_l2s(l2s)
    if probe not in PROBES:
        raise InputError(f"got probe {probe!r}; allowed: {', '.join(PROBES)}")
    if solver not in ("auto", "torch"):
        raise InputError(f"got solver {solver!r}; the batched solver is torch")
    if probe != "ridge" and task.is_regression:
        raise InputError(f"got real-valued targets for a {probe} probe; use probe='ridge'")
    if probe == "knn" and (task.weights is not None or class_weight is not None):
        raise InputError("got sample or class weights for a knn probe, which takes none")
    if class_weight is not None:
        if shared is not None:
            raise InputError("got class_weight beside shared; give the task of weigh_classes() to both")
        task = weigh_classes(task, class_weight)
    if probe in ("knn", "sgd") and isinstance(task.train, StoredRows):
        raise InputError(f"got a layer that stays on disk; {probe} needs it in memory: raise memory_limit")
    where = pick_device(device)
    shared = prepare(task, standardize, where, memory_limit) if shared is None else shared
    options = Options(probe, tol, max_iter, search_dtype(where), return_coef, return_predictions)
    # On disk, the orders of a batch share each pass over the rows; in memory, one order at a time is smaller.
    per_batch = len(orders)
    if isinstance(task.train, StoredRows):
        outputs, width = n_outputs(len(task.classes)), 1 + sizes.max()
        factors = 4 * len(l2s) * (outputs if probe == "logistic" else 1) * width**2
        per_batch = max(1, int((memory_limit or 2**33) // 4 // factors))
    elif probe == "logistic":
        per_batch = 1
    results = [
        fit_orders(shared, list(orders[i : i + per_batch]), sizes, l2s, options)
        for i in range(0, len(orders), per_batch)
    ]
    stacked = {name: np.concatenate([r[name] for r in results]) for name in results[0]}
    attrs: dict[str, str | int | float | bool]
    attrs = {
        "solver": "torch",
        "device": describe_device(where),
        "torch": torch.__version__,
        "tol": tol,
        "search_dtype": str(options.search).removeprefix("torch."),
    }
    return BlockResult(**stacked, attrs=attrs)


def task_moments(
    task: Task,
    standardize: bool = True,
    device: str = "auto",
    memory_limit: int | None = None,
    found: Moments | None = None,
) -> Prepared:
    """What every block of a task shares, for `fit_block(shared=...)`: compute it once per task.

    found: the task's moments where they are known, standardised as `standardize` says.
    """
    return prepare(task, standardize, pick_device(device), memory_limit, found)


def check_l2s(l2s: np.ndarray) -> np.ndarray:
    """`l2s` as float64 (p,), finite and >= 0, or InputError."""
    values = np.atleast_1d(np.asarray(l2s, dtype=np.float64))
    wrong = values[~(np.isfinite(values) & (values >= 0))]
    if wrong.size or not values.size:
        raise InputError(f"got l2 {wrong[:1].tolist() or 'none'}; allowed: one or more finite numbers >= 0")
    return values


def pick_device(device: str) -> torch.device:
    """'auto' is CUDA where there is one, else the CPU; a device that is not there is an InputError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError:
        raise InputError(f"got device {device!r}; allowed: auto, cpu, cuda, cuda:N") from None
    if picked.type not in ("cpu", "cuda"):
        raise InputError(f"got device {device!r}; allowed: auto, cpu, cuda, cuda:N")
    if picked.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"got device {device!r}, and this machine has no CUDA device; use cpu or auto")
    if picked.type == "cuda" and (picked.index or 0) >= (count := torch.cuda.device_count()):
        raise InputError(f"got device {device!r}; this machine has cuda:0 to cuda:{count - 1}")
    return picked


def describe_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
