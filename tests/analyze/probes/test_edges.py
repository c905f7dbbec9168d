"""At the edges of arithmetic: means that hide spreads, columns twice without a penalty, unequal weights."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity

from probecache.analyze.probes.estimators import LogisticProbe
from probecache.analyze.probes.fit import fit_block
from probecache.analyze.tasks.task import Task


def blobs(n=500, d=20, classes=4, seed=0, spread=0.5):
    rng = np.random.default_rng(seed)
    y = np.r_[np.arange(classes), rng.integers(0, classes, n - classes)]
    return spread * rng.normal(size=(classes, d))[y] + rng.normal(size=(n, d)), y


def objective(x, y, coef, intercept, l2, weights=None, probe="logistic"):
    z = x @ coef.T.astype(np.float64) + intercept
    if probe == "ridge":
        losses = np.square(np.where(np.eye(z.shape[1])[y] > 0, 1.0, -1.0) - z).sum(axis=1)
        return np.average(losses, weights=weights) + l2 * np.square(coef).sum()
    top = z.max(axis=1)
    losses = np.log(np.exp(z - top[:, None]).sum(axis=1)) + top - z[np.arange(len(y)), y]
    return np.average(losses, weights=weights) + 0.5 * l2 * np.square(coef).sum()


@pytest.mark.parametrize("offset", [30.0, 3000.0])
@pytest.mark.parametrize("probe", ["logistic", "ridge"])
def test_means_far_larger_than_spreads_change_nothing(probe, offset):
    x, y = blobs()
    x = (x + offset).astype(np.float32)
    exact = x.astype(np.float64)
    l2, order = 1e-3, np.random.default_rng(1).permutation(20)
    task = Task(x, y, x[::5], y[::5])
    options = {"probe": probe, "standardize": False, "return_coef": True}
    fit = fit_block(task, order[None], np.array([20, 7]), np.array([l2]), **options)
    for f, k in enumerate((20, 7)):
        seen = exact[:, order[:k]]
        centred = seen - seen.mean(axis=0)
        if probe == "ridge":
            targets = np.where(np.eye(4)[y] > 0, 1.0, -1.0)
            gram = centred.T @ centred / len(y) + l2 * np.eye(k)
            coef = np.linalg.solve(gram, centred.T @ targets / len(y)).T
            intercept = targets.mean(axis=0)
        else:
            model = LogisticRegression(C=1 / (l2 * len(y)), tol=1e-10, max_iter=10_000).fit(centred, y)
            coef, intercept = model.coef_, model.intercept_
        best = objective(centred, y, coef, intercept, l2, probe=probe)
        assert fit.objective[0, f, 0] == pytest.approx(best, rel=2e-5)
        # in the units of the columns as stored, offset and all
        mine = fit.coef[0, f, 0][:, :k], fit.intercept[0, f, 0]
        assert objective(seen, y, *mine, l2, probe=probe) == pytest.approx(best, rel=1e-4)
        guess = (centred[::5] @ coef.T + intercept).argmax(axis=1)
        assert fit.accuracy[0, f, 0] == pytest.approx(np.mean(guess == y[::5]), abs=0.011)
    if probe == "logistic":
        estimator = LogisticProbe(l2=l2, standardize=False).fit(exact, y)
        best = objective(exact, y, estimator.coef_, estimator.intercept_, l2)
        assert estimator.objective_ == pytest.approx(best, rel=1e-5)


def test_neighbours_by_cosine_at_an_offset_are_those_of_float64():
    x, y = blobs(n=300, d=30, classes=3, spread=0.6)
    x = (x + 1e4).astype(np.float32)
    task = Task(x[:200], y[:200], x[200:], y[200:])
    got = fit_block(
        task, np.arange(30)[None], np.array([30]), np.array([0.0]), probe="knn", standardize=False
    )
    nearest = np.argsort(-cosine_similarity(x[200:].astype(np.float64), x[:200].astype(np.float64)), axis=1)
    votes = np.stack([np.bincount(y[:200][row[:20]], minlength=3) for row in nearest])
    assert got.accuracy[0, 0, 0] == pytest.approx(np.mean(votes.argmax(axis=1) == y[200:]), abs=0.03)


@pytest.mark.parametrize("probe", ["logistic", "ridge"])
def test_columns_twice_without_a_penalty_report_what_they_return(probe):
    x, y = blobs(n=2000, d=40, spread=0.3)
    x = np.hstack([x, x[:, :25], 3 * x[:, :5] + 1]).astype(np.float32)
    task = Task(x, y, x[:50], y[:50])
    order = np.random.default_rng(2).permutation(70)
    fit = fit_block(task, order[None], np.array([70, 40]), np.array([0.0]), probe=probe, return_coef=True)
    standard = ((x - task.mean) / task.scale)[:, order].astype(np.float64)
    for f in range(2):
        found = objective(standard, y, fit.coef[0, f, 0], fit.intercept[0, f, 0], 0.0, probe=probe)
        assert fit.objective[0, f, 0] == pytest.approx(found, rel=1e-6)
        assert np.abs(fit.coef[0, f, 0]).max() < 10  # nothing that cancels
        if probe == "logistic":
            k = (70, 40)[f]
            model = LogisticRegression(C=np.inf, tol=1e-9, max_iter=10_000).fit(standard[:, :k], y)
            best = objective(standard[:, :k], y, model.coef_, model.intercept_, 0.0)
            assert found == pytest.approx(best, rel=2e-5)


def test_separable_classes_without_a_penalty_have_no_minimum():
    x, y = blobs(n=200, d=30, spread=5.0)
    x = x.astype(np.float32)
    task = Task(x, y, x[:50], y[:50])
    fit = fit_block(task, np.arange(30)[None], np.array([30]), np.array([0.0, 1e-4]))
    assert fit.converged[0, 0].tolist() == [False, True]


@pytest.mark.parametrize("seed", [0, 1])
def test_class_weights_of_one_to_a_thousand_reach_the_minimum(seed):
    x, y = blobs(n=2000, d=40, classes=5, seed=seed)
    x = x.astype(np.float32)
    task = Task(x, y, x[:50], y[:50])
    each = np.geomspace(1, 1000, 5)
    given = {str(label): float(weight) for label, weight in enumerate(each)}
    l2, weights = 1e-4, each[y]
    standard = ((x - task.mean) / task.scale).astype(np.float64)
    model = LogisticRegression(C=1 / (l2 * weights.sum()), solver="newton-cholesky", tol=1e-10, max_iter=200)
    model.fit(standard, y, sample_weight=weights)
    best = objective(standard, y, model.coef_, model.intercept_, l2, weights)
    fit = fit_block(task, np.arange(40)[None], np.array([40]), np.array([l2]), class_weight=given, tol=1e-7)
    assert fit.converged.all()
    assert fit.objective[0, 0, 0] == pytest.approx(best, rel=2e-6)


def test_a_path_of_penalties_ends_where_each_alone_does():
    x, y = blobs(n=1500, d=60, spread=0.3)
    x = x.astype(np.float32)
    task, order = Task(x, y, x[:50], y[:50]), np.random.default_rng(3).permutation(60)[None]
    sizes, path = np.array([60, 20]), np.array([2e-4, 1e-1, 5e-4, 1e-2, 1e-3])
    together = fit_block(task, order, sizes, path, tol=1e-7)
    assert together.converged.all()
    alone = [fit_block(task, order, sizes, np.array([l2]), tol=1e-7) for l2 in path]
    for p, one in enumerate(alone):
        np.testing.assert_allclose(together.objective[..., p], one.objective[..., 0], rtol=1e-6)
    # neighbours' solutions are nearer than the moments' start
    assert together.n_iter.sum() < sum(int(one.n_iter.sum()) for one in alone)


@pytest.mark.parametrize("probe", ["logistic", "ridge"])
def test_units_in_which_squares_leave_float32_change_nothing(probe):
    x, y = blobs(classes=2)
    small = x.astype(np.float32)
    units = np.exp2(np.resize([0, -107, -120, 100, 30], 20)).astype(np.float32)
    plain = fit_block(
        Task(small, y, small, y), np.arange(20)[None], np.array([20, 4]), np.array([1e-4]), probe=probe
    )
    scaled = small * units
    found = fit_block(
        Task(scaled, y, scaled, y), np.arange(20)[None], np.array([20, 4]), np.array([1e-4]), probe=probe
    )
    assert found.converged.all()
    np.testing.assert_allclose(found.objective, plain.objective, rtol=1e-5)
    np.testing.assert_allclose(found.accuracy, plain.accuracy, atol=2 / len(y))
