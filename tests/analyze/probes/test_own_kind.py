"""A user's own kind of probe: through sweep, RESULTS, redundancy and Dask workers."""

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

import probecache as pc
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
