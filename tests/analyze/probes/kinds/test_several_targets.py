"""Two-class targets over the same rows share one batch, and each comes out as it does alone."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probecache.analyze.probes.fit import fit_block, task_moments
from probecache.analyze.probes.optim import path, start
from probecache.analyze.tasks.task import Task

SIZES, ORDERS = np.array([4, 11, 24]), np.stack([np.random.default_rng(s).permutation(24) for s in range(2)])


def attributes(seed=0, n=900, d=24, spread=(1.0, 0.3, 0.02)):
    """Features and attributes, from noisy to nearly separable."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, d)) @ rng.normal(size=(d, d))).astype(np.float32)
    values = x @ rng.normal(size=(d, len(spread)))
    values += values.std(axis=0) * spread * rng.normal(size=values.shape)
    return x, (values > np.quantile(values, 0.4, axis=0)).astype(np.int64)


def entropy(x, y, coef, intercept, l2):
    z = (x @ coef + intercept) * (1 - 2 * y)
    return np.logaddexp(0, z).mean() + l2 / 2 * (coef**2).sum()


@pytest.mark.parametrize("patience", [40, 2])  # after two evaluations, most are left to class Grams
@pytest.mark.parametrize("weighted", [False, True])
def test_labels_together_are_labels_alone(monkeypatch, patience, weighted):
    monkeypatch.setattr(path, "PLAIN_TOGETHER", patience)
    x, y = attributes()
    weights = np.random.default_rng(1).integers(0, 3, 600).astype(float) if weighted else None
    whole = Task(x[:600], y[:600], x[600:], y[600:], weights=weights)
    l2s, how = np.array([1e-3, 1e-1]), {"device": "cpu", "return_coef": True, "return_predictions": True}
    found = fit_block(whole, ORDERS, SIZES, l2s, **how)
    assert found.converged.all()
    z = (x[:600] - whole.mean) / whole.scale
    w = np.ones(600) if weights is None else weights
    best = np.zeros(found.objective.shape)
    for label in range(3):
        alone = fit_block(
            Task(x[:600], y[:600, label], x[600:], y[600:, label], weights=weights), ORDERS, SIZES, l2s, **how
        )
        best += alone.objective
        differ = found.predictions[..., label, :] != alone.predictions
        assert differ.mean() < 2e-3  # samples on the boundary
    np.testing.assert_allclose(found.objective, best, rtol=2e-5)
    columns = ORDERS[1][:11]
    for label in range(3):
        model = LogisticRegression(C=1 / (l2s[0] * w.sum()), tol=1e-10, max_iter=10_000)
        model.fit(z[:, columns], y[:600, label], sample_weight=w)
        np.testing.assert_allclose(found.coef[1, 1, 0, label, :11], model.coef_[0], atol=2e-2)


def test_a_single_attribute_left_to_its_class_gram(monkeypatch):
    x, y = attributes(seed=2)
    task = Task(x[:600], y[:600, 2], x[600:], y[600:, 2])
    how = {"l2s": np.array([1e-4]), "device": "cpu", "tol": 1e-7}
    shared = task_moments(task, device="cpu")
    plain = fit_block(task, ORDERS, SIZES, shared=shared, **how)
    monkeypatch.setattr(path, "ROUGHLY", (2, 2))
    again = fit_block(task, ORDERS, SIZES, shared=shared, **how)
    monkeypatch.setattr(path, "PLAIN", 2)
    monkeypatch.setattr(path, "search_dtype", lambda device: torch.float32)
    curved = fit_block(task, ORDERS, SIZES, shared=shared, **how)
    assert shared.curvatures
    for found in (plain, again, curved):
        assert found.converged.all()
        np.testing.assert_allclose(found.objective, curved.objective, rtol=1e-6)


def test_far_penalties_of_two_classes_in_lock_step_are_scikit_learns():
    x, y = attributes(seed=4)
    task = Task(x[:600], y[:600, 1], x[600:], y[600:, 1])
    l2s = np.array([1e-3, 1e-1, 10.0])
    found = fit_block(task, ORDERS, SIZES, l2s, device="cpu", tol=1e-7)
    assert found.converged.all()
    for (s, f, p), objective in np.ndenumerate(found.objective):
        columns, l2 = ORDERS[s][: SIZES[f]], l2s[p]
        z = ((x[:600] - task.mean) / task.scale)[:, columns]
        model = LogisticRegression(C=1 / (l2 * 600), tol=1e-8, max_iter=1000).fit(z, y[:600, 1])
        best = entropy(z, y[:600, 1], model.coef_[0], model.intercept_, l2)
        assert objective == pytest.approx(best, rel=1e-6)


def test_a_path_starts_on_the_parabola_through_its_neighbours():
    def of(l2):
        z = np.log(l2)
        return torch.tensor([[[1 + 2 * z - 0.5 * z**2]]], dtype=torch.float64)

    far, *near = [(l2, of(l2)) for l2 in (100.0, 8.0, 4.0, 2.0)]
    np.testing.assert_allclose(start.foretold(near, 1.2), of(1.2))
    np.testing.assert_allclose(start.foretold([far, near[2]], 1.0), of(2.0))  # too far apart for a line
    assert start.foretold([far], 1.0) is None
    assert start.foretold(near, 0.0) is None
    assert start.foretold([], 1.0) is None


@pytest.mark.parametrize("hard", [path.HARD, 0])  # 0: class Grams of the solutions themselves
def test_probes_of_a_path_are_those_of_each_penalty(hard, monkeypatch):
    monkeypatch.setattr(path, "HARD", hard)
    monkeypatch.setattr(path, "REUSE", 3.0)
    x, _ = attributes()
    y = np.digitize(x[:, 0] + 0.5 * x[:, 1], [-2, 2])
    task = Task(x[:600], y[:600], x[600:], y[600:])
    l2s = np.geomspace(1e-4, 1e-1, 9)
    how = {"device": "cpu", "tol": 1e-7}
    shared = task_moments(task, device="cpu")
    together = fit_block(task, ORDERS, SIZES, l2s, shared=shared, **how)
    assert together.converged.all()
    for p, l2 in enumerate(l2s):
        alone = fit_block(task, ORDERS, SIZES, np.array([l2]), shared=shared, **how)
        np.testing.assert_allclose(together.objective[..., p], alone.objective[..., 0], rtol=2e-6)
