"""The compact L-BFGS direction against the two loops, and the gap against problems whose gap is known."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probecache.analyze.probes.fit import fit_block
from probecache.analyze.probes.lbfgs.gap_estimate import SLOW
from probecache.analyze.probes.lbfgs.history import LENGTH, History
from probecache.analyze.probes.lbfgs.lock_step import lbfgs
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.tasks.task import Task


def two_loops(g, pairs, precondition):
    """L-BFGS by definition (Nocedal 1980), float64; pairs newest first."""
    q, alphas = g.copy(), []
    for s, y in pairs:
        alphas.append((s @ q) / (s @ y))
        q -= alphas[-1] * y
    ratios = [(s @ y) / (y @ (precondition * y)) for s, y in pairs[:3]]
    q = sorted(ratios)[(len(ratios) - 1) // 2] * precondition * q
    for (s, y), alpha in zip(reversed(pairs), reversed(alphas), strict=True):
        q += s * (alpha - (y @ q) / (s @ y))
    return -q


def quadratic(rng, m, size):
    """m problems 1/2 (x - c)' H (x - c), H = A A' / size + 1/10, stacked."""
    a = rng.normal(size=(m, size, size))
    return a @ a.swapaxes(1, 2) / size + 0.1 * np.eye(size), rng.normal(size=(m, size))


@settings(max_examples=25, deadline=None)
@given(pushes=st.integers(1, LENGTH + 3), seed=st.integers(0, 1000))
def test_directions_are_those_of_the_two_loops(pushes, seed):
    rng = np.random.default_rng(seed)
    hessian, _ = quadratic(rng, 3, 12)
    precondition = rng.uniform(0.5, 2, size=12)
    history = History.empty(torch.zeros(3, 4, 3))
    pairs = [[] for _ in range(3)]
    for _ in range(pushes):
        s = rng.normal(size=(3, 12)).astype(np.float32)
        y = np.einsum("mij,mj->mi", hessian, s).astype(np.float32)
        v = (precondition * y).astype(np.float32)
        step, change, scaled = (torch.from_numpy(a).view(3, 4, 3) for a in (s, y, v))
        history.push(step, change, scaled, torch.ones(3))
        for m in range(3):
            pairs[m] = [(s[m].astype(float), y[m].astype(float)), *pairs[m]][:LENGTH]
    g = rng.normal(size=(3, 12)).astype(np.float32)
    solved = torch.from_numpy((precondition * g).astype(np.float32)).view(3, 4, 3)
    got = history.direction(torch.from_numpy(g).view(3, 4, 3), solved)[0].view(3, 12).numpy()
    for m in range(3):
        want = two_loops(g[m].astype(float), pairs[m], precondition)
        np.testing.assert_allclose(got[m], want, rtol=2e-3, atol=2e-3 * np.abs(want).max())


def test_pairs_under_another_preconditioner_are_those_it_would_have_given():
    rng = np.random.default_rng(0)
    hessian, _ = quadratic(rng, 2, 6)
    old, new = (torch.from_numpy(rng.uniform(0.5, 2, size=6).astype(np.float32)) for _ in range(2))
    kept, fresh = History.empty(torch.zeros(2, 6)), History.empty(torch.zeros(2, 6))
    for _ in range(LENGTH + 2):
        s = torch.from_numpy(rng.normal(size=(2, 6)).astype(np.float32))
        y = torch.einsum("mij,mj->mi", torch.from_numpy(hessian).float(), s)
        kept.push(s, y, old * y, torch.ones(2))
        fresh.push(s, y, new * y, torch.ones(2))
    kept.solve_again(lambda changes, which: new * changes, torch.Size((2, 6)))
    g = torch.ones(2, 6)
    got, want = kept.direction(g, new * g), fresh.direction(g, new * g)
    torch.testing.assert_close(got.vector, want.vector, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.left, want.left, rtol=1e-4, atol=1e-5)


def test_a_pair_without_curvature_is_skipped_for_its_problem_only():
    history = History.empty(torch.zeros(2, 3))
    s = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    y = torch.tensor([[2.0, 0, 0], [-2.0, 0, 0]])  # the second problem's curvature is negative
    history.push(s, y, y, torch.ones(2))
    g = torch.ones(2, 3)
    got = history.direction(g, g).vector
    np.testing.assert_allclose(got[0].numpy(), [-0.5, -0.5, -0.5], rtol=1e-6)
    np.testing.assert_allclose(got[1].numpy(), [-1, -1, -1], rtol=1e-6)


def test_put_and_pick_keep_each_problem_its_own_pairs():
    rng = np.random.default_rng(0)
    whole = History.empty(torch.zeros(4, 5))
    for _ in range(LENGTH + 2):
        s = torch.from_numpy(rng.normal(size=(4, 5)).astype(np.float32))
        whole.push(s, 2 * s, 2 * s, torch.ones(4))
    again = History.empty(torch.zeros(4, 5))
    for rows in ([2], [0, 3], [1]):
        again.put(torch.tensor(rows), whole.pick(torch.tensor(rows)))
    g = torch.from_numpy(rng.normal(size=(4, 5)).astype(np.float32))
    torch.testing.assert_close(again.direction(g, g), whole.direction(g, g))


def test_what_is_left_is_the_gap_where_pairs_span_everything_and_counts_the_softest_where_they_do_not():
    rng = np.random.default_rng(3)
    hessian = np.diag([4.0, 2.0, 1.0, 0.25])
    history = History.empty(torch.zeros(1, 4))
    for i in range(4):
        s = torch.zeros(1, 4)
        s[0, i] = float(rng.uniform(0.5, 2))
        y = s @ torch.from_numpy(hessian).float()
        history.push(s, y, y, torch.ones(1))  # preconditioned by nothing
        g = torch.from_numpy(rng.normal(size=(1, 4)).astype(np.float32))
        left = history.direction(g, g).left
        softest = 1 / hessian[i, i]  # of the pairs so far: each is softer than the one before
        inverse = np.array([*(1 / np.diag(hessian)[: i + 1]), *[softest] * (3 - i)])
        gap = 0.5 * float(inverse @ g.double().numpy()[0] ** 2)
        np.testing.assert_allclose(float(left), gap, rtol=0.1)


def test_the_softest_direction_of_a_span_is_softer_than_that_of_any_pair():
    rng = np.random.default_rng(4)
    hessian, _ = quadratic(rng, 1, 12)
    precondition = rng.uniform(0.5, 2, size=12)
    history, changes = History.empty(torch.zeros(1, 12)), []
    for _ in range(4):
        s = rng.normal(size=12)
        changes.append(hessian[0] @ s)
        step, y, v = (torch.from_numpy(a).float()[None] for a in (s, changes[-1], precondition * changes[-1]))
        history.push(step, y, v, torch.ones(1))
    span = np.array(changes).T
    soft = span.T @ np.linalg.inv(hessian[0]) @ span
    exact = scipy.linalg.eigh(soft, span.T @ (precondition[:, None] * span), eigvals_only=True)[-1]
    history.direction(torch.ones(1, 12), torch.ones(1, 12))
    assert max(np.diag(soft) / np.diag(span.T @ (precondition[:, None] * span))) < 0.9 * exact
    assert 0.8 * exact <= float(history.softest) <= 1.35 * exact


def test_the_fewer_the_pairs_the_less_they_are_believed():
    """As measured on ten classes, whose true gap is 1.9 times what three pairs tell, 1.4 times with five."""
    rng = np.random.default_rng(2)
    told = []
    for count in (3, 5, 8, 20):
        history = History.empty(torch.zeros(1, 40))
        for _ in range(count):
            s = torch.from_numpy(rng.normal(size=(1, 40))).float()
            history.push(s, s, s, torch.full((1,), torch.nan, dtype=torch.float64))
        told.append(float(history.gap(torch.zeros(1).double(), torch.ones(1).double())))
    assert told == pytest.approx([1.85, 1.35, 1.0, 1.5])


def test_the_estimated_gap_is_the_gap_of_ill_conditioned_problems():
    rng = np.random.default_rng(1)
    values = torch.from_numpy(np.geomspace(1, 1e-4, 200)).double()
    target = torch.from_numpy(rng.normal(size=(6, 200)))

    def evaluate(x, which):
        away = x.double() - target[which]
        return 1 + 0.5 * (values * away**2).sum(dim=1), (values * away).float()

    for tol in (1e-3, 1e-4, 1e-5):
        found = lbfgs(evaluate, lambda g, which: g, torch.zeros(6, 200), tol, 500)
        assert found.converged.all()
        assert (found.objective - 1).max() <= 15 * tol  # an estimate, not a bound
        assert (found.objective - 1).max() >= tol / 100  # and it does not go on for nothing


def gaps(task, ks, l2):
    """Relative gaps of default fits to fits at a tolerance a thousand times finer, and that all converged."""
    order, ks = permutation(task.n_neurons, 0)[None], np.array(ks)
    got = fit_block(task, order, ks, np.array([l2]), device="cpu")
    best = fit_block(task, order, ks, np.array([l2]), device="cpu", tol=5e-9, max_iter=3000)
    assert got.converged.all()
    return ((got.objective - best.objective) / best.objective).ravel()


def mixture(n, d, classes, spread, weights=None, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n + 100) % classes  # periodic, as data sets often are
    x = (rng.normal(size=(classes, d))[y] + spread * rng.normal(size=(n + 100, d))).astype(np.float32)
    return Task(x[:n], y[:n], x[n:], y[n:], weights=weights)


@pytest.mark.parametrize(
    ("task", "ks", "l2"),
    [
        (mixture(6000, 16, 60, 1.5), [1, 2, 4, 16], 1e-4),  # more classes than neurons
        (mixture(500, 300, 5, 2.0), [10, 100, 300], 1e-6),  # few rows: nearly separable
        (mixture(66_000, 12, 4, 2.0), [3, 12], 1e-4),  # more rows than the pilot reads
        (mixture(3000, 30, 5, 2.0, weights=np.full(3000, 1e-4)), [10, 30], 1e-4),
    ],
    ids=["many classes", "few rows", "many rows", "small weights"],
)
def test_what_converged_is_near_the_minimum(task, ks, l2):
    assert gaps(task, ks, l2).max() <= 1e-4


def test_few_rows_of_columns_that_are_nearly_alike():
    """Random projections share one direction. Plain L-BFGS is slow, and stops 2e-3 above the minimum."""
    task, rng = mixture(500, 300, 5, 2.0), np.random.default_rng(1)
    strength = np.exp(rng.normal(size=(600, 1))).astype(np.float32)
    active = np.maximum(np.concatenate([task.train, task.test]), 0) * strength
    rows = active @ rng.uniform(size=(300, 300)).astype(np.float32)
    alike = Task(rows[:500], task.train_labels, rows[500:], task.test_labels)
    assert gaps(alike, [60, 150, 300], 1e-4).max() <= 1e-4


def test_what_is_left_by_the_mean_of_two_directions_is_less_and_goes_with_the_pairs():
    rng = np.random.default_rng(2)
    hessian, _ = quadratic(rng, 2, 12)
    told, between = History.empty(torch.zeros(2, 12)), History.empty(torch.zeros(2, 12))
    between.between = True
    for _ in range(4):
        s = rng.normal(size=(2, 12))
        y = np.einsum("mij,mj->mi", hessian, s)
        for history in (told, between):
            step, change = torch.from_numpy(s).float(), torch.from_numpy(y).float()
            history.push(step, change, change, torch.ones(2))
    g = torch.from_numpy(rng.normal(size=(2, 12))).float()
    for other in (
        between,
        between.pick(torch.tensor([1, 0])).of_another(),
        History.empty(torch.zeros(2, 12)),
    ):
        if not other.order:
            other.put(torch.arange(2), between)
        assert other.between
    (direction, _, most, _), (same, _, less, _) = told.direction(g, g), between.direction(g, g)
    torch.testing.assert_close(direction, same)
    assert bool((less < most).all())
    exact = 0.5 * np.einsum("mi,mi->m", g.numpy(), np.linalg.solve(hessian, g.numpy()[..., None])[..., 0])
    assert (exact < between.gap(torch.ones(2, dtype=torch.float64), less).numpy()).all()


def test_the_mean_of_two_directions_is_believed_less_with_each_step_and_never_without_the_decrements():
    told, one = History.empty(torch.zeros(1, 40)), torch.ones(1, dtype=torch.float64)
    told.between = True
    rng = np.random.default_rng(0)

    def push(decrement):
        s = torch.from_numpy(rng.normal(size=(1, 40))).float()
        told.push(s, s, s, torch.full((1,), decrement, dtype=torch.float64))

    for _ in range(LENGTH):  # of another problem
        push(torch.nan)
    gaps = [float(told.gap(1e-3 * one, one))]
    for _ in range(3):
        push(1e-3)
        gaps.append(float(told.gap(1e-3 * one, one)))
    assert gaps == pytest.approx([1.5, 2.0, 2.5, 3.0])
    assert float(told.gap(1e-3 * one, 0 * one)) == pytest.approx(3 * 1e-3 / (1 - 0.98))  # they do not shrink
    few = History.empty(torch.zeros(1, 40))
    few.between = True
    ones = torch.ones(1, 40)
    few.push(ones, ones, ones, torch.full((1,), torch.nan, dtype=torch.float64))
    assert float(few.gap(one, 0 * one)) == pytest.approx(20.0)  # few pairs, no decrements: slow until shown


def test_a_slow_problem_ends_near_the_gap_it_was_asked_for():
    """Curvatures from 1 to 1e-4: 86 steps, whose estimates swing. Where the first one below tol is believed,
    the true gap is up to 2.8 times tol."""
    curvature = torch.logspace(0, -4, 400)
    for seed in range(3):
        minimum = torch.randn(8, 1, 400, generator=torch.Generator().manual_seed(seed))

        def evaluate(x, which, minimum=minimum):
            away = x - minimum[which]
            return 1 + 0.5 * (away.double().square() * curvature).sum(dim=(1, 2)), away * curvature

        found = lbfgs(evaluate, lambda g, which: g.clone(), torch.zeros(8, 1, 400), 1e-3, 1000)
        assert found.converged.all()
        assert found.n_iter.min() > SLOW
        assert float((found.objective - 1).max()) < 1.6e-3
