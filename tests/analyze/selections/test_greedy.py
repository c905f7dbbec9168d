"""The greedy orders against refitting ridge with every candidate at every step."""

import numpy as np
import pytest

import probecache as pc
from probecache.analyze.selections.greedy import centred_moments, greedy_order, target_matrix
from probecache.analyze.tasks.task import Task


def make_task(n=80, d=9, seed=0, **more):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    x = rng.normal(size=(n, d)) + labels[:, None] * np.linspace(0, 0.8, d) + 4
    x[:, 3] = x[:, 7] * 0.5 + 0.01 * rng.normal(size=n)  # nearly a copy
    return Task(x.astype(np.float32), labels, x[:20].astype(np.float32), labels[:20], **more)


def objective(task, columns, l2):
    """Ridge's objective on some columns, from the rows."""
    x = (task.train.astype(np.float64) - task.mean) / task.scale
    y = 2.0 * (task.train_labels[:, None] == np.arange(3)) - 1
    x, y = x - x.mean(0), y - y.mean(0)
    x = x[:, columns]
    w = np.linalg.solve(x.T @ x / len(x) + l2 * np.eye(x.shape[1]), x.T @ y / len(x))
    return ((y - x @ w) ** 2).sum() / len(x) + l2 * (w**2).sum()


@pytest.mark.parametrize("worst", [False, True])
def test_each_pick_is_the_best_or_worst_of_all_refits(worst):
    task, l2 = make_task(), 1e-3
    gram, cross, _ = centred_moments(task)
    order = greedy_order(gram, cross, l2=l2, worst=worst)
    assert sorted(order) == list(range(9))
    chosen: list[int] = []
    for pick in order:
        rest = [j for j in range(9) if j not in chosen]
        values = [objective(task, [*chosen, j], l2) for j in rest]
        want = max(values) if worst else min(values)
        assert objective(task, [*chosen, pick], l2) == pytest.approx(want, rel=1e-9)
        chosen.append(int(pick))


def test_best_starts_above_worst_and_a_constant_column_is_a_worst_one():
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 2
    x = rng.normal(size=(60, 5))
    x[:, 2] += 3 * labels
    x[:, 4] = 7.0
    task = Task(x.astype(np.float32), labels, x.astype(np.float32), labels)
    gram, cross, _ = centred_moments(task)
    assert greedy_order(gram, cross)[0] == 2
    worst = greedy_order(gram, cross, worst=True)
    assert (worst[0], worst[-1]) == (4, 2)


def test_moments_are_weighted_means():
    rng = np.random.default_rng(2)
    weights = rng.uniform(0.5, 2, 80)
    task = make_task(weights=weights)
    gram, cross, mean = centred_moments(task)
    x = (task.train.astype(np.float64) - task.mean) / task.scale
    y = target_matrix(task.train_labels, 3)
    x, centred = x - np.average(x, 0, weights), y - np.average(y, 0, weights)
    np.testing.assert_allclose(gram, (x * weights[:, None]).T @ x / weights.sum(), atol=1e-12)
    np.testing.assert_allclose(cross, (x * weights[:, None]).T @ centred / weights.sum(), atol=1e-12)
    np.testing.assert_allclose(mean, np.average(y, 0, weights))
    assert target_matrix(np.array([0.5, 2.0]), 0).tolist() == [[0.5], [2.0]]


def test_a_sweep_takes_the_orders_as_selections_beside_random(tmp_path):
    rng = np.random.default_rng(3)
    y = np.arange(240) % 3
    x = rng.normal(size=(240, 30))
    x[:, 11] += 2 * (y == 0)
    x[:, 4] += 2 * (y == 1)
    for split, rows in (("train", slice(0, 120)), ("test", slice(120, 240))):
        store = pc.write_arrays(
            tmp_path / "s", split=split, layer="l", activations=x[rows].astype("f4"), labels=y[rows]
        )
    results = pc.sweep(
        store,
        layer="l",
        fractions=[2 / 30, 1.0],
        seeds=2,
        selection=["random", "greedy", "greedy-worst"],
        probe="ridge",
        l2=1e-2,
    )
    two = results.accuracy.sel(fraction=results.fraction[0]).mean("seed").squeeze()
    assert float(two.sel({"selection": "greedy"})) > float(two.sel({"selection": "random"}))
    assert float(two.sel({"selection": "greedy-worst"})) < float(two.sel({"selection": "greedy"}))
    train = pc.open_store(store).matrix("train", "l").astype(np.float64)
    standard = (train - train.mean(0)) / train.std(0)
    from sklearn.linear_model import RidgeClassifier

    order = greedy_order(*centred_moments(make_whole(x, y))[:2])
    want = RidgeClassifier(alpha=1e-2 * 120).fit(standard[:, order[:2]], y[:120])
    test = (x[120:].astype("f4") - train.mean(0)) / train.std(0)
    assert float(two.sel({"selection": "greedy"})) == pytest.approx(want.score(test[:, order[:2]], y[120:]))


def make_whole(x, y):
    return Task(x[:120].astype(np.float32), y[:120], x[120:].astype(np.float32), y[120:])
