"""The arrays of one block: its task, each seed's own rows and labels where seeds draw them, its probes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from probecache.analyze.probes.block_result import BlockResult
from probecache.analyze.probes.fit import fit_together, moments_for
from probecache.analyze.probes.kind import ProbeRequest, claims
from probecache.analyze.probes.l2_choice.race import Fit, race
from probecache.analyze.probes.l2_choice.select_l2 import FOLDED, best_penalty, fit_chosen, refit
from probecache.analyze.probes.share import share_labels
from probecache.analyze.probes.shared_state import SharedState
from probecache.analyze.selections.projections import Selection, select
from probecache.analyze.selections.subsets import sizes
from probecache.analyze.sweeps.blocks import Block
from probecache.analyze.sweeps.job import Job
from probecache.analyze.sweeps.solvers import solve
from probecache.analyze.sweeps.task_cache import Cache, Loaded, held_out, load, load_together
from probecache.analyze.tasks.control import control_task
from probecache.analyze.tasks.shots import ALL, take_shots
from probecache.analyze.tasks.task import Task

if TYPE_CHECKING:
    from probecache.analyze.probes.design.gram import Moments

NOT_SCORED = -1  # the predicted class of a test sample that has none: it failed, or lacks the target


@dataclass(frozen=True)
class Drawn:
    """A task with the seeds that it holds for, what its blocks share (None where seeds draw rows), and the
    same of the validation rows as test rows."""

    seeds: tuple[int, ...]
    task: Task
    shared: SharedState | None
    validation: Task | None
    validation_shared: SharedState | None


def fit_cells(block: Block, job: Job, cache: Cache, found: "Moments | None" = None) -> dict[str, Any]:
    """The block's arrays, (target, seed, fraction, l2[, ...]), and its attributes under the key "attrs"."""
    if block.also:
        return _fit_targets(block, job, cache, found)
    return _of_one(_fit_target(block, job, cache, found))


def _fit_targets(block: Block, job: Job, cache: Cache, found: "Moments | None") -> dict[str, Any]:
    """Targets over the same rows, whose probes share passes and products."""
    plan = job.plan
    found = found if block.target == "label" and plan.val is None else None
    final = load_together(cache, job, block.layer, block.targets, (_fitted_on(job), plan.test), found)
    chooser = []
    if plan.val is not None:
        chooser = load_together(cache, job, block.layer, block.targets, (plan.train, plan.val))
    parts: list[list[dict[str, Any]]] = [[] for _ in final]
    for seeds in [(seed,) for seed in block.seeds] if block.redrawn else [block.seeds]:
        states, choosers = (_states(block, loaded, seeds) for loaded in (final, chooser))
        (picked,) = select(states[0].task, block.selection, seeds, standardize=plan.standardize)
        for own, arrays in zip(parts, _fit_states(block, job, picked, states, choosers), strict=True):
            own.append(arrays)
    each = zip(parts, final, strict=True)
    return join([_of_one(_spread(join(own, 0), loaded)) for own, loaded in each], 0)


def _of_one(arrays: dict[str, Any]) -> dict[str, Any]:
    """One target's arrays, with targets as the first axis."""
    return {name: value if name == "attrs" else value[None] for name, value in arrays.items()}


def _states(block: Block, loaded: list[Loaded], seeds: tuple[int, ...]) -> list[SharedState]:
    """What is shared of each target's task, or of its control task under one seed."""
    if not block.redrawn or not loaded:
        return [one.shared for one in loaded]
    return share_labels(loaded[0].shared, [_redraw(block, one, seeds[0]) for one in loaded])


def _fit_states(
    block: Block, job: Job, picked: Selection, states: list[SharedState], choosers: list[SharedState]
) -> list[dict[str, Any]]:
    """Arrays (s, f, p) of each target; with choosers each probe's l2 is the best of the path there."""
    request = _request(block, job, picked)
    if not choosers:
        results = fit_together(states, request)
        return [dict(result.arrays) | {"attrs": dict(result.attrs)} for result in results]
    path = np.unique(request.l2s)
    fit: Fit = partial(solve, solver=job.plan.solver)
    found = []
    for state, tried in zip(states, fit_together(choosers, _plain(request, path)), strict=True):
        chosen = best_penalty(tried.score, path)
        result = refit(state.task, request, chosen, state, fit)
        found.append(dict(result.arrays) | {"chosen_l2": chosen[..., None], "attrs": dict(result.attrs)})
    return found


def _plain(request: ProbeRequest, path: np.ndarray) -> ProbeRequest:
    """A request for accuracies alone along a path."""
    return replace(request, l2s=path, metrics=(), return_predictions=False, return_scores=False)


def _fitted_on(job: Job) -> str:
    plan = job.plan
    return plan.train if plan.refit == "train" else f"{plan.train}+{plan.val}"


def _fit_target(block: Block, job: Job, cache: Cache, found: "Moments | None") -> dict[str, Any]:
    plan = job.plan
    if block.target != "label" or block.redrawn or plan.val is not None:
        found = None  # what a cluster summed up is of all rows and of the labels that came with them
    final = load(cache, job, block.layer, block.target, _fitted_on(job), plan.test, found)
    chooser = None
    if plan.val is not None:
        chooser = load(cache, job, block.layer, block.target, plan.train, plan.val, found)
    parts = []
    for drawn in _drawn(block, final, chooser):
        parts += [_fit(block, job, cache, final, drawn, picked) for picked in _select(block, job, drawn)]
    return join([_spread(part, final) for part in parts], 0)


def _drawn(block: Block, final: Loaded, chooser: Loaded | None) -> Iterator[Drawn]:
    """The tasks of the block's seeds: one for all, or one for each where rows or labels are drawn."""
    both = (final, chooser)
    if not block.redrawn:
        tasks = [None if one is None else one.task for one in both]
        states = [None if one is None else one.shared for one in both]
        assert tasks[0] is not None
        yield Drawn(block.seeds, tasks[0], states[0], tasks[1], states[1])
        return
    for seed in block.seeds:
        tasks = [None if one is None else _redraw(block, one, seed) for one in both]
        states = [_relabelled(block, *pair) for pair in zip(both, tasks, strict=True)]
        assert tasks[0] is not None
        yield Drawn((seed,), tasks[0], states[0], tasks[1], states[1])


def _relabelled(block: Block, loaded: Loaded | None, task: Task | None) -> SharedState | None:
    """What is shared of a control task: its rows are all rows, whose Gram matrix is there."""
    if loaded is None or task is None or block.shots != ALL or task.weights is not None:
        return None
    return share_labels(loaded.shared, [task])[0]


def _redraw(block: Block, loaded: Loaded, seed: int) -> Task:
    task = loaded.task
    if block.control is not None:
        types = (loaded.train_names, loaded.test_names) if block.control == "random" else (None, None)
        task = control_task(task, block.control, seed, *types)
    return take_shots(task, block.shots, seed) if block.shots != ALL else task


def _select(block: Block, job: Job, drawn: Drawn) -> Iterator[Selection]:
    yield from select(drawn.task, block.selection, drawn.seeds, standardize=job.plan.standardize)


def _fit(
    block: Block, job: Job, cache: Cache, final: Loaded, drawn: Drawn, picked: Selection
) -> dict[str, Any]:
    request = _request(block, job, picked)
    fit: Fit = partial(solve, solver=job.plan.solver)
    shared = drawn.shared if picked.task is drawn.task else None
    chosen = {}
    if drawn.validation is not None:
        result, chosen["chosen_l2"] = _fit_validated(block, job, drawn, picked, request, fit)
    elif block.path:
        held = None
        if shared is not None and job.kind.l2_choice != FOLDED:
            held = held_out(cache, job, final, block.target, request.memory_limit)
        result, chosen["chosen_l2"] = fit_chosen(picked.task, request, shared=shared, held=held, fit=fit)
    else:
        result = fit(picked.task, request, shared)
    # one order may stand for several seeds: (1, f, p) -> (seeds, f, p)
    repeat = len(picked.seeds) // len(request.orders)
    arrays = {name: np.repeat(values, repeat, axis=0) for name, values in (result.arrays | chosen).items()}
    return arrays | {"attrs": dict(result.attrs)}


def _request(block: Block, job: Job, picked: Selection) -> ProbeRequest:
    orders = picked.orders
    if claims(job.kind, "draws"):  # each seed is a probe of its own, in whichever block it comes
        orders = np.repeat(orders, len(picked.seeds) // len(orders), axis=0)
    return ProbeRequest(
        job.kind,
        orders,
        sizes(block.fractions, picked.task.n_neurons),
        np.asarray(block.path or block.l2s, np.float64),
        seeds=picked.seeds[: len(orders)],
        standardize=job.plan.standardize,
        device=job.device,
        memory_limit=job.working_memory,
        tol=job.plan.tol,
        metrics=job.metrics,
        return_predictions=job.plan.save_predictions is not None,
        return_scores=job.plan.save_predictions == "scores",
    )


def _fit_validated(
    block: Block, job: Job, drawn: Drawn, picked: Selection, request: ProbeRequest, fit: Fit
) -> tuple[BlockResult, np.ndarray]:
    """l2 by the validation split, then the fit on train or on both: arrays (s, f, 1) and the chosen l2."""
    assert drawn.validation is not None
    path = np.unique(request.l2s)
    rows = list(select(drawn.validation, block.selection, picked.seeds, standardize=job.plan.standardize))
    known = [drawn.validation_shared if one.task is drawn.validation else None for one in rows]
    tried = [
        _tried(one.task, replace(request, orders=one.orders), path, own, fit)
        for one, own in zip(rows, known, strict=True)
    ]
    scores = np.concatenate(tried)
    chosen = best_penalty(scores, path)  # (s, f)
    shared = drawn.shared if picked.task is drawn.task else None
    return refit(picked.task, request, chosen, shared, fit), chosen[..., None]


def _tried(
    task: Task, request: ProbeRequest, path: np.ndarray, shared: SharedState | None, fit: Fit
) -> np.ndarray:
    """Scores (s, f, p) of a path's penalties on the task's test rows, as far as it takes to know the best."""
    if request.kind.l2_choice == FOLDED:  # a factor each: there is nothing to save
        return fit(task, _plain(request, path), shared).score
    if shared is None:
        shared = moments_for(task, request)
    return race(task, replace(shared, share_curvature=True), request, path, fit)


def _spread(arrays: dict[str, Any], loaded: Loaded) -> dict[str, Any]:
    """Predictions and scores of the kept test samples, laid out over all samples of the split.

    Two classes get 0 and the second one's log-odds; one label or number stays one. RESULTS have room for one
    predicted class of a sample, not for several labels: their scores are kept, and 0 divides them.
    """
    keep, kind = loaded.test_keep, loaded.task.target_kind
    if kind == "classes" and "scores" in arrays and arrays["scores"].shape[-2] == 1:
        arrays["scores"] = np.concatenate([np.zeros_like(arrays["scores"]), arrays["scores"]], axis=-2)
    if kind != "classes":
        arrays.pop("predictions", None)
    for name, missing in (("predictions", NOT_SCORED), ("scores", np.nan)):
        if name in arrays:
            values = arrays[name]
            whole = np.full((*values.shape[:-1], len(keep)), missing, values.dtype)
            whole[..., keep] = values
            arrays[name] = whole
    return arrays


def join(parts: list[dict[str, Any]], axis: int) -> dict[str, Any]:
    """The arrays of a block from those of its parts, which cut it along `axis`."""
    names = [name for name in parts[0] if name != "attrs"]
    joined = {name: np.concatenate([part[name] for part in parts], axis) for name in names}
    return joined | {"attrs": parts[0]["attrs"]}
