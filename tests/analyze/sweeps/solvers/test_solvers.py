"""One contract for every solver: the oracle's objective, a small gradient, the oracle's predictions."""

import warnings
from functools import partial

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from probecache.analyze.probes.kind import ProbeRequest
from probecache.analyze.probes.registry import get_kind
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.sweeps import solvers
from probecache.analyze.sweeps.solvers import SOLVERS, check_solver, cuml
from probecache.analyze.sweeps.solvers.one_by_one import Fit, Problem, logistic_objective, loop
from probecache.analyze.tasks.matrix import StoredRows
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError

SIZES, L2S = np.array([5, 40, 64]), np.array([1e-3, 1e-1])


def solve(task, orders, sizes, l2s, *, probe="logistic", solver="auto"):
    return solvers.solve(task, ProbeRequest(get_kind(probe), orders, sizes, l2s), solver=solver)


def digits(classes: int) -> Task:
    x, y = load_digits(return_X_y=True)
    x, y = x[y < classes], y[y < classes]
    half = len(x) // 2
    return Task(x[:half], y[:half], x[half:], y[half:])


@pytest.fixture(scope="module", params=[2, 10], ids=["two classes", "ten classes"])
def task(request):
    return digits(request.param)


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.gpu) if n == "cuml" else n for n in SOLVERS])
def solver(request):
    if request.param == "cuml" and cuml.unavailable():
        pytest.skip(f"cuml: {cuml.unavailable()}")
    return request.param


def columns_of(task, columns):
    """Standardised columns of train and test, float64."""
    mean, scale = task.mean[columns], task.scale[columns]
    return tuple((matrix[:, columns].astype(float) - mean) / scale for matrix in (task.train, task.test))


def oracle(task, order, k, l2):
    """scikit-learn's newton-cg at tol 1e-10 in float64: its objective and test predictions."""
    x, test = columns_of(task, order[:k])
    model = LogisticRegression(C=1 / (l2 * len(x)), solver="newton-cg", tol=1e-10, max_iter=1000)
    with warnings.catch_warnings():
        # below 1e-10 its line search runs out of digits
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="Line Search failed")
        model.fit(x, task.train_labels)
    fit = Fit(model.coef_, model.intercept_, 0, True)
    return logistic_objective(fit, x, task.train_labels, l2)[0], model.predict(test)


def test_logistic_probes_meet_the_oracle(task, solver):
    orders = np.stack([permutation(64, seed) for seed in (0, 1)])
    result = solve(task, orders, SIZES, L2S, solver=solver)
    assert result.attrs["solver"] == solver
    assert result.accuracy.shape == (2, 3, 2)
    for (s, f, p), objective in np.ndenumerate(result.objective):
        best, predicted = oracle(task, orders[s], SIZES[f], L2S[p])
        assert objective == pytest.approx(best, rel=1e-4)
        assert objective >= best * (1 - 1e-6)
        share = (predicted == task.test_labels).mean()
        assert result.accuracy[s, f, p] == pytest.approx(share, abs=6e-3)  # 5 of 899 samples
    assert (result.grad_norm < 2e-3).all()
    assert result.converged.all()


def test_ridge_probes_equal_ridge_classifier(task, solver):
    orders = permutation(64, 3)[None]
    result = solve(task, orders, SIZES, L2S, probe="ridge", solver=solver)
    for (_, f, p), accuracy in np.ndenumerate(result.accuracy):
        x, test = columns_of(task, orders[0][: SIZES[f]])
        model = RidgeClassifier(alpha=L2S[p] * len(x), solver="svd").fit(x, task.train_labels)
        assert accuracy == pytest.approx(model.score(test, task.test_labels), abs=1e-9)


def test_class_accuracies_average_to_the_accuracy(task, solver):
    result = solve(task, permutation(64, 0)[None], SIZES, L2S, solver=solver)
    share = np.bincount(task.test_labels) / len(task.test_labels)
    np.testing.assert_allclose(result.class_accuracy @ share, result.accuracy, rtol=1e-6)


def test_the_objective_of_one_solver_is_the_objective_of_another(task):
    """The batched solver reports its own; the loop takes it in float64 from the weights that it got."""
    order = permutation(64, 0)[None]
    for probe in ("logistic", "ridge"):
        results = [solve(task, order, SIZES, L2S, probe=probe, solver=name) for name in ("torch", "sklearn")]
        np.testing.assert_allclose(results[0].objective, results[1].objective, rtol=1e-4)
        assert (results[1].grad_norm < 1e-4).all()


def test_a_fit_that_stopped_early_has_not_converged_whatever_its_solver_says(task):
    """cuML reports a failed line search in its log alone."""

    def fit(x, labels, l2, steps):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-8, max_iter=steps).fit(x, labels)
        return Fit(model.coef_, model.intercept_, steps, True)

    def converged(steps):
        stopped = partial(fit, steps=steps)
        order = permutation(64, 0)[None]
        problem = Problem(stopped, logistic_objective, cuml.GRADIENT_TOLERANCE)
        return loop(
            task, ProbeRequest(get_kind("logistic"), order, SIZES, L2S), {"logistic": problem}, {}
        ).converged

    assert converged(2000).all()
    assert not converged(5).any()


def test_auto_is_the_batched_solver_and_unknown_names_are_refused():
    assert check_solver("auto") == "torch"
    with pytest.raises(InputError, match="got solver 'sklern'; close names: sklearn"):
        check_solver("sklern")


@pytest.mark.skipif(not cuml.unavailable(), reason="cuML runs here")
def test_cuml_asked_for_where_it_cannot_run_is_one_line():
    with pytest.raises(InputError, match="got solver 'cuml', which cannot run here: ") as caught:
        check_solver("cuml")
    assert "\n" not in str(caught.value)


def test_a_layer_on_disk_is_refused_by_the_solvers_that_need_it_in_memory(task):
    rows = StoredRows(None, "train", "a", np.ones(3, bool), task.train.shape)
    on_disk = object.__new__(Task)
    for name in Task.__dataclass_fields__:
        object.__setattr__(on_disk, name, getattr(task, name))
    object.__setattr__(on_disk, "train", rows)
    with pytest.raises(InputError, match="only solver torch reads it in row blocks"):
        solve(on_disk, permutation(64, 0)[None], SIZES, L2S, solver="sklearn")
