"""A block of probes: every fraction and l2 of some column orders, on one task. The unit of scheduled work."""

import time
from dataclasses import dataclass, field

import numpy as np
import torch

from analyze.logistic import fit_logistic
from analyze.moments import Moments, moments
from analyze.panels import Panels
from analyze.ridge import class_targets, fit_ridge
from analyze.score import accuracies, predict, r_squared
from analyze.subsets import check_orders, check_sizes
from analyze.task import Task
from store.errors import InputError

PROBES = ("logistic", "ridge")


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
    tol: float = 1e-6,
    max_iter: int = 500,
    shared: Moments | None = None,
    return_coef: bool = False,
    return_predictions: bool = False,
) -> BlockResult:
    """Fit and score a probe on the first `sizes` columns of every order, for every l2.

    orders: int64 (s, d'), one column order per seed; sizes: int64 (f,), each at most d'; l2s: float64 (p,).
    shared: `task_moments(task)`, to be computed once per task instead of once per block.
    """
    orders, sizes = check_orders(orders, task.n_neurons), np.asarray(sizes)
    sizes = check_sizes(sizes, orders.shape[1])
    l2s = check_l2s(l2s)
    if probe not in PROBES:
        raise InputError(f"got probe {probe!r}; allowed: {', '.join(PROBES)}")
    if solver not in ("auto", "torch"):
        raise InputError(f"got solver {solver!r}; the batched solver is torch")
    if probe == "logistic" and task.is_regression:
        raise InputError("got real-valued targets for a logistic probe; use probe='ridge'")
    where = pick_device(device)
    shared = task_moments(task, standardize, device=device) if shared is None else shared
    results = [
        _one_order(
            task,
            order,
            sizes,
            l2s,
            probe,
            standardize,
            where,
            tol,
            max_iter,
            shared,
            return_coef,
            return_predictions,
        )
        for order in orders
    ]
    stacked = {name: np.stack([r[name] for r in results]) for name in results[0]}
    attrs: dict[str, str | int | float | bool] = {
        "solver": "torch",
        "device": describe_device(where),
        "torch": torch.__version__,
        "tol": tol,
    }
    return BlockResult(**stacked, attrs=attrs)


def task_moments(task: Task, standardize: bool = True, device: str = "auto") -> Moments:
    """The moments that every block of a task shares: Gram of the panels and products with the targets."""
    where = pick_device(device)
    panels = _panels(task, None, standardize, where, keep=False)
    return moments(panels, _targets(task, where), _weights(task, where))


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
    return picked


def describe_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _panels(
    task: Task,
    order: np.ndarray | None,
    standardize: bool,
    device: torch.device,
    keep: bool,
    test: bool = False,
) -> Panels:
    mean, scale = (task.mean, task.scale) if standardize else (None, None)
    return Panels(task.test if test else task.train, order, mean, scale, device, keep=keep)


def _targets(task: Task, device: torch.device) -> torch.Tensor:
    labels = torch.from_numpy(task.train_labels).to(device)
    if task.is_regression:
        return labels if labels.dim() == 2 else labels[:, None]
    return class_targets(labels, len(task.classes))


def _weights(task: Task, device: torch.device) -> torch.Tensor | None:
    return None if task.weights is None else torch.from_numpy(task.weights).to(device, torch.float32)


def _one_order(
    task: Task,
    order: np.ndarray,
    sizes: np.ndarray,
    l2s: np.ndarray,
    probe: str,
    standardize: bool,
    device: torch.device,
    tol: float,
    max_iter: int,
    shared: Moments,
    return_coef: bool,
    return_predictions: bool,
) -> dict[str, np.ndarray]:
    begun = time.perf_counter()
    order = order[: sizes.max()]
    k, l2 = (a.ravel() for a in np.meshgrid(sizes, l2s, indexing="ij"))
    rank = np.argsort(-k, kind="stable")
    k, l2 = k[rank], l2[rank]
    local = shared.take(order)
    m, shape = len(k), (len(sizes), len(l2s))
    if probe == "logistic":
        panels = _panels(task, order, standardize, device, keep=True)
        labels = torch.from_numpy(task.train_labels).to(device)
        fit = fit_logistic(
            panels,
            labels,
            len(task.classes),
            k,
            l2,
            local.gram,
            weights=_weights(task, device),
            tol=tol,
            max_iter=max_iter,
        )
        x, out = (
            fit.x,
            {
                "objective": fit.objective,
                "grad_norm": fit.grad_norm,
                "n_iter": fit.n_iter,
                "converged": fit.converged,
            },
        )
    else:
        solution = fit_ridge(local, k, l2)
        one = torch.ones(m, dtype=torch.int64, device=device)
        x, out = (
            solution.x,
            {
                "objective": solution.objective,
                "grad_norm": solution.grad_norm,
                "n_iter": one,
                "converged": one.bool(),
            },
        )
    test = _panels(task, order, standardize, device, keep=False, test=True)
    widths = torch.from_numpy(k + 1)
    if task.is_regression:
        targets = torch.from_numpy(task.test_labels).to(device)
        out["accuracy"] = r_squared(x, widths, test, targets if targets.dim() == 2 else targets[:, None])
        out["class_accuracy"] = torch.empty(m, 0)
    else:
        predictions = predict(x, widths, test)
        truth = torch.from_numpy(task.test_labels).to(device)
        out["accuracy"], out["class_accuracy"] = accuracies(predictions, truth, len(task.classes))
        if return_predictions:
            out["predictions"] = predictions.int()
    if return_coef:
        out["coef"], out["intercept"] = x[..., 1:], x[..., 0]
    out["seconds"] = torch.full((m,), (time.perf_counter() - begun) / m, dtype=torch.float64)
    place = np.empty_like(rank)
    place[rank] = np.arange(m)
    return {
        name: (a := value.cpu().numpy()[place]).reshape(*shape, *a.shape[1:]) for name, value in out.items()
    }
