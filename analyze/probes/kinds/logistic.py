"""Multinomial logistic probes: the kind. `optim.fit_logistic` fits them."""

import math
from dataclasses import replace

import numpy as np
import torch

from probecache.analyze.probes.design.nested_matmul import FULL, runs
from probecache.analyze.probes.design.probe_order import ProbeOrder
from probecache.analyze.probes.design.task_panels import task_weights
from probecache.analyze.probes.kind import Fitted, ProbeRequest
from probecache.analyze.probes.lbfgs.lock_step import Solution
from probecache.analyze.probes.optim import downward, kernel_newton
from probecache.analyze.probes.optim.cross_entropy import indicator, n_outputs
from probecache.analyze.probes.optim.fit_logistic import fit_logistic
from probecache.analyze.probes.optim.logistic_start import ALIKE, precondition_and_start
from probecache.analyze.probes.optim.multinomial import MANY, Batch, search_dtype
from probecache.analyze.probes.optim.newton import CHUNK, PARAMETERS
from probecache.analyze.probes.optim.path import FOUND, fit_path
from probecache.analyze.probes.share import one_label
from probecache.analyze.probes.shared_state import GRAM_LIMIT, SharedState
from probecache.analyze.tasks.matrix import StoredRows
from probecache.analyze.tasks.size import LayerSize

# The cost model's counts. EVALUATIONS of a logistic probe at float32's price: what the measured 4.5 s a seed
# come to (Lite0 features of CIFAR-10, l2 = 1e-4; 17 by width, most of them in bfloat16, factors and panels
# included). SCARCE: with fewer than two rows per neuron, in kernel form: 2.7 s a seed (Lite0 features of
# Flowers102, 1,020 rows, 102 classes), where L-BFGS took the 8.7 s that 78 stood for.
# DOWN: from the widest down, many classes: 100 take 20 s a seed of 20,000 rows and 31 s of 50,000.
EVALUATIONS = 13
SCARCE = 24
DOWN = 10
CURVATURE = 9  # classes d^3 products of one penalty's class Grams: 7.9 d rows a class, half of a square
TOLD = (*FOUND, "gap")  # of a solution, beside its weights
HISTORY = 100  # copies of a probe's weights that the solver holds at its peak: 98 counted


class Logistic:
    """Multinomial logistic regression, fitted by `fit_logistic`."""

    name = "logistic"
    has_l2 = True
    takes_weights = True
    targets = ("classes", "labels")
    from_disk = True
    solvers = ("torch", "sklearn", "cuml")
    l2_choice = "held out"
    probabilities = True
    order_free = True
    strongly_convex = True
    rough_moments = True
    counts = "evaluations"

    def orders_per_batch(self, shared: SharedState, request: ProbeRequest) -> int:
        """In memory one order at a time is smaller; on disk the orders share each pass over the rows."""
        if not isinstance(shared.task.train, StoredRows):
            return 1
        outputs, width = n_outputs(len(shared.task.classes)), 1 + int(request.sizes.max())
        factors = 4 * len(request.l2s) * outputs * width**2
        return max(1, int((request.memory_limit or 2**33) // 4 // factors))

    def fit(
        self, shared: SharedState, orders: list[np.ndarray], probes: ProbeOrder, request: ProbeRequest
    ) -> Fitted:
        if shared.task.target_kind != "labels":
            return self._fit_classes(shared, orders, probes, request)
        # One against the rest: each label is a task of two classes on the same rows and their Gram matrix.
        labels = [one_label(shared, column) for column in range(len(shared.task.classes))]
        parts = self.fit_several(labels, orders, probes, request)
        stack = lambda name: torch.stack([getattr(part, name) for part in parts])  # noqa: E731
        return Fitted(
            stack("objective").sum(dim=0),
            stack("grad_norm").square().sum(dim=0).sqrt(),
            stack("n_iter").sum(dim=0),
            stack("converged").all(dim=0),
            weights=torch.cat([part.weights for part in parts if part.weights is not None], dim=1),
        )

    def fit_several(
        self, tasks: list[SharedState], orders: list[np.ndarray], probes: ProbeOrder, request: ProbeRequest
    ) -> list[Fitted]:
        """Fit the probes on each of several tasks of two classes over the same rows: one wide batch for as
        many as their class Grams leave room for. Each has its own line search and end."""
        first = tasks[0]
        if first.is_scarce:
            return [self._fit_classes(task, orders, probes, request) for task in tasks]
        most = max(1, first.gram_limit // max(1, first.levels * first.gram_bytes))
        found = []
        for start in range(0, len(tasks), most):
            found += self._fit_together(tasks[start : start + most], orders, probes, request)
        return found

    def _fit_together(
        self, tasks: list[SharedState], orders: list[np.ndarray], probes: ProbeOrder, request: ProbeRequest
    ) -> list[Fitted]:
        task, device, count = tasks[0].task, tasks[0].device, len(tasks)
        groups, widths, l2s = (
            torch.from_numpy(a).repeat_interleave(count) for a in (probes.group, probes.size + 1, probes.l2)
        )
        targets = torch.arange(count).repeat(len(probes))
        labels = np.stack([one.task.train_labels for one in tasks])
        batch = Batch(
            tasks[0].panels(orders, keep=isinstance(task.train, np.ndarray)),
            groups,
            widths,
            l2s,
            torch.from_numpy(labels).to(device, torch.float32),
            task_weights(task, device),
            targets,
        )
        whole = fit_path(tasks, orders, batch, request)
        assert whole.weights is not None
        own = [(targets == t).nonzero()[:, 0].to(device) for t in range(count)]
        return [
            Fitted(**{name: getattr(whole, name)[mine] for name in FOUND}, weights=whole.weights[mine])
            for mine in own
        ]

    def _fit_classes(
        self, shared: SharedState, orders: list[np.ndarray], probes: ProbeOrder, request: ProbeRequest
    ) -> Fitted:
        task, device = shared.task, shared.device
        groups, widths, l2s = (torch.from_numpy(a) for a in (probes.group, probes.size + 1, probes.l2))
        batch = Batch(
            shared.panels(orders, keep=isinstance(task.train, np.ndarray)),
            groups,
            widths,
            l2s,
            indicator(torch.from_numpy(task.train_labels).to(device), n_outputs(len(task.classes))),
            task_weights(task, device),
        )
        # Where columns are nearly alike, as random projections are, the decrement falls short of the gap.
        alike = shared.moments.effective_rank <= ALIKE
        if shared.is_scarce and not alike and kernel_newton.serves(batch):
            return _fitted(batch, _in_kernel_form(shared, orders, batch, request))
        several = len(l2s.unique()) > 1 or batch.outputs == 1
        if batch.panels.in_memory and not shared.is_scarce and several:
            return fit_path([shared], orders, batch, request)
        if not several and downward.serves(batch, shared):
            return _fitted(batch, downward.fit_downward(shared, orders[0], batch, request))
        return _fitted(batch, _in_lock_step(shared, orders, batch, request))

    def flops(self, size: LayerSize, ks: np.ndarray, penalties: int) -> float:
        evaluations = SCARCE if size.is_scarce else DOWN if _goes_down(size, penalties) else EVALUATIONS
        factor = float(ks.max()) ** 3 / 3  # Cholesky
        return penalties * (factor + evaluations * 4 * size.train * float(ks.sum()) * size.classes)

    def shared_flops(self, size: LayerSize, penalties: int) -> float:
        """The class Grams of so many penalties."""
        without = size.is_scarce or _goes_down(size, penalties)
        return 0.0 if without else penalties * CURVATURE * size.classes * float(size.d) ** 3

    def memory(self, size: LayerSize, fractions: int, l2s: int) -> int:
        """For each probe its weights, with the solver's history for those in lock step, or the Hessian of
        Newton's method; the class Grams and their factors."""
        square = (size.d + 1) ** 2
        probes = fractions * l2s
        in_step = min(probes, math.ceil(FULL / size.classes)) if size.is_scarce else probes
        weights = size.classes * (size.d + 1) * 4
        parameters = min(PARAMETERS, size.classes * (size.d + 1))
        work = max(HISTORY * in_step * weights, 16 * parameters**2 + 24 * CHUNK) + 4 * probes * weights
        each = 4 * size.classes * square
        grams = 0 if size.is_scarce else min(l2s * each, max(GRAM_LIMIT // each, 0) * each)
        factors = 1.3 * l2s * each if grams else 4 * l2s * square
        return int(work + grams + factors)


def _fitted(batch: Batch, solution: Solution) -> Fitted:
    """What a solution says of a batch's probes: no end was met where there is none."""
    found = {name: getattr(solution, name) for name in FOUND}
    found["converged"] = found["converged"] & ~batch.has_no_minimum(found["objective"])
    return Fitted(**found, weights=solution.x)


def _in_kernel_form(
    shared: SharedState, orders: list[np.ndarray], batch: Batch, request: ProbeRequest
) -> Solution:
    """Newton's method on the kernel of few rows; where it stops short of the tolerance, L-BFGS."""
    found = kernel_newton.fit_in_kernel_form(
        batch, tol=request.tol, max_iter=request.max_iter, search=search_dtype(shared.device)
    )
    left = ~found.converged
    if left.any():
        rest = batch.part(left.nonzero()[:, 0].cpu())
        again = _in_lock_step(shared, [order[: rest.width - 1] for order in orders], rest, request)
        found.x[left, :, : rest.width] = again.x
        for name in TOLD:
            getattr(found, name)[left] = getattr(again, name)
    return found


def _in_lock_step(
    shared: SharedState, orders: list[np.ndarray], batch: Batch, request: ProbeRequest
) -> Solution:
    """L-BFGS from the preconditioner's start."""
    device = shared.device
    preconditioner, start = precondition_and_start([shared], orders, batch)
    # Where rows are scarce the fit is nearly perfect, and its small losses drown in bfloat16's rounding.
    search = torch.float32 if shared.is_scarce else search_dtype(device, batch.flops)
    x = torch.zeros_like(start)
    fits = []
    # Where rows are scarce, what the history reads is as much as an evaluation, and the columns beyond
    # each probe's own with it: probes of one size go together. Elsewhere they share the solves, and on
    # disk the passes over the rows.
    apart = shared.is_scarce and batch.panels.in_memory
    for chosen in runs(len(start), len(batch.truth), device) if apart else [slice(0, len(start))]:
        part = batch.part(chosen)
        fit = fit_logistic(
            part,
            preconditioner.part(chosen),
            start[chosen, :, : part.width],
            tol=request.tol,
            max_iter=request.max_iter,
            search=search,
        )
        x[chosen, :, : part.width] = fit.x
        fits.append(fit)
    told = {name: torch.cat([getattr(fit, name) for fit in fits]) for name in TOLD}
    return replace(fits[0], **told, x=x, history=None)


def _goes_down(size: LayerSize, penalties: int) -> bool:
    """Whether probes are fitted from the widest down, without class Grams, as `downward.serves` says of rows
    in memory, on a CPU."""
    return size.classes >= MANY and penalties == 1 and not size.is_scarce


KIND = Logistic()
