"""What the caller has set in torch decides no number of a probe, and is as it was afterwards."""

import threading
from contextlib import ExitStack

import numpy as np
import pytest
import torch

import probecache as pc
from probecache.store.torch_defaults import plain_torch

KINDS = ("ridge", "logistic", "knn", "sgd")
BACKENDS = getattr(torch.backends.mkldnn, "matmul", None), torch.backends.cuda.matmul


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("defaults") / "s"
    for split, n in (("train", 150), ("test", 90)):
        y = np.arange(n) % 3
        x = (rng.normal(size=(n, 20)) + y[:, None] * np.linspace(0, 1, 20)).astype(np.float32)
        store = pc.write_arrays(path, split=split, layer="a", activations=x, labels=y)
    return store


def everything(store):
    """Numbers of every kind of probe, of selections that draw, and of what fits probes by itself."""
    found = []
    for probe in KINDS:
        plan = {"layer": "a", "fractions": [0.3, 1], "seeds": 2, "l2": 1e-2, "probe": probe}
        results = pc.sweep(store, selection=["random", "randproj"], **plan)
        found += [results[name].values.ravel() for name in ("accuracy", "objective")]
    x, y = store.matrix("train", "a"), store.labels("train")
    found += [pc.fit_probe(store, layer="a", l2=1e-2).decision_function(x).ravel()]
    found += [
        pc.LogisticProbe(l2=1e-2).fit(x, y).coef_.ravel(),
        pc.RidgeProbe(l2=1e-2).fit(x, y).coef_.ravel(),
    ]
    found += [pc.attribution(store, layer="a", probe="logistic", groups=4)["score_change"].values]
    return np.concatenate(found)


@pytest.fixture(scope="module")
def plain(store):
    return everything(store)


def set_world(stack, world):
    if world == "autocast":
        stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
    elif world == "device":
        stack.callback(torch.set_default_device, None)
        torch.set_default_device("meta")
    elif world == "products":
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("medium")
    elif world == "backends":
        if not BACKENDS[0]:
            pytest.skip("torch before 2.9 has one way to say how products are made")
        for backend, precision in zip(BACKENDS, ("bf16", "tf32"), strict=True):
            stack.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
            backend.fp32_precision = precision
    else:
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(getattr(torch, world))


def settings():
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # where the newer settings say another
        precision = [backend.fp32_precision for backend in BACKENDS]
    casts = torch.is_autocast_enabled("cpu")
    return torch.get_default_dtype(), torch.get_default_device(), precision, casts


@pytest.mark.parametrize("world", ["float64", "bfloat16", "device", "autocast", "products", "backends"])
def test_what_the_caller_has_set_in_torch_decides_no_number(store, plain, world):
    with ExitStack() as stack:
        set_world(stack, world)
        before = settings()
        found = everything(store)
        assert settings() == before
    np.testing.assert_array_equal(found, plain)


def test_a_thread_that_is_done_takes_nothing_from_one_that_is_not():
    inside, leave = threading.Event(), threading.Event()

    def first():
        with plain_torch():
            inside.set()
            leave.wait(60)

    with ExitStack() as stack:
        set_world(stack, "float64")
        thread = threading.Thread(target=first)
        thread.start()
        assert inside.wait(60)
        with plain_torch():
            leave.set()
            thread.join(60)
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float64
        with pytest.raises(KeyboardInterrupt), plain_torch():
            raise KeyboardInterrupt
        assert torch.get_default_dtype() == torch.float64
