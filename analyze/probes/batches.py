"""Fitting and scoring the probes of some column orders together: what `fit_block` does once per batch."""

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design.nested_matmul import runs
from probecache.analyze.probes.kinds.knn import knn_predictions
from probecache.analyze.probes.kinds.logistic import Batch, fit_logistic
from probecache.analyze.probes.kinds.ridge import fit_ridge
from probecache.analyze.probes.kinds.sgd import Schedule, fit_sgd
from probecache.analyze.probes.optim.cross_entropy import indicator, n_outputs
from probecache.analyze.probes.optim.lbfgs_history import dot
from probecache.analyze.probes.optim.preconditioner import Preconditioner, cholesky, gram_factor
from probecache.analyze.probes.optim.start import best_scale, newton_start
from probecache.analyze.probes.score import accuracies, predict, r_squared
from probecache.analyze.probes.shared_state import Prepared, some_rows, task_panels, task_weights

# Effective rank of the columns: 1.03 to 1.08 of random projections of 1,280 neurons, 31 to 98 of the neurons.
ALIKE = 1.5


@dataclass(frozen=True)
class Options:
    """How a batch is fitted and what of it is returned; see `fit_block`."""

    probe: str
    tol: float
    max_iter: int
    search: torch.dtype
    coef: bool
    predictions: bool
    schedule: Schedule = field(default_factory=Schedule)


@dataclass(frozen=True)
class Layout:
    """The m = s f p probes of a batch in the solver's order: by column order, then size, largest first.

    group, size, l2: (m,); back: where in the solver's order the probes of the (s, f, p) grid are.
    """

    shape: tuple[int, int, int]
    group: np.ndarray
    size: np.ndarray
    l2: np.ndarray
    back: np.ndarray


def layout(orders: int, sizes: np.ndarray, l2s: np.ndarray) -> Layout:
    grid = np.meshgrid(np.arange(orders), sizes, l2s, indexing="ij")
    group, size, l2 = (axis.ravel() for axis in grid)
    rank = np.lexsort((-size, group))
    back = np.empty_like(rank)
    back[rank] = np.arange(rank.size)
    return Layout(grid[0].shape, group[rank], size[rank], l2[rank], back)


def fit_orders(
    shared: Prepared, orders: list[np.ndarray], sizes: np.ndarray, l2s: np.ndarray, options: Options
) -> dict[str, np.ndarray]:
    """Arrays of shape (s, f, p, ...) under the names of `BlockResult`."""
    begun = time.perf_counter()
    task, device = shared.task, shared.device
    orders = [order[: sizes.max()] for order in orders]
    plan = layout(len(orders), sizes, l2s)
    truth = torch.from_numpy(task.test_labels).to(device)
    x: Tensor | None = None
    if options.probe == "knn":
        predictions, out = _knn(shared, orders, plan)
    else:
        fit = {"logistic": _logistic, "ridge": _ridge, "sgd": _sgd}[options.probe]
        x, out = fit(shared, orders, plan, options)
        widths, groups = (torch.from_numpy(a).to(device) for a in (plan.size + 1, plan.group))
        test = task_panels(task, shared.standardize, device, orders, test=True)
        if task.is_regression:
            out["accuracy"] = r_squared(
                x, widths, groups, test, truth if truth.dim() == 2 else truth[:, None]
            )
            out["class_accuracy"] = torch.empty(len(x), 0)
        else:
            predictions = predict(x, widths, groups, test)
    if not task.is_regression:
        out["accuracy"], out["class_accuracy"] = accuracies(predictions, truth, len(task.classes))
        if options.predictions:
            out["predictions"] = predictions.int()
    if options.coef and x is not None:
        out["coef"], out["intercept"] = x[..., 1:], x[..., 0]
    m = len(plan.size)
    out["seconds"] = torch.full((m,), (time.perf_counter() - begun) / m, dtype=torch.float64)
    arrays = {name: value.cpu().numpy()[plan.back] for name, value in out.items()}
    return {name: array.reshape(*plan.shape, *array.shape[1:]) for name, array in arrays.items()}


def _knn(shared: Prepared, orders: list[np.ndarray], plan: Layout) -> tuple[Tensor, dict[str, Tensor]]:
    """Predictions (m, n_test), and NaN for what a probe without weights does not have."""
    task, device = shared.task, shared.device
    labels = torch.from_numpy(task.train_labels).to(device)
    found = []
    for g, order in enumerate(orders):
        train = task_panels(task, shared.standardize, device, [order], keep=True)
        test = task_panels(task, shared.standardize, device, [order], test=True)
        ks, which = np.unique(plan.size[plan.group == g], return_inverse=True)
        found.append(knn_predictions(train, test, labels, len(task.classes), ks)[which])
    nothing = torch.full((len(plan.size),), torch.nan, dtype=torch.float64)
    zero = torch.zeros(len(plan.size), dtype=torch.int64)
    return torch.cat(found), {
        "objective": nothing,
        "grad_norm": nothing,
        "n_iter": zero,
        "converged": torch.ones_like(zero).bool(),
    }


def _sgd(
    shared: Prepared, orders: list[np.ndarray], plan: Layout, options: Options
) -> tuple[Tensor, dict[str, Tensor]]:
    task, device = shared.task, shared.device
    labels = torch.from_numpy(task.train_labels).to(device)
    truth, weights = indicator(labels, len(task.classes)), task_weights(task, device)
    found, objective, grad_norm = [], [], []
    for g, order in enumerate(orders):
        chosen = plan.group == g
        panels = task_panels(task, shared.standardize, device, [order], keep=True)
        x = fit_sgd(panels, truth, plan.size[chosen], options.schedule, weights=weights)
        zero = torch.zeros(int(chosen.sum()), dtype=torch.int64, device=device)
        widths = torch.from_numpy(plan.size[chosen] + 1).to(device)
        batch = Batch(panels, zero, widths, zero.double(), truth, weights)
        f, gradient = batch.evaluate(x, torch.arange(len(x), device=device))
        found.append(x)
        objective.append(f)
        grad_norm.append(dot(gradient, gradient).sqrt())
    values = torch.cat(objective)
    steps = options.schedule.epochs * -(-panels.n_samples // options.schedule.batch)
    return torch.cat(found), {
        "objective": values,
        "grad_norm": torch.cat(grad_norm),
        "n_iter": torch.full((len(values),), steps),
        "converged": torch.isfinite(values),
    }


def _ridge(
    shared: Prepared, orders: list[np.ndarray], plan: Layout, options: Options
) -> tuple[Tensor, dict[str, Tensor]]:
    parts = [
        fit_ridge(shared.moments.take(order), plan.size[plan.group == g], plan.l2[plan.group == g])
        for g, order in enumerate(orders)
    ]
    once = torch.ones(len(plan.size), dtype=torch.int64, device=shared.device)
    return torch.cat([part.x for part in parts]), {
        "objective": torch.cat([part.objective for part in parts]),
        "grad_norm": torch.cat([part.grad_norm for part in parts]),
        "n_iter": once,
        "converged": once.bool(),
    }


def _logistic(
    shared: Prepared, orders: list[np.ndarray], plan: Layout, options: Options
) -> tuple[Tensor, dict[str, Tensor]]:
    task, device = shared.task, shared.device
    classes = len(task.classes)
    batch = Batch(
        task_panels(task, shared.standardize, device, orders, keep=isinstance(task.train, np.ndarray)),
        torch.from_numpy(plan.group).to(device),
        torch.from_numpy(plan.size + 1).to(device),
        torch.from_numpy(plan.l2).to(device),
        indicator(torch.from_numpy(task.train_labels).to(device), n_outputs(classes)),
        task_weights(task, device),
    )
    preconditioner, start = _prepared_for(shared, orders, batch)
    # Where rows are scarce the fit is nearly perfect, and its small losses drown in bfloat16's rounding.
    search = torch.float32 if shared.is_scarce else options.search
    x = torch.zeros_like(start)
    fits = []
    # Where rows are scarce, what the history reads is as much as an evaluation, and the columns beyond each
    # probe's own with it: probes of one size go together. Elsewhere they share the solves, and on disk the
    # passes over the rows.
    apart = shared.is_scarce and batch.panels.in_memory
    parts = runs(len(start), len(batch.truth), device) if apart else [slice(0, len(start))]
    for probes in parts:
        part = batch.part(probes)
        fit = fit_logistic(
            part,
            preconditioner.part(probes),
            start[probes, :, : part.width],
            tol=options.tol,
            max_iter=options.max_iter,
            search=search,
        )
        x[probes, :, : part.width] = fit.x
        fits.append(fit)
    names = ("objective", "grad_norm", "n_iter", "converged")
    return x, {name: torch.cat([getattr(fit, name) for fit in fits]) for name in names}


def _prepared_for(shared: Prepared, orders: list[np.ndarray], batch: Batch) -> tuple[Preconditioner, Tensor]:
    """The preconditioner and the starting weights (m, c, w) of a batch."""
    classes, device = len(shared.task.classes), shared.device
    outputs = n_outputs(classes)
    # Few rows tell a scale, and a probe's logits of all of the sample are many where classes are.
    chosen = some_rows(len(shared.sample_labels), max(1024, 2**18 // outputs))
    rows = torch.arange(len(shared.sample_labels)) if chosen is None else torch.from_numpy(chosen)
    truth = indicator(shared.sample_labels[rows.to(device)], outputs)
    mask = batch.mask
    factors: list[Tensor | None] = []
    # Plain L-BFGS needs columns of one scale that are not all alike, as random projections are.
    plain = shared.is_scarce and shared.standardize and shared.moments.effective_rank > ALIKE
    which = torch.zeros_like(batch.groups)
    start = torch.zeros(len(which), outputs, batch.panels.width, device=device)
    sample = next(iter(shared.sample)).base[:, rows.to(device)]
    for g, order in enumerate(orders):
        part = shared.moments.take(order)
        index = torch.from_numpy(np.concatenate([[0], order + 1])).to(device)
        panel = sample[index]
        for l2 in batch.l2.unique().tolist():
            probes = ((batch.groups == g) & (batch.l2 == l2)).nonzero()[:, 0]
            gram = Preconditioner([gram_factor(part, l2, classes)], torch.zeros_like(which), mask)
            x = newton_start(part, gram, probes)
            widths, penalties = batch.widths[probes], batch.l2[probes]
            start[probes] = best_scale(x, widths, penalties, panel, truth)
            levels = shared.curvature(l2)
            limits = [shared.narrow] if plain else [c.widest for c in levels]
            bounds = torch.tensor(limits, dtype=torch.int64, device=device)
            served = torch.bucketize(widths - 1, bounds)
            for i in served.unique().tolist():
                mine = probes[served == i]
                which[mine] = len(factors)
                if not levels:
                    factors.append(None if plain and i else gram.factors[0])
                    continue
                leading = index[: int(batch.widths[mine].max())]
                grams = levels[i].grams[:, leading[:, None], leading]
                factors.append(cholesky(grams, l2, most=1e-2))
    return Preconditioner(factors, which, mask), start
