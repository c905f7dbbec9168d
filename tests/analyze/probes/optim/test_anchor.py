"""Steps near a float32 pass, and the fit that takes them, against float64 by definition and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.optim.anchor import anchor
from probecache.analyze.probes.optim.cross_entropy import indicator, n_outputs
from probecache.analyze.probes.optim.fit_logistic import arithmetic, fit_logistic
from probecache.analyze.probes.optim.multinomial import Arithmetic, Batch
from probecache.analyze.probes.precondition.preconditioner import Preconditioner, cholesky

WIDTHS, L2 = [31, 21, 6], 1e-3
CPU = torch.device("cpu")


def make(classes: int, weighted: bool, rows: int = 600) -> tuple[Batch, np.ndarray, np.ndarray]:
    """Nested probes on two column orders; the columns and the labels."""
    rng = np.random.default_rng(classes)
    labels = np.arange(rows) % classes
    x = (rng.normal(size=(classes, 30))[labels] + 1.5 * rng.normal(size=(rows, 30))).astype(np.float32)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    orders = [np.arange(30), rng.permutation(30)]
    weights = torch.from_numpy(rng.random(rows).astype(np.float32)) if weighted else None
    batch = Batch(
        Panels(x, None, None, CPU, orders, rows=256, keep=True),
        torch.tensor([0, 0, 0, 1, 1, 1]),
        torch.tensor(WIDTHS * 2),
        torch.full((6,), L2, dtype=torch.float64),
        indicator(torch.from_numpy(labels), n_outputs(classes)),
        weights,
    )
    return batch, x, labels


def exactly(batch: Batch, x: np.ndarray, labels: np.ndarray, weights: torch.Tensor, i: int):
    """Objective and gradient of probe i in float64, by autograd."""
    order = batch.panels.orders[int(batch.groups[i])][: int(batch.widths[i]) - 1]
    w = weights[:, : 1 + len(order)].double().requires_grad_()
    z = torch.from_numpy(x[:, order]).double() @ w[:, 1:].T + w[:, 0]
    z = torch.cat([torch.zeros_like(z), z], dim=1) if z.shape[1] == 1 else z
    each = torch.nn.functional.cross_entropy(z, torch.from_numpy(labels), reduction="none")
    share = torch.ones(len(each)) if batch.weights is None else batch.weights
    value = (each * share).sum() / share.double().sum() + L2 / 2 * w[:, 1:].square().sum()
    (gradient,) = torch.autograd.grad(value, w)
    return float(value.detach()), gradient


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 5, 40, 70])  # 70 weight vectors: logits are rounded, in place
def test_near_an_anchor_the_difference_alone_is_rounded(classes, weighted):
    batch, x, labels = make(classes, weighted)
    probes = torch.tensor([0, 1, 3, 5])
    generator = torch.Generator().manual_seed(1)
    point = 0.3 * torch.randn(4, n_outputs(classes), batch.width, generator=generator) * batch.mask[probes]
    here = anchor(batch, probes, point)
    for i, probe in enumerate(probes.tolist()):
        value, gradient = exactly(batch, x, labels, point[i], probe)
        assert float(here.objective[i]) == pytest.approx(value, rel=1e-6)
        torch.testing.assert_close(
            here.gradient[i, :, : gradient.shape[1]].double(), gradient, rtol=1e-4, atol=1e-6
        )
    which = torch.tensor([1, 3])  # of the anchor's, one of each order
    for size in (1e-1, 1e-3):
        step = size * torch.randn(2, *point.shape[1:], generator=generator) * batch.mask[probes[which]]
        step = step.bfloat16().float()
        objective, found = here.near(step, which, Arithmetic(torch.bfloat16))
        for j, i in enumerate(which.tolist()):
            value, gradient = exactly(batch, x, labels, point[i] + step[j], int(probes[i]))
            mine = found[j, :, : gradient.shape[1]].double()
            moved = (gradient - here.gradient[i, :, : gradient.shape[1]].double()).norm()
            assert (mine - gradient).norm() < 2**-8 * moved + 1e-6
            assert float(objective[j]) == pytest.approx(value, abs=1e-2 * size)
            assert (found[j, :, gradient.shape[1] :] == 0).all()


@pytest.mark.parametrize("search", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 5, 40])
def test_a_fit_reaches_the_minimum_whatever_the_search_multiplies_in(classes, search):
    batch, x, labels = make(classes, weighted=False)
    design = np.concatenate([np.ones((len(x), 1), np.float32), x], axis=1)
    factors = []
    for order in batch.panels.orders:
        columns = design[:, np.concatenate([[0], order + 1])].astype(float)
        gram = torch.from_numpy(columns.T @ columns / len(x))
        factors.append(cholesky(gram[None] / max(classes, 4), L2, most=1e-2).float())
    start = torch.zeros(6, n_outputs(classes), batch.width)
    found = fit_logistic(
        batch,
        Preconditioner(factors, batch.groups, batch.mask),
        start,
        tol=1e-9,
        max_iter=500,
        search=search,
    )
    assert found.converged.all()
    for i in range(6):
        order = batch.panels.orders[int(batch.groups[i])][: int(batch.widths[i]) - 1]
        model = LogisticRegression(C=1 / (L2 * len(x)), solver="newton-cg", tol=1e-9, max_iter=1000)
        model.fit(x[:, order].astype(float), labels)
        weights = np.concatenate([model.intercept_[:, None], model.coef_], axis=1)
        best, _ = exactly(batch, x, labels, torch.from_numpy(weights), i)
        reached, gradient = exactly(batch, x, labels, found.x[i], i)
        assert reached == pytest.approx(best, rel=1e-8)
        assert float(found.objective[i]) == pytest.approx(reached, rel=1e-6)
        assert float(found.grad_norm[i]) == pytest.approx(float(gradient.norm()), abs=1e-5)


def test_evaluations_beyond_the_limit_are_not_made():
    batch, _, _ = make(5, weighted=False)
    nothing = Preconditioner([None], torch.zeros(6, dtype=torch.int64), batch.mask)
    start = torch.zeros(6, 5, batch.width)
    found = fit_logistic(batch, nothing, start, tol=1e-12, max_iter=4, search=torch.bfloat16)
    assert not found.converged.any()
    assert (found.n_iter <= 2 * 4 + 2).all()  # of the search and of the finish, and the passes that report


@pytest.mark.parametrize(("classes", "tol"), [(10, 5e-6), (10, 1e-3), (40, 5e-6)])
def test_logits_keep_float32_sums_where_rounded_ones_would_spoil_the_gap(classes, tol):
    batch, _, _ = make(classes, weighted=False)
    how = arithmetic(batch, tol, torch.bfloat16)
    assert (how.dtype, how.summed) == (torch.bfloat16, (classes, tol) == (10, 5e-6))
    which, generator = torch.tensor([0, 1, 4]), torch.Generator().manual_seed(0)
    weights = torch.randn(3, classes, batch.width, generator=generator).bfloat16().float()
    weights *= batch.mask[which]
    loss, gradient = batch.evaluate(weights, which, how)
    exact = batch.evaluate(weights, which)
    torch.testing.assert_close(loss, exact[0], rtol=2e-3, atol=0)
    assert (gradient - exact[1]).norm() < 2e-2 * exact[1].norm()
