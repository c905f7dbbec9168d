"""Numbers that are large beside their spread, as years and time stamps are: scikit-learn's answer."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge, TweedieRegressor
from sklearn.metrics import mean_absolute_error, mean_absolute_percentage_error, r2_score

import probecache as pc
from probecache.analyze.metrics import METRICS
from probecache.analyze.probes import registry

OFFSETS = {"plain": 0.0, "year": 2e3, "large": 1e6, "stamp": 1.7e9}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("numbers") / "s.zarr", np.random.default_rng(0)
    for split, n in (("train", 200), ("test", 80)):
        x = rng.normal(size=(n, 10)).astype(np.float32)
        y = x[:, 0] - x[:, 1] + rng.normal(size=n) / 2
        pc.write_arrays(path, split=split, layer="l", activations=x)
        pc.write_targets(path, split=split, targets={name: y + off for name, off in OFFSETS.items()})
        pc.write_targets(path, split=split, targets={"both": np.stack([y + 1e9, y], 1), "huge": y * 1e40})
    return pc.open_store(path)


def by_hand(store, target, alpha=0.1):
    x, z = (store.matrix(split, "l").astype(np.float64) for split in ("train", "test"))
    x, z = (x - x.mean(0)) / x.std(0), (z - x.mean(0)) / x.std(0)
    y, truth = (store.target(split, target).values for split in ("train", "test"))
    return truth, Ridge(alpha=alpha * len(x)).fit(x, y).predict(z).reshape(truth.shape)


def test_their_probes_are_those_of_the_same_numbers_about_zero(store, monkeypatch):
    monkeypatch.setattr("probecache.analyze.metrics.METRICS", dict(METRICS))
    pc.register_metric("mape", mean_absolute_percentage_error, kinds=("numbers",), higher_is_better=False)
    results = pc.sweep(
        store, layer="l", fractions=[1], seeds=1, probe="ridge", l2=[0.1], target=[*OFFSETS, "both"],
        metric=["mae", "mape"], save_predictions="scores",
    )  # fmt: skip
    for target in results["target"].values:
        truth, predicted = by_hand(store, str(target))
        cell = results.sel(target=target).squeeze()
        assert float(cell["r2"]) == pytest.approx(r2_score(truth, predicted), abs=1e-6)
        assert float(cell["mae"]) == pytest.approx(mean_absolute_error(truth, predicted), abs=1e-6)
        wanted = mean_absolute_percentage_error(truth, predicted)  # of the numbers as they were given
        assert float(cell["mape"]) == pytest.approx(wanted, rel=1e-5)
        kept = np.atleast_2d(cell["scores"].to_numpy())[: truth.shape[1]].T
        np.testing.assert_allclose(kept, predicted, rtol=2e-7, atol=1e-5)  # float32
        fitted = pc.fit_probe(store, layer="l", probe="ridge", l2=0.1, target=str(target))
        found = fitted.predict(store.matrix("test", "l")).reshape(truth.shape)
        np.testing.assert_allclose(found - truth, predicted - truth, atol=2e-6)


def test_a_penalty_is_chosen_alike_with_and_without_an_offset(store):
    results = pc.sweep(store, layer="l", fractions=[1], seeds=1, probe="ridge", l2="auto", target=[*OFFSETS])
    assert len(np.unique(results["chosen_l2"])) == 1
    assert np.ptp(results["r2"].to_numpy()) < 1e-6


def test_estimators_of_the_callers_see_the_numbers_as_they_are(store, monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    pc.register_probe("gamma", lambda l2, seed: TweedieRegressor(power=1.5, alpha=l2), targets=("numbers",))
    results = pc.sweep(store, layer="l", fractions=[1], seeds=1, probe="gamma", l2=[0.1], target="year")
    x, z = (store.matrix(split, "l").astype(np.float64) for split in ("train", "test"))
    y, truth = (store.target(split, "year").values.ravel() for split in ("train", "test"))
    x, z = (x - x.mean(0)) / x.std(0), (z - x.mean(0)) / x.std(0)
    model = TweedieRegressor(power=1.5, alpha=0.1).fit(x.astype(np.float32), y)
    assert float(results["r2"].squeeze()) == pytest.approx(r2_score(truth, model.predict(z)), abs=1e-4)


def test_numbers_that_float32_cannot_multiply_are_refused_before_any_work(store, tmp_path):
    with pytest.raises(pc.InputError, match=r"'huge' with numbers from .*1e-30 to 1e30; write them in"):
        pc.sweep(
            store, layer="l", fractions=[1], probe="ridge", l2=0.1, target="huge", out=tmp_path / "r.zarr"
        )
    assert not (tmp_path / "r.zarr").exists()
