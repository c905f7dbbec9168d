"""Solvers behind one interface: the same probes, objective and arrays, whoever minimises.

torch     the batched solver of `probecache.analyze.probes.fit`, on CPU or CUDA: what `auto` runs
sklearn   scikit-learn, one fit at a time: the reference
cuml      RAPIDS cuML, one fit at a time on a GPU; ridge stays on the batched path
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from probecache.store.errors import InputError, close_names

if TYPE_CHECKING:
    from probecache.analyze.probes.fit import BlockResult
    from probecache.analyze.tasks.task import Task

SOLVERS = ("torch", "sklearn", "cuml")


def solve(
    task: "Task",
    orders: np.ndarray,
    sizes: np.ndarray,
    l2s: np.ndarray,
    *,
    probe: str = "logistic",
    solver: str = "auto",
    standardize: bool = True,
    device: str = "auto",
    memory_limit: int | None = None,
    shared: Any = None,
) -> "BlockResult":
    """Fit a probe on the first `sizes` columns of every order, for every l2, with the named solver.

    orders: int64 (s, d); sizes: int64 (f,); l2s: float64 (p,); shared: the task's moments, or None.
    Returns arrays (s, f, p); `attrs` names the solver, device and version that ran.
    Raises InputError where the solver is unknown or cannot run here.
    """
    name = check_solver(solver)
    run = import_module(f"probecache.analyze.sweeps.solvers.{name}").solve
    return run(task, orders, sizes, l2s, probe, standardize, device, memory_limit, shared)


def check_solver(solver: str) -> str:
    """The solver that runs for a name: itself, torch for auto; InputError where it cannot run here."""
    if solver == "auto":
        return "torch"
    if solver not in SOLVERS:
        raise InputError(f"got solver {solver!r}; {close_names(solver, ('auto', *SOLVERS))}")
    reason = import_module(f"probecache.analyze.sweeps.solvers.{solver}").unavailable()
    if reason:
        raise InputError(
            f"got solver {solver!r}, which cannot run here: {reason}; use auto, torch or sklearn"
        )
    return solver
