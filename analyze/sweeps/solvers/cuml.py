"""RAPIDS cuML, one logistic fit at a time on a CUDA device. Extras gpu-cu12 and gpu-cu13.

cuML's `qn` minimises  mean CE + 1/(2 C n) ||W||^2,  so C = 1 / (l2 n) as with scikit-learn. Its default
tolerance of 1e-4 stops well short of the minimum. It takes float32, C-contiguous arrays on the device.
It does not say why it stopped: a line search that failed, or an objective that no longer changes in float32,
leaves the same attributes behind as success. So `converged` rests on the float64 gradient at its weights.
Ridge stays on the batched path: cuML's takes a singular value decomposition for every fit.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from probecache.analyze.probes.block_result import BlockResult
from probecache.analyze.probes.fit import fit_request
from probecache.analyze.probes.kind import ProbeRequest
from probecache.analyze.sweeps.solvers.one_by_one import Fit, Problem, logistic_objective, loop
from probecache.analyze.tasks.task import Task
from probecache.store.errors import first_line

TOLERANCE = 1e-6
MAX_ITER = 1000
# No entry of the gradient is above this share of the objective. Where L-BFGS reaches that, the objective's
# relative gap is 3e-6 (CIFAR-10 features, l2 1e-4) or 2e-7 (digits, 1e-3); float32 rounds the gradient to
# 2e-7 of the objective.
GRADIENT_TOLERANCE = 3e-5


@cache
def unavailable() -> str:
    """Why cuML cannot run here, or "". It imports without a device and its first fit fails: one is tried."""
    for module in ("cuml", "cupy"):
        if find_spec(module) is None:
            return f"{module} is not installed (pip install 'probecache[gpu-cu12]', or gpu-cu13)"
    try:
        import cupy

        if not cupy.cuda.is_available():
            return "this machine has no CUDA device"
        x = np.array([[0.0], [1.0], [2.0], [3.0]])
        fit_logistic(x, np.array([0, 0, 1, 1]), 0.1)
    except Exception as error:  # a broken driver or a version mismatch raises anything
        reason = first_line(error, "no message")
        return f"a fit of four points failed: {type(error).__name__}: {reason}"
    return ""


def solve(task: Task, request: ProbeRequest, shared: Any = None) -> BlockResult:
    """`solvers.solve` with cuML's LogisticRegression; what cuML does not do well, on the batched solver."""
    if request.kind.name not in PROBLEMS:
        return fit_request(task, request, shared)
    import cuml
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    attrs = {"solver": "cuml", "device": name, "cuml": cuml.__version__, "tol": TOLERANCE}
    return loop(task, request, PROBLEMS, attrs)


def fit_logistic(x: np.ndarray, labels: np.ndarray, l2: float) -> Fit:
    """LogisticRegression(qn) with C = 1 / (l2 n), float32 on the device; float64 weights come back."""
    import cupy
    from cuml.linear_model import LogisticRegression

    arguments = options(len(x), l2)
    model = LogisticRegression(**arguments)
    model.fit(cupy.asarray(x, dtype=cupy.float32, order="C"), cupy.asarray(labels, dtype=cupy.int32))
    found = (cupy.asnumpy(cupy.asarray(a)) for a in (model.coef_, model.intercept_))
    coef, intercept = (np.asarray(a, np.float64) for a in found)
    steps = int(np.max(np.asarray(model.n_iter_)))
    return Fit(np.atleast_2d(coef), np.atleast_1d(intercept), steps, steps < MAX_ITER)


def options(n: int, l2: float) -> dict[str, Any]:
    """The keyword arguments of cuML's LogisticRegression for n rows."""
    return {
        "penalty": "l2" if l2 else None,
        "C": 1 / (l2 * n) if l2 else 1.0,
        "tol": TOLERANCE,
        "max_iter": MAX_ITER,
        "fit_intercept": True,
        "solver": "qn",
        "penalty_normalized": True,  # C counts the rows; without it, it would not
        "output_type": "cupy",
    }


PROBLEMS = {"logistic": Problem(fit_logistic, logistic_objective, GRADIENT_TOLERANCE)}
