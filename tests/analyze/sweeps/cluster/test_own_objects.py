"""What a user has of his own, functions and clients: it serves as it is, or is refused before work begins."""

import threading

import numpy as np
import pytest
from distributed import Client
from sklearn.metrics import cohen_kappa_score

import probecache as pc
from probecache.analyze.metrics import METRICS
from probecache.analyze.sweeps.cluster.start import connect


@pytest.fixture
def own():
    """Registers metrics, and forgets them afterwards."""
    before = dict(METRICS)
    yield pc.register_metric
    METRICS.clear()
    METRICS.update(before)


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    for split, n in (("train", 60), ("test", 40)):
        labels = rng.integers(0, 3, n)
        x = rng.normal(size=(n, 8)).astype(np.float32) + labels[:, None]
        found = pc.write_arrays(tmp_path / "s", split=split, layer="a", activations=x, labels=labels)
    return pc.open_store(found.path)


PLAN = {"layer": "a", "fractions": [1], "seeds": 1, "probe": "ridge"}


def test_a_function_of_ones_own_is_computed_by_workers(store, own):
    shift = 0.25
    own("kappa_less", lambda truth, predicted: cohen_kappa_score(truth, predicted) - shift)
    here = pc.sweep(store, metric=["kappa_less"], **PLAN)
    with connect(workers=1) as client:
        there = pc.sweep(store, metric=["kappa_less"], client=client, **PLAN)
    np.testing.assert_array_equal(there["kappa_less"], here["kappa_less"])
    assert np.isfinite(here["kappa_less"]).all()


def test_what_cannot_be_sent_is_refused_in_one_line(store, own, tmp_path):
    lock = threading.Lock()
    own("locked", lambda truth, predicted: float(lock.locked()))
    with connect(workers=1) as client, pytest.raises(pc.InputError, match="metric 'locked' cannot be sent"):
        pc.sweep(store, metric=["locked"], client=client, **PLAN)
    assert (pc.sweep(store, metric=["locked"], **PLAN)["locked"] == 0).all()


def test_what_is_no_client_or_has_no_workers_is_refused_in_one_line(store, monkeypatch):
    waited = lambda self, n, timeout: (_ for _ in ()).throw(TimeoutError())  # noqa: E731
    with Client(n_workers=0, processes=False, dashboard_address=None) as client:
        monkeypatch.setattr(Client, "wait_for_workers", waited)
        with pytest.raises(pc.ProbecacheError, match="the scheduler has no workers"):
            pc.sweep(store, client=client, **PLAN)
        with pytest.raises(pc.InputError, match=r"got a LocalCluster for client; give distributed\.Client"):
            pc.sweep(store, client=client.cluster, **PLAN)
    with pytest.raises(pc.InputError, match="got a client that is closed; make a new one"):
        pc.sweep(store, client=client, **PLAN)
