"""A block of probes: every fraction and l2 of some column orders, on one task. The unit of scheduled work."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probecache.analyze.probes.block_result import BlockResult
from probecache.analyze.probes.design.probe_order import ProbeOrder
from probecache.analyze.probes.kind import Fitted, Kind, ProbeRequest, claims
from probecache.analyze.probes.registry import get_kind
from probecache.analyze.probes.score import score
from probecache.analyze.probes.share import Known, share
from probecache.analyze.probes.shared_state import SharedState
from probecache.analyze.tasks.class_weights import ClassWeight, weigh_classes
from probecache.analyze.tasks.matrix import StoredRows
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError
from probecache.store.torch_defaults import plain_torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def fit_block(
    task: Task,
    orders: np.ndarray,
    sizes: np.ndarray,
    l2s: np.ndarray,
    *,
    probe: str | Kind = "logistic",
    class_weight: ClassWeight = None,
    shared: SharedState | None = None,
    **how: Any,
) -> BlockResult:
    """Fit and score a probe on the first `sizes` columns of every order, for every l2.

    Parameters
    ----------
    task
        Training and test rows with labels.
    orders
        int64 (s, d'), one column order per seed; a list of indices that nests in nothing is an order of its
        own, with one size.
    sizes
        int64 (f,), each at most d'.
    l2s
        float64 (p,), each >= 0.
    probe
        A kind or its name: 'logistic', 'ridge', 'knn' (cosine, 20 neighbours, temperature 0.07), 'sgd' (the
        paper's schedule), or one that was registered.
    class_weight
        None, 'balanced' or a mapping of class names to weights: as `weigh_classes` says.
    shared
        `task_moments(task)`, to be computed once per task instead of once per block.
    **how
        The other fields of `ProbeRequest`: standardize=True, device='auto', memory_limit=None, tol, max_iter,
        metrics=(), return_coef=False, return_predictions=False, return_scores=False.

    Returns
    -------
    BlockResult
        Arrays of shape (s, f, p).

    Raises
    ------
    InputError
        Where the probe cannot be fitted on such a task, in one line.
    """
    if class_weight is not None:
        if shared is not None:
            raise InputError("got class_weight beside shared; give the task of weigh_classes() to both")
        _check_weights(get_kind(probe), True)
        task = weigh_classes(task, class_weight)
    return fit_request(task, ProbeRequest(get_kind(probe), orders, sizes, l2s, **how), shared)


@plain_torch()
def fit_request(task: Task, request: ProbeRequest, shared: SharedState | None = None) -> BlockResult:
    """`fit_block` for a request."""
    request, kind = request.on(task.n_neurons), request.kind
    _check(task, kind)
    device = pick_device(request.device)
    if shared is None:
        shared = moments_for(task, request)
    if not kind.has_l2 and len(request.l2s) > 1:
        once = fit_request(task, replace(request, l2s=request.l2s[:1]), shared)
        return once.for_every_l2(len(request.l2s))
    per_batch = kind.orders_per_batch(shared, request)
    parts = [_fit_batch([shared], part)[0] for part in _batches(request, per_batch)]
    return _joined(parts, request, device)


@plain_torch()
def fit_together(states: list[SharedState], request: ProbeRequest) -> list[BlockResult]:
    """`fit_request` of several tasks over the same rows, by a kind that has `fit_several`."""
    first = states[0]
    request = request.on(first.task.n_neurons)
    for state in states:
        _check(state.task, request.kind)
    parts = [_fit_batch(states, part) for part in _batches(request, 1)]
    return [_joined(list(own), request, first.device) for own in zip(*parts, strict=True)]


def _joined(parts: list[dict[str, np.ndarray]], request: ProbeRequest, device: torch.device) -> BlockResult:
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    attrs: dict[str, Any] = {
        "solver": "torch",
        "device": describe_device(device),
        "torch": torch.__version__,
        "tol": request.tol,
    }
    return BlockResult.of(arrays, attrs)


def _batches(request: ProbeRequest, count: int) -> "Iterator[ProbeRequest]":
    for start in range(0, len(request.orders), count):
        yield request.part(slice(start, start + count))


def _fit_batch(states: list[SharedState], request: ProbeRequest) -> list[dict[str, np.ndarray]]:
    """For each task arrays of shape (s, f, p, ...) under the names of `BlockResult`, metrics among them."""
    begun = time.perf_counter()
    orders = [order[: request.sizes.max()] for order in request.orders]
    probes = ProbeOrder.of(request.sizes, request.penalties())
    if len(states) == 1:
        fits = [request.kind.fit(states[0], orders, probes, request)]
    else:
        fits = request.kind.fit_several(states, orders, probes, request)  # type: ignore[attr-defined]
    found = [_arrays(*each, orders, probes, request) for each in zip(fits, states, strict=True)]
    spent = (time.perf_counter() - begun) / (len(states) * len(probes))
    for out in found:
        out["seconds"] = torch.full((len(probes),), spent, dtype=torch.float64)
    return [{name: probes.to_grid(value.cpu().numpy()) for name, value in out.items()} for out in found]


def _arrays(
    fitted: Fitted, shared: SharedState, orders: list[np.ndarray], probes: ProbeOrder, request: ProbeRequest
) -> dict[str, torch.Tensor]:
    out = {name: getattr(fitted, name) for name in ("objective", "grad_norm", "n_iter", "converged")}
    out |= score(fitted, probes, shared, orders, request)
    if request.return_coef and fitted.weights is not None:
        out["coef"] = fitted.weights[..., 1:]
        out["intercept"] = _intercept(fitted.weights, shared, orders, probes)
    return out


def _intercept(
    weights: torch.Tensor, shared: SharedState, orders: list[np.ndarray], probes: ProbeOrder
) -> torch.Tensor:
    """(m, c): of standardised columns; or float64, of columns as stored, which were centred for the fit."""
    if shared.standardize:
        return weights[..., 0]
    means = np.stack([shared.task.mean[order] for order in orders])[probes.group]  # (m, d')
    shift = torch.from_numpy(means).to(weights.device, torch.float64)
    return weights[..., 0].double() - (weights[..., 1:].double() @ shift[:, :, None])[..., 0]


def _check(task: Task, kind: Kind) -> None:
    if task.target_kind not in kind.targets:
        raise InputError(
            f"got {task.target_kind} to predict with a {kind.name} probe, which predicts "
            f"{' or '.join(kind.targets)}; use another probe, such as ridge for real-valued targets"
        )
    _check_weights(kind, task.weights is not None)
    on_disk = isinstance(task.train, StoredRows) or isinstance(task.test, StoredRows)
    if on_disk and not kind.from_disk:
        raise InputError(
            f"got a layer that stays on disk; {kind.name} needs it in memory: raise memory_limit"
        )


def _check_weights(kind: Kind, given: bool) -> None:
    if given and not kind.takes_weights:
        raise InputError(f"got sample or class weights for a {kind.name} probe, which takes none")


@plain_torch()
def task_moments(
    task: Task,
    standardize: bool = True,
    device: str = "auto",
    memory_limit: int | None = None,
    known: Known = Known(),
    exact: bool = True,
) -> SharedState:
    """What every block of a task shares, for `fit_block(shared=...)`: compute it once per task.

    known: what needs not be computed, standardised as `standardize` says. exact: False for a kind that claims
    `rough_moments` only.
    """
    return share(task, standardize, pick_device(device), memory_limit, known, exact)


def moments_for(task: Task, request: ProbeRequest) -> SharedState:
    """`task_moments` of a task as a request and its kind need them."""
    exact = not claims(request.kind, "rough_moments")
    return task_moments(task, request.standardize, request.device, request.memory_limit, exact=exact)


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
