"""Moments as a Dask reduction equal those of one pass over the rows."""

import numpy as np
import pytest
from distributed import Client

import probecache as pc
from probecache.analyze.probes.fit import task_moments
from probecache.analyze.sweeps.cluster.moments import Sums, add, moments_on
from probecache.analyze.tasks.labels import load_labels
from probecache.analyze.tasks.load import load_task
from probecache.analyze.tasks.matrix import column_moments, stored_moments


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("reduce") / "s"
    random = np.random.default_rng(0)
    for split, n in (("train", 5000), ("test", 50)):
        x = random.normal(3.0, 2.0, (n, 20)).astype(np.float32)
        x[:, 7] = 4.0  # a constant column
        y = random.integers(0, 3, n)
        status = np.ones(n, np.uint8)
        status[::17] = 2
        store = pc.write_arrays(path, split=split, layer="a", activations=x, labels=y, status=status)
    return store


def labels_of(store):
    found = load_labels(store, "train", "test")
    labels = np.full(len(found.train_keep), -1, np.int32)
    labels[found.train_keep] = found.train
    return labels


@pytest.fixture(scope="module")
def client():
    with Client(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as client:
        yield client


@pytest.mark.parametrize("standardize", [True, False])
def test_the_reduction_is_the_single_pass(store, client, standardize):
    single = task_moments(load_task(store, "a"), standardize, device="cpu").moments
    reduced = moments_on(client, store, "train", "a", labels_of(store), standardize, rows=512).result()
    assert reduced.count == single.count
    for name in ("gram", "cross", "square"):
        np.testing.assert_allclose(getattr(reduced, name), getattr(single, name), rtol=1e-5, atol=1e-5)


def test_the_store_keeps_the_moments_that_a_pass_would_give(store):
    mean, scale = stored_moments(store, "train", "a")
    for kept, passed in zip((mean, scale), column_moments(load_task(store, "a").train), strict=True):
        np.testing.assert_allclose(kept, passed, rtol=1e-6)


def test_a_layer_on_disk_gives_the_probes_of_the_layer_in_memory(store, monkeypatch):
    here = pc.sweep(store, layer="a", fractions=[0.3, 1], seeds=2, l2=1e-2)
    monkeypatch.setattr("probecache.analyze.tasks.load.stays_on_disk", lambda size, limit: True)
    assert not isinstance(load_task(store, "a").train, np.ndarray)
    streamed = pc.sweep(store, layer="a", fractions=[0.3, 1], seeds=2, l2=1e-2)
    np.testing.assert_allclose(streamed["objective"], here["objective"], rtol=1e-5)


def test_workers_share_the_pass_for_the_moments_of_a_layer_on_disk(store, client, monkeypatch):
    here = pc.sweep(store, layer="a", fractions=[0.3, 1], seeds=2, l2=1e-2)
    asked = []
    monkeypatch.setattr("probecache.analyze.tasks.load.stays_on_disk", lambda size, limit: True)
    monkeypatch.setattr(
        "probecache.analyze.sweeps.sweep.stays_on_disk", lambda size, limit: asked.append(size) or True
    )
    there = pc.sweep(store, layer="a", fractions=[0.3, 1], seeds=2, l2=1e-2, client=client)
    assert asked
    np.testing.assert_allclose(there["objective"], here["objective"], rtol=1e-5)


def test_sums_add_up():
    random = np.random.default_rng(0)
    parts = [Sums(random.random((3, 3)), random.random((3, 1)), random.random(1), i) for i in range(5)]
    whole = add(parts)
    np.testing.assert_allclose(whole.gram, np.sum([part.gram for part in parts], axis=0))
    assert whole.count == 10
