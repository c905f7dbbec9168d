"""Leave-one-out and leave-a-group-out against fitting the probe again without the neurons."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier

import probecache as pc
from probecache.analyze.attribution.ridge import fit_whole_ridge
from probecache.analyze.probes.fit import fit_block
from probecache.analyze.tasks.load import load_task

D, L2 = 14, 0.05


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    x = rng.normal(size=(240, D)) + np.eye(3)[labels] @ rng.normal(size=(3, D)) + 2
    x[:, 5] = x[:, 2] + 0.05 * rng.normal(size=240)
    return x.astype(np.float32), labels


@pytest.fixture(scope="module")
def store(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("attribution") / "s.zarr"
    for split, rows in (("train", slice(0, 120)), ("test", slice(120, 240))):
        pc.write_arrays(path, split=split, layer="l", activations=data[0][rows], labels=data[1][rows])
    return pc.open_store(path)


def standard(x):
    train = x[:120].astype(np.float64)
    return (x.astype(np.float64) - train.mean(0)) / train.std(0)


@pytest.mark.parametrize("groups", [None, 4, [{0, 3}, range(1, 2), [5, 2, 9]]])
def test_ridge_equals_refits_by_scikit_learn(store, data, groups):
    found = pc.attribution(store, layer="l", l2=L2, groups=groups)
    x, y = standard(data[0]), data[1]
    whole = RidgeClassifier(alpha=L2 * 120).fit(x[:120], y[:120])
    full = whole.predict(x[120:]) == y[120:]
    assert float(found.full_score) == pytest.approx(full.mean())
    targets = 2.0 * (y[120:, None] == np.arange(3)) - 1
    loss = ((whole.decision_function(x[120:]) - targets) ** 2).mean()
    assert found.sizes["group"] == {None: D, 4: 4}.get(groups if not isinstance(groups, list) else 0, 3)
    for i in range(found.sizes["group"]):
        group = found.neuron.values[found.owner.values == i]
        keep = np.setdiff1d(np.arange(D), group)
        again = RidgeClassifier(alpha=L2 * 120).fit(x[:120][:, keep], y[:120])
        right = again.predict(x[120:][:, keep]) == y[120:]
        at = found.isel(group=i)
        assert float(at.score_change) == pytest.approx(right.mean() - full.mean(), abs=1e-12)
        assert (int(at.gained), int(at.lost)) == ((right & ~full).sum(), (full & ~right).sum())
        apart = ((again.decision_function(x[120:][:, keep]) - targets) ** 2).mean() - loss
        assert float(at.loss_change) == pytest.approx(apart, abs=1e-6)
        assert int(at.removed) == len(group)
    change = found.score_change.values
    assert float(found.degrading_share) == (change > 0).mean()
    assert float(found.helping_share) == (change < 0).mean()


def test_logistic_is_fitted_again_without_the_group(store, data):
    found = pc.attribution(store, layer="l", probe="logistic", l2=1e-2, groups=[[2, 5], [7]])
    x, y = standard(data[0]), data[1]
    model = LogisticRegression(C=1 / (120 * 1e-2), max_iter=2000, tol=1e-8)
    full = model.fit(x[:120], y[:120]).score(x[120:], y[120:])
    for i, group in enumerate(([2, 5], [7])):
        keep = np.setdiff1d(np.arange(D), group)
        want = model.fit(x[:120][:, keep], y[:120]).score(x[120:][:, keep], y[120:]) - full
        assert float(found.score_change[i]) == pytest.approx(want, abs=1 / 120 + 1e-9)
        assert float(found.score_change[i]) == pytest.approx(float(found.gained[i] - found.lost[i]) / 120)


def test_any_other_kind_is_fitted_again_likewise(store):
    found = pc.attribution(store, layer="l", probe="knn", groups=[[2, 5], [7]])
    task = load_task(store, "l")

    def accuracy(columns):
        return fit_block(task, columns[None], np.array([len(columns)]), np.array([0.1]), probe="knn").accuracy

    every = np.arange(D)
    for i, group in enumerate(([2, 5], [7])):
        change = accuracy(np.setdiff1d(every, group)) - accuracy(every)
        assert float(found.score_change[i]) == pytest.approx(change.item(), abs=1e-9)


def test_a_neuron_of_noise_degrades_and_the_one_that_tells_helps(tmp_path):
    rng = np.random.default_rng(1)
    y = np.arange(300) % 2
    x = rng.normal(size=(300, 30))
    x[:, 4] += 3 * y
    for split, rows in (("train", slice(0, 40)), ("test", slice(40, 300))):
        pc.write_arrays(
            tmp_path / "s", split=split, layer="l", activations=x[rows].astype("f4"), labels=y[rows]
        )
    found = pc.attribution(tmp_path / "s", layer="l", l2=1e-3)
    assert int(np.argmin(found.score_change.values)) == 4
    assert found.score_change.values[4] < -0.1
    assert 0 < float(found.degrading_beyond_noise) <= float(found.degrading_share) < 1


def test_a_sample_any_metric_and_two_groups_that_share_nothing(store):
    some = pc.attribution(store, layer="l", l2=L2, sample=5)
    every = pc.attribution(store, layer="l", l2=L2)
    np.testing.assert_array_equal(some.score_change, every.score_change[some.neuron.values])
    auroc = pc.attribution(store, layer="l", l2=L2, metric="auroc", sample=2)
    assert 0.5 < float(auroc.full_score) <= 1
    halves = pc.attribution(store, layer="l", l2=L2, groups=2)
    assert sorted(halves.neuron.values) == list(range(D))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"probe": "tree"}, "got probe 'tree'"),
        ({"l2": 0}, "allowed: above 0"),
        ({"groups": 1}, "allowed: 2 to 14"),
        ({"groups": [[1, 2], [0, 0]]}, "group 1 names neuron 0 twice"),
        ({"groups": [[14]]}, "the layer has 0 to 13"),
        ({"groups": [[0.5, 1.7]]}, "group 0 holds float64"),
        ({"groups": [[True, False]]}, "group 0 holds bool"),
        ({"groups": [[0, 1], []]}, "group 1 holds float64 (0,)"),
        ({"groups": [list(range(14))]}, "got groups of all 14 neurons, or none"),
        ({"groups": []}, "got groups of all 14 neurons, or none"),
        ({"sample": 15}, "allowed: 1 to 14"),
        ({"metric": "log_loss"}, "lower is better"),
        ({"metric": "auroc", "probe": "logistic"}, "by predictions"),
    ],
)
def test_wrong_input_is_one_line(store, options, says):
    with pytest.raises(pc.InputError) as error:
        pc.attribution(store, layer="l", **options)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_samples_count(store):
    from dataclasses import replace

    task = replace(load_task(store, "l"), weights=np.linspace(0.2, 2, 120))
    probe = fit_whole_ridge(task, L2)
    x = (task.train.astype(np.float64) - task.mean) / task.scale
    test = (task.test.astype(np.float64) - task.mean) / task.scale
    model = RidgeClassifier(alpha=L2 * task.weights.sum()).fit(x, task.train_labels, task.weights)
    np.testing.assert_allclose(probe.scores, model.decision_function(test), atol=1e-4)
