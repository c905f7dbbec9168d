"""Newton's method in kernel form against scikit-learn, and its matrices against products by definition."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.fit import fit_block, task_moments
from probecache.analyze.probes.kinds import logistic
from probecache.analyze.probes.optim.cross_entropy import indicator, n_outputs
from probecache.analyze.probes.optim.fit_logistic import fit_logistic
from probecache.analyze.probes.optim.kernel_newton import fit_in_kernel_form
from probecache.analyze.probes.optim.kernel_problem import prefix_factors
from probecache.analyze.probes.optim.multinomial import Batch
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.tasks.task import Task


def scarce(n=120, d=90, classes=4, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = 0.7 * rng.normal(size=(classes, d))[y] + rng.normal(size=(n, d)) + offset
    return x.astype(np.float32), y


def entropy(x, y, coef, intercept, l2, weights):
    z = x.astype(np.float64) @ coef.T + intercept
    z = np.hstack([np.zeros_like(z), z]) if z.shape[1] == 1 else z
    top = z.max(axis=1)
    losses = np.log(np.exp(z - top[:, None]).sum(axis=1)) + top - z[np.arange(len(y)), y]
    return np.average(losses, weights=weights) + 0.5 * l2 * np.square(coef).sum()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_minimum_is_scikit_learns(classes, weighted, dtype):
    x, y = scarce(classes=classes, offset=0.5)  # columns need no mean of zero
    weights = np.random.default_rng(1).choice([0.5, 1.0, 20.0], size=len(y)) if weighted else np.ones(len(y))
    panels = Panels(x, None, None, torch.device("cpu"), [np.arange(90)], keep=True)
    widths, l2s = [91, 91, 61, 13], [1e-3, 1e-2, 1e-3, 1e-3]
    batch = Batch(
        panels,
        torch.zeros(4, dtype=torch.int64),
        torch.tensor(widths),
        torch.tensor(l2s, dtype=torch.float64),
        indicator(torch.from_numpy(y), n_outputs(classes)),
        torch.from_numpy(weights).float() if weighted else None,
    )
    fit = fit_in_kernel_form(batch, tol=1e-6, max_iter=200, search=dtype)
    assert fit.converged.all()
    for i, (width, l2) in enumerate(zip(widths, l2s, strict=True)):
        seen = x[:, : width - 1].astype(np.float64)
        model = LogisticRegression(C=1 / (l2 * weights.sum()), tol=1e-10, max_iter=10_000)
        model.fit(seen, y, sample_weight=weights)
        best = entropy(seen, y, model.coef_, model.intercept_, l2, weights)
        mine = fit.x[i].double().numpy()
        assert not mine[:, width:].any()
        assert fit.objective[i] == pytest.approx(best, rel=1e-5)
        assert entropy(seen, y, mine[:, 1:width], mine[:, 0], l2, weights) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("held", [2**28, 0])
def test_factors_of_prefixes_multiply_as_kernels(monkeypatch, held):
    monkeypatch.setattr("probecache.analyze.probes.optim.kernel_problem.HELD", held)
    columns = torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    found = list(prefix_factors(columns, [40, 7, 25, 40]))
    assert [len(factor) for factor in found] == [60, 60, 7]  # 60 rows: kernels, and few columns themselves
    for factor, k in zip(found, (40, 25, 7), strict=True):
        kernel = factor if len(factor) == 60 else factor.T @ factor
        torch.testing.assert_close(kernel, columns[:k].T @ columns[:k], rtol=1e-4, atol=1e-4)


def test_what_it_leaves_is_said_not_to_have_converged():
    x, y = scarce()
    panels = Panels(x, None, None, torch.device("cpu"), [np.arange(90)], keep=True)
    zero = torch.zeros(1, dtype=torch.int64)
    batch = Batch(panels, zero, zero + 91, torch.tensor([1e-6]).double(), indicator(torch.from_numpy(y), 4))
    fit = fit_in_kernel_form(batch, tol=1e-8, max_iter=2, search=torch.float32)
    assert not fit.converged.any()


def test_a_block_of_few_rows_meets_lbfgs(monkeypatch):
    x, y = scarce(n=150, d=100, offset=3.0)
    task, order = Task(x[:120], y[:120], x[120:], y[120:]), permutation(100, 0)[None]
    sizes, l2s = np.array([3, 30, 100]), np.array([1e-4, 1e-2])
    assert task_moments(task).is_scarce
    kernel = fit_block(task, order, sizes, l2s, tol=1e-6)
    monkeypatch.setattr("probecache.analyze.probes.optim.kernel_newton.MOST_ROWS", 0)
    plain = fit_block(task, order, sizes, l2s, tol=1e-6)
    assert kernel.converged.all()
    np.testing.assert_allclose(kernel.objective, plain.objective, rtol=2e-5)
    assert (kernel.n_iter != plain.n_iter).any()


def few_rows():
    x, y = scarce()
    return Task(x, y, x[:30], y[:30]), np.arange(90)[None], np.array([90, 60, 20])


def test_penalties_fitted_together_end_where_each_does_alone_in_fewer_products():
    task, order, ks = few_rows()
    l2s = np.geomspace(1e-5, 1, 6)
    both = fit_block(task, order, ks, l2s, device="cpu")
    alone = [fit_block(task, order, ks, l2s[i : i + 1], device="cpu") for i in range(len(l2s))]
    assert both.converged.all()
    np.testing.assert_allclose(both.objective, np.concatenate([a.objective for a in alone], 2), rtol=1e-5)
    assert both.n_iter.sum() < 0.9 * sum(a.n_iter.sum() for a in alone)


def test_what_kernel_form_leaves_is_all_that_goes_to_lbfgs(monkeypatch):
    task, order, ks = few_rows()
    l2s, seen = np.array([1e-4, 1e-2]), []
    right = fit_block(task, order, ks, l2s, device="cpu", return_coef=True)

    def leaves_one(batch, **how):
        found = fit_in_kernel_form(batch, **how)
        found.converged[3] = False
        found.x[3, :, :61] += 1  # its columns
        return found

    def told(batch, *given, **how):
        seen.append(len(batch.l2))
        return fit_logistic(batch, *given, **how)

    monkeypatch.setattr(logistic.kernel_newton, "fit_in_kernel_form", leaves_one)
    monkeypatch.setattr(logistic, "fit_logistic", told)
    found = fit_block(task, order, ks, l2s, device="cpu", return_coef=True)
    assert seen == [1]
    assert found.converged.all()
    np.testing.assert_allclose(found.objective, right.objective, rtol=2e-5)
    np.testing.assert_allclose(found.coef, right.coef, atol=0.2)


@pytest.mark.parametrize("tol", [1e-3, 5e-6])
@pytest.mark.parametrize("together", [True, False])
def test_every_penalty_ends_within_tol_of_the_minimum_also_where_classes_are_rare(tol, together):
    rng = np.random.default_rng(3)
    y = np.concatenate([np.repeat(np.arange(6), 2), np.arange(148) % 2])  # four classes have two rows
    x = (0.4 * rng.normal(size=(6, 200))[y] + rng.normal(size=(160, 200))).astype(np.float32)
    task, order, ks = Task(x, y, x[:9], y[:9]), rng.permutation(200), np.array([110, 200])
    path = np.array([1e-4, 1e-2, 1.0, 10.0])
    fits = [path] if together else path[:, None]
    found = [fit_block(task, order[None], ks, l2s, tol=tol, device="cpu") for l2s in fits]
    assert all(one.converged.all() for one in found)
    objective = np.concatenate([one.objective[0] for one in found], axis=1)  # (size, penalty)
    z = (x.astype(np.float64) - x.mean(0, dtype=np.float64)) / x.std(0, dtype=np.float64)
    for (f, p), mine in np.ndenumerate(objective):
        seen = z[:, order[: ks[f]]]
        model = LogisticRegression(C=1 / (path[p] * 160), tol=1e-9, max_iter=10_000, solver="newton-cg")
        model.fit(seen, y)
        best = entropy(seen, y, model.coef_, model.intercept_, path[p], None)
        assert mine <= best * (1 + 1.2 * tol) + 1e-7 * best
