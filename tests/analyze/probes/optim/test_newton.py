"""Newton's method for small probes against autograd, scikit-learn, and the fits that L-BFGS leaves behind."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.fit import fit_block
from probecache.analyze.probes.optim.cross_entropy import indicator, n_outputs
from probecache.analyze.probes.optim.newton import Problem, newton
from probecache.analyze.tasks.task import Task


def problem(classes, weighted, l2=1e-3, n=90, d=4, spread=0.7):
    rng = np.random.default_rng(classes)
    y = np.arange(n) % classes
    x = (rng.normal(size=(classes, d))[y] + spread * rng.normal(size=(n, d))).astype(np.float32)
    weights = rng.uniform(0.1, 3, size=n).astype(np.float32) if weighted else None
    panels = Panels(x, None, None, torch.device("cpu"), rows=32, keep=True)  # several panels
    truth = indicator(torch.from_numpy(y), n_outputs(classes))
    whole = Problem(panels, 0, 1 + d, l2, truth, None if weights is None else torch.from_numpy(weights))
    return whole, x, y, weights


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_and_hessian_are_autograds(classes, weighted):
    whole, x, y, weights = problem(classes, weighted)
    design = torch.from_numpy(np.concatenate([np.ones((len(x), 1)), x.astype(float)], axis=1))
    share = torch.ones(len(x)).double() if weights is None else torch.from_numpy(weights).double()

    def objective(flat):
        w = flat.view(len(whole.truth), -1)
        logits = design @ w.T
        if classes == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="none")
        return (share * loss).sum() / share.sum() + 0.5 * whole.l2 * w[:, 1:].square().sum()

    at = torch.from_numpy(np.random.default_rng(0).normal(size=(len(whole.truth), whole.width)))
    value, gradient, hessian = whole.expand(at)
    flat = at.flatten()
    assert value == pytest.approx(float(objective(flat)), rel=1e-12)
    torch.testing.assert_close(gradient.flatten(), torch.autograd.functional.jacobian(objective, flat))
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(objective, flat))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_minimum_is_scikit_learns(classes, weighted):
    whole, x, y, weights = problem(classes, weighted)
    start = torch.full((len(whole.truth), whole.width + 3), 2.0)  # wider than the probe, and far away
    found, used, converged = newton(whole, start, 1e-12)
    total = len(x) if weights is None else weights.sum()
    peer = LogisticRegression(C=1 / (whole.l2 * total), tol=1e-10, max_iter=10_000).fit(
        x.astype(float), y, sample_weight=weights
    )
    assert converged
    assert used < 60
    got = found[:, 1 : whole.width].numpy()
    np.testing.assert_allclose(got - got.mean(axis=0) if classes > 2 else got, peer.coef_, atol=1e-4)
    assert not found[:, whole.width :].any()


def test_few_neurons_that_separate_many_classes_converge():
    """Rows like a few principal components: scales apart, classes nearly separated. L-BFGS alone has not
    converged after 500 evaluations with 3 of them."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 40
    scales = np.geomspace(30, 3, 12)
    x = ((rng.normal(size=(40, 12))[y] + 0.1 * rng.normal(size=(400, 12))) * scales).astype(np.float32)
    plain = Task(x, y, x, y, mean=np.zeros(12, np.float32), scale=np.ones(12, np.float32))
    ks, order = np.array([3, 6, 12]), np.arange(12)[None]
    got = fit_block(plain, order, ks, np.array([1e-5]), device="cpu", return_coef=True)
    best = fit_block(plain, order, ks, np.array([1e-5]), device="cpu", tol=1e-9, max_iter=20_000)
    assert got.converged.all()
    assert ((got.objective - best.objective) / best.objective).max() <= 1e-4
    for f, k in enumerate(ks):
        logits = x[:, :k] @ got.coef[0, f, 0, :, :k].T.astype(float) + got.intercept[0, f, 0]
        loss = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1))
        loss += logits.max(axis=1) - logits[np.arange(400), y]
        square = (got.coef[0, f, 0].astype(float) ** 2).sum()
        assert got.objective[0, f, 0] == pytest.approx(loss.mean() + 0.5e-5 * square, rel=1e-4)


@pytest.mark.parametrize(("n", "d", "l2"), [(400, 10, 1e-8), (1000, 20, 1e-6)])
def test_sharp_probabilities_leave_the_hessian_a_factor(n, d, l2):
    """Where most probabilities are 0 or 1, rounding along a shift of all intercepts is more than a
    millionth of a millionth of the mean diagonal."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % d
    x = 4 * rng.normal(size=(d, d))[y] * 3 / np.sqrt(d) + rng.normal(size=(n, d))
    panels = Panels(x.astype(np.float32), None, None, torch.device("cpu"), keep=True)
    whole = Problem(panels, 0, 1 + d, l2, indicator(torch.from_numpy(y), d))
    start = torch.zeros(d, 1 + d)
    found, used, converged = newton(whole, start, 1e-9)
    assert converged
    assert used < 60
    assert whole.expand(found.double())[1].norm() <= 1e-5 * whole.expand(start.double())[1].norm()


def test_margins_of_two_classes_beyond_20_keep_their_loss():
    whole, x, y, _ = problem(2, False)
    at = torch.from_numpy(np.random.default_rng(0).normal(size=(1, whole.width))) * 20
    z = at[0, 0].item() + x.astype(float) @ at[0, 1:].numpy()
    assert np.abs(z).max() > 30
    right = np.sign(z) == 2 * y - 1
    kept = torch.from_numpy(right.astype(np.float32))
    loss = np.logaddexp(0, -np.abs(z[right])).sum()
    only = Problem(whole.panels, 0, whole.width, 0.0, whole.truth, kept)
    assert only.expand(at)[0] * right.sum() == pytest.approx(loss, rel=1e-12)
