"""A user's own kind of probe: through sweep, RESULTS, redundancy and Dask workers."""

import functools
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from sklearn import config_context
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import fbeta_score, log_loss
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC, LinearSVC

import probecache as pc
from probecache.analyze.metrics import METRICS
from probecache.analyze.probes.registry import get_kind


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two classes that no linear probe tells apart."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("own") / "s"
    for split, n in (("train", 400), ("test", 200)):
        x = rng.normal(size=(n, 6)).astype(np.float32)
        y = (x[:, 0] * x[:, 1] > 0).astype(int)
        store = pc.write_arrays(path, split=split, layer="a", activations=x, labels=y)
    return store


@pytest.fixture(scope="module", autouse=True)
def mlp():
    def make(l2, seed):
        return MLPClassifier((16,), alpha=l2, solver="lbfgs", max_iter=2000, random_state=seed)

    return pc.register_probe("mlp", make)


def test_it_sweeps_and_sees_what_a_linear_probe_does_not(store, tmp_path):
    options = {"layer": "a", "fractions": [0.5, 1], "seeds": 2, "l2": 1e-3}
    results = pc.sweep(store, probe="mlp", out=tmp_path / "r", **options)
    linear = pc.sweep(store, probe="logistic", **options)
    assert float(results.accuracy.sel(fraction=1).mean()) > 0.9
    assert float(linear.accuracy.sel(fraction=1).mean()) < 0.65
    assert results.attrs["probe"] == "mlp"
    again = pc.sweep(store, probe="mlp", out=tmp_path / "r", **options)
    np.testing.assert_array_equal(again.seconds, results.seconds)  # nothing was computed again
    assert len(pc.redundancy(results, delta=0.9).dr.values.ravel()) == 1


def test_what_ignores_the_penalty_is_fitted_once_for_all_of_them(store):
    made = []

    def make(l2, seed):
        made.append(seed)
        return GaussianNB(var_smoothing=1e-9 * (1 + seed))

    def sweep(**about):
        pc.register_probe("bayes", make, **about)
        plan = {"layer": "a", "fractions": [0.5, 1], "seeds": 2, "l2": [1e-3, 0.1, 1], "metric": "log_loss"}
        return pc.sweep(store, probe="bayes", **plan)

    every = sweep()
    before = len(made)
    once = sweep(has_l2=False)
    # three more say what it offers, and what it is
    assert (before - 3, len(made) - before - 3) == (2 * 2 * 3, 2 * 2)
    for name in ("accuracy", "log_loss", "converged", "n_iter"):
        np.testing.assert_array_equal(once[name], every[name])
    assert float(once.seconds.sum()) > 0


def test_dask_workers_need_not_know_it(store):
    from distributed import Client, LocalCluster

    options = {"layer": "a", "fractions": [0.5], "seeds": 2, "l2": 1e-3, "probe": "mlp"}
    here = pc.sweep(store, **options)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        there = pc.sweep(store, client=client, **options)
    np.testing.assert_array_equal(there.accuracy, here.accuracy)


def test_what_lacks_something_is_refused_by_name():
    with pytest.raises(pc.InputError, match="'logistic', which is one of probecache's own"):
        pc.register_probe("logistic", lambda l2, seed: None)
    with pytest.raises(pc.InputError, match="got probe 'mlq'; close names: mlp"):
        get_kind("mlq")
    with pytest.raises(pc.InputError, match=r"got a LinearSVC for a probe; .*register_probe\(name, make\)"):
        pc.sweep("nowhere", layer="l", fractions=[1], probe=LinearSVC())
    with pytest.raises(pc.InputError, match=r"got a probe without .*fit"):
        pc.register_probe(object())


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three classes and a number; standardised train and test rows with them."""
    rng, path = np.random.default_rng(1), tmp_path_factory.mktemp("own") / "three"
    found = []
    for split, n in (("train", 150), ("test", 90)):
        y = np.arange(n) % 3
        x = (rng.normal(size=(n, 6)) + y[:, None] * np.linspace(0, 1, 6)).astype(np.float32)
        pc.write_arrays(path, split=split, layer="a", activations=x, labels=y)
        size = x @ np.arange(6) + 1e3
        pc.write_targets(path, split=split, targets={"size": size, "two": (y > 0).astype(int)})
        found += [x.astype(np.float64), y, size]
    mean, scale = found[0].mean(0), found[0].std(0)
    found[0], found[3] = ((x - mean) / scale for x in (found[0], found[3]))
    return pc.open_store(path), found


def whole(store, make, target="label", metric="accuracy", **about):
    pc.register_probe("own", make, **about)
    plan = {"layer": "a", "fractions": [1], "seeds": 1, "target": target, "metric": metric}
    return pc.sweep(store, probe="own", **plan | ({"metric": ()} if metric == "r2" else {}))


def test_estimators_without_a_count_of_steps(three):
    store, (x, y, size, t, u, wanted) = three
    found = whole(store, lambda l2, seed: RidgeClassifier())
    assert found["n_iter"].item() == -1
    assert found["accuracy"].item() == RidgeClassifier().fit(x, y).score(t, u)
    found = whole(store, lambda l2, seed: Ridge(), "size", "r2", targets=("numbers",))
    assert found["r2"].item() == pytest.approx(Ridge().fit(x, size).score(t, wanted), abs=1e-5)


@pytest.mark.parametrize("selection", ["random", "first"])
def test_an_estimator_gets_its_seed_whatever_else_is_fitted(store, selection):
    seeds = []

    class Asked(LinearSVC):
        def fit(self, x, y):
            seeds.append((self.random_state, x.shape[1]))
            return super().fit(x, y)

    pc.register_probe("asked", lambda l2, seed: Asked(random_state=seed))
    for fractions, given in (([0.5], [7, 3]), ([0.5, 1.0], [3])):
        seeds.clear()
        pc.sweep(store, layer="a", fractions=fractions, seeds=given, probe="asked", selection=selection)
        assert sorted(seeds) == sorted((seed, round(6 * f)) for seed in given for f in fractions)


def test_seeds_that_came_later_are_those_that_came_at_once(store, tmp_path):
    plan = {"layer": "a", "fractions": [1], "probe": "mlp", "selection": "first"}
    at_once = pc.sweep(store, seeds=3, **plan)
    pc.sweep(store, seeds=[0], out=tmp_path / "r", **plan)
    later = pc.sweep(store, seeds=3, out=tmp_path / "r", **plan)
    np.testing.assert_array_equal(later["accuracy"], at_once["accuracy"])


def test_what_an_estimator_predicts_is_its_own_word(three):
    """A threshold that was moved shows in `predict` alone."""
    store, (x, y, _, t, u, _) = three
    make = lambda: FixedThresholdClassifier(LogisticRegression(), threshold=0.9)  # noqa: E731
    found = whole(store, lambda l2, seed: make(), "two", "balanced_accuracy")
    assert found["accuracy"].item() == make().fit(x, y > 0).score(t, u > 0)
    assert found["accuracy"].item() != LogisticRegression().fit(x, y > 0).score(t, u > 0)
    at = make().fit(x, y > 0).predict(t) == (u > 0)
    wanted = np.mean([at[u > 0].mean(), at[u == 0].mean()])
    assert found["balanced_accuracy"].item() == pytest.approx(wanted)


def test_probabilities_are_the_estimators(three):
    store, (x, y, _, t, u, _) = three
    found = whole(store, lambda l2, seed: GaussianNB(), metric="log_loss")
    wanted = log_loss(u, GaussianNB().fit(x, y).predict_proba(t))
    assert found["log_loss"].item() == pytest.approx(wanted, rel=1e-3)
    with pytest.raises(pc.InputError, match="'log_loss' for a own probe, which has no probabilities"):
        whole(store, lambda l2, seed: LinearSVC(), metric="log_loss")


class Says:
    """An estimator that predicts what it is told to, or writes to what it is given."""

    def __init__(self, says, name="predict"):
        setattr(self, name, says)

    def fit(self, x, y):
        x[:], y[:] = 0, y[::-1].copy()
        return self


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SVC(decision_function_shape="ovo"), "decision_function_shape='ovo' of SVC"),
        (lambda: make_pipeline(SVC(decision_function_shape="ovo")), "'ovo' of Pipeline"),
        (lambda: Says(lambda x: np.full((len(x), 3), np.nan), "decision_function"), "NaN from Says for 90"),
        (lambda: None, r"got None from make\(l2, seed\) of 'own'"),
        (lambda: LinearSVC, "got <class .*LinearSVC'> from make"),
        (lambda: Ridge(), "got predictions float.* from Ridge; .* whole numbers from 0 to 2"),
        (lambda: Says(lambda x: np.full(len(x), -1)), "got predictions int64 .*, -1 the first"),
        (lambda: Says(lambda x: np.full(len(x), "a")), "got predictions <U1"),
    ],
)
def test_scores_that_would_be_read_as_others_are_refused(three, make, says):
    with pytest.raises(pc.InputError, match=says):
        whole(three[0], lambda l2, seed: make())


def test_numbers_of_another_shape_are_refused(three):
    with pytest.raises(
        pc.InputError, match=r"got predictions of shape \(2, 90\) from Says; needed: \(90, 1\)"
    ):
        whole(
            three[0], lambda l2, seed: Says(lambda x: np.zeros((2, 90))), "size", "r2", targets=("numbers",)
        )


def test_an_estimator_that_writes_to_its_input_spoils_no_other(three):
    store, (x, y, _, t, u, _) = three
    mixed = lambda l2, seed: LogisticRegression() if seed else Says(lambda x: np.zeros(len(x)))  # noqa: E731
    pc.register_probe("own", mixed)
    found = pc.sweep(store, layer="a", fractions=[1], seeds=2, probe="own")["accuracy"].squeeze().values
    assert found.tolist() == [np.mean(u == 0), LogisticRegression().fit(x.astype(np.float32), y).score(t, u)]


def test_results_of_another_probe_of_the_same_name_are_not_gone_on_with(store, tmp_path):
    plan = {"layer": "a", "fractions": [1], "probe": "own", "out": tmp_path / "r"}
    pc.register_probe("own", lambda l2, seed: LinearSVC(C=1.0, random_state=seed))
    pc.sweep(store, seeds=1, **plan)
    pc.register_probe("own", lambda l2, seed: LinearSVC(random_state=seed))  # the same: C is 1 by default
    pc.sweep(store, seeds=2, **plan)
    pc.register_probe("own", lambda l2, seed: LinearSVC(C=0.1, random_state=seed))
    with pytest.raises(
        pc.FingerprintMismatch, match=r"probe:own: 'LinearSVC\(random.* there, 'LinearSVC\(C=0.1"
    ):
        pc.sweep(store, seeds=2, **plan)


def test_results_of_another_metric_of_the_same_name_are_not_gone_on_with(store, tmp_path):
    plan = {"layer": "a", "fractions": [1], "metric": "own_share", "probe": "ridge", "out": tmp_path / "r"}

    def share(wanted):
        return lambda truth, guesses: np.mean(guesses == wanted)

    pc.register_metric("own_share", share(1))
    pc.sweep(store, seeds=1, **plan)
    pc.register_metric("own_share", share(1))
    pc.sweep(store, seeds=2, **plan)
    for other in (share(0), lambda truth, guesses: np.mean(guesses != 1), functools.partial(f_beta, 2)):
        pc.register_metric("own_share", other)
        with pytest.raises(pc.FingerprintMismatch, match="metric:own_share"):
            pc.sweep(store, seeds=3, **plan)


def f_beta(beta, truth, guesses):
    return fbeta_score(truth, guesses, beta=beta)


@dataclass
class Maker:
    """What a data class gives has no hash."""

    scale: float

    def __call__(self, l2, seed):
        return LogisticRegression(C=self.scale / l2)


def test_what_makes_estimators_may_be_an_object_of_ones_own(store, tmp_path):
    plan = {"layer": "a", "fractions": [1], "probe": "own", "out": tmp_path / "r"}
    pc.register_probe("own", Maker(2.0))
    pc.sweep(store, seeds=1, **plan)
    pc.register_probe("own", Maker(2.0))
    with config_context(print_changed_only=False):  # how scikit-learn prints is no other estimator
        assert (pc.sweep(store, seeds=2, **plan)["state"] == 1).all()
    pc.register_probe("own", Maker(3.0))
    with pytest.raises(pc.FingerprintMismatch, match="probe:own"):
        pc.sweep(store, seeds=2, **plan)


def test_what_own_code_is_is_told_alike_in_every_process(tmp_path):
    """Texts of sets and of places in memory differ from process to process."""
    script = """
import functools
import probecache as pc
from probecache.analyze.sweeps.own_code import own_parts
from probecache.analyze.sweeps.plan import SweepPlan

class Mine:
    def __init__(self): self.inside = print
    def fit(self, x, y): return self

pc.register_probe("mine", lambda l2, seed: Mine())
pc.register_metric("names", lambda truth, guesses: float(str(len(truth)) in {"a", "b", "c", "d", "e"}))

def made(names):
    def closed(truth, guesses): return float(str(len(truth)) in names) if names else later
    if not names: later = 0.0  # a name that has no value when the function is looked at
    return closed

pc.register_metric("closed", made({"a", "b", "c", "d", "e"}))
pc.register_metric("part", functools.partial(lambda names, truth, guesses: 0.0, {"a", "b", "c", "d", "e"}))
print(own_parts(SweepPlan(("l",), (1.0,), probe="mine", metric=("names", "closed", "part"))))
"""
    texts = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1
    assert "probe:mine" in texts.pop()


def test_a_loss_of_ones_own_is_known_where_nobody_registered_it(store, tmp_path, monkeypatch):
    pc.register_metric("own_loss", lambda truth, guesses: np.mean(truth != guesses), higher_is_better=False)
    plan = {"layer": "a", "fractions": [0.5, 1], "seeds": 2, "probe": "ridge", "out": tmp_path / "r"}
    pc.sweep(store, metric="own_loss", **plan)
    monkeypatch.delitem(METRICS, "own_loss")  # as in another process
    with pytest.raises(pc.InputError, match=r"got score 'own_loss', .* better"):
        pc.redundancy(tmp_path / "r", score="own_loss")
    assert pc.redundancy(tmp_path / "r").attrs["score"] == "accuracy"
