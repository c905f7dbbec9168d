"""Solvers behind one interface: the same probes, objective and arrays, whoever minimises.

torch     the batched solver of `probecache.analyze.probes.fit`, on CPU or CUDA: what `auto` runs
sklearn   scikit-learn, one fit at a time: the reference
cuml      RAPIDS cuML, one fit at a time on a GPU; what it does not have stays on the batched path
"""

from importlib import import_module
from typing import TYPE_CHECKING

from probecache.store.errors import InputError, close_names

if TYPE_CHECKING:
    from probecache.analyze.probes.block_result import BlockResult
    from probecache.analyze.probes.kind import ProbeRequest
    from probecache.analyze.probes.shared_state import SharedState
    from probecache.analyze.tasks.task import Task

SOLVERS = ("torch", "sklearn", "cuml")


def solve(
    task: "Task", request: "ProbeRequest", shared: "SharedState | None" = None, *, solver: str = "auto"
) -> "BlockResult":
    """Fit what a request asks for with the named solver; `attrs` names what ran.

    Raises InputError where the solver is unknown or cannot run here.
    """
    name = check_solver(solver)
    return import_module(f"probecache.analyze.sweeps.solvers.{name}").solve(task, request, shared)


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
