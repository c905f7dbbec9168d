"""Unequal effects against their definitions, written out."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from probecache.analyze.findings.classes import class_effects, gini, hardest_hit
from probecache.store.errors import InputError
from tests.analyze.synthetic import synthetic_results


def direct_gini(a):
    return sum(abs(x - y) for x in a for y in a) / (2 * len(a) ** 2 * np.mean(a))


def test_gini_is_the_mean_absolute_difference():
    rng = np.random.default_rng(0)
    values = xr.DataArray(rng.random((3, 2, 7)), dims=("fraction", "seed", "class"))
    got = gini(values)
    for i in range(3):
        for j in range(2):
            assert float(got[i, j]) == pytest.approx(direct_gini(values.values[i, j]))
    equal = xr.DataArray(np.full((1, 5), 0.8), dims=("seed", "class"))
    assert float(gini(equal)[0]) == pytest.approx(0)


def test_a_class_without_test_samples_is_left_out():
    results = synthetic_results(selections=("random",))
    without = results.assign(class_accuracy=results.class_accuracy.where(results["class"] != "class 1"))
    fewer = results.isel({"class": [0, 2, 3]})
    got, expected = class_effects(without), class_effects(fewer)
    for name in ("gini", "coefficient_of_variation", "worst_accuracy"):
        np.testing.assert_allclose(got[name], expected[name])
    nothing = xr.DataArray(np.full((1, 3), np.nan), dims=("seed", "class"))
    assert np.isnan(gini(nothing)[0])


def test_measures_are_per_seed_means_with_t_intervals():
    results = synthetic_results(selections=("random", "pca"))
    effects = class_effects(results)
    a = (
        results.class_accuracy.sel({"selection": "random", "fraction": 0.1})
        .squeeze()
        .transpose("seed", "class")
        .values
    )
    got = effects.sel({"selection": "random", "fraction": 0.1}).squeeze()
    full = (
        results.class_accuracy.sel({"selection": "random", "fraction": 1.0})
        .squeeze()
        .transpose("seed", "class")
        .values
    )
    for name, per_seed in {
        "gini": [direct_gini(row) for row in a],
        "coefficient_of_variation": [np.std(row) / np.mean(row) for row in a],
        "worst_accuracy": a.min(1),
    }.items():
        assert float(got[name]) == pytest.approx(np.mean(per_seed))
        low, high = stats.t.interval(0.95, 4, loc=np.mean(per_seed), scale=stats.sem(per_seed))
        assert float(got[name + "_low"]) == pytest.approx(low)
        assert float(got[name + "_high"]) == pytest.approx(high)
    np.testing.assert_allclose(got.loss, (full - a).mean(0))
    assert effects.loss.sel({"selection": "random", "fraction": 1.0}).max() == pytest.approx(0, abs=1e-12)


def test_hardest_hit_are_those_that_lose_most():
    effects = class_effects(synthetic_results(selections=("random",), n_classes=6)).squeeze()
    worst = hardest_hit(effects, 0.1, count=3)
    loss = effects.loss.sel(fraction=0.1)
    assert worst["class"].values.tolist() == loss["class"].values[np.argsort(-loss.values)][:3].tolist()
    assert (np.diff(worst.loss) <= 0).all()
    with pytest.raises(InputError, match="the class effects still have layer"):
        hardest_hit(class_effects(synthetic_results(layers=("a", "b"))).squeeze(), 0.1)


def test_without_what_it_needs():
    with pytest.raises(InputError, match="no class_accuracy"):
        class_effects(synthetic_results().drop_vars("class_accuracy"))
    with pytest.raises(InputError, match=r"lack fraction 1.0"):
        class_effects(synthetic_results().isel(fraction=slice(0, 3)))
