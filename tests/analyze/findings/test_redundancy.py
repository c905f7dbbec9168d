"""Critical mass and DR against the definition written as a loop, and the cases that a definition leaves
open.
"""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from probecache.analyze.findings.redundancy import redundancy
from probecache.store.errors import InputError
from tests.analyze.synthetic import synthetic_results


def one_curve(table, sizes, full=None):
    """Results of one layer and selection: table (fraction, seed)."""
    table = np.asarray(table, dtype=float)
    return xr.Dataset(
        {"accuracy": (("fraction", "seed"), table), "n_neurons": ("fraction", sizes)},
        coords={"fraction": np.asarray(sizes) / sizes[-1], "seed": range(table.shape[1])},
    )


def by_definition(table, sizes, delta):
    """The smallest f whose mean of T(m * g) / T(g) over subsets is at least delta, as a loop."""
    full = np.mean(table[-1])
    for k, row in zip(sizes, table, strict=True):
        if np.mean(row) / full >= delta:
            return k
    return np.nan


@settings(max_examples=60, deadline=None)
@given(
    table=st.lists(st.lists(st.integers(1, 1000), min_size=3, max_size=3), min_size=2, max_size=8),
    delta=st.sampled_from([0.1, 0.5, 0.8, 0.9, 0.95, 1.0]),
)
def test_is_the_definition(table, delta):
    table = np.asarray(table) / 1000
    sizes = np.arange(1, len(table) + 1) * 10
    got = redundancy(one_curve(table, sizes), delta, bootstrap=0)
    assert float(got.critical_mass) == by_definition(table, sizes, delta)
    assert float(got.dr) == pytest.approx(1 - float(got.critical_mass) / sizes[-1])


def test_a_tie_counts_as_reached():
    # 0.9 * mean(0.7, 0.8, 0.9) is met exactly on paper, and missed by one bit in floating point.
    results = one_curve([[0.1, 0.1, 0.1], [0.63, 0.72, 0.81], [0.7, 0.8, 0.9]], [1, 5, 10])
    assert float(redundancy(results, 0.9).critical_mass) == 5


def test_smallest_means_smallest_even_where_a_later_size_dips():
    results = one_curve([[0.5], [0.95], [0.6], [1.0]], [1, 2, 3, 10])
    assert float(redundancy(results, 0.9, bootstrap=0).critical_mass) == 2


@pytest.mark.parametrize(
    "lost", [["seed"], ["layer", "selection", "l2"], ["layer", "selection", "seed", "l2"]]
)
def test_squeezed_results_mean_the_same(lost):
    results = synthetic_results(selections=("random",), n_seeds=1)
    whole, got = redundancy(results, 0.9), redundancy(results.squeeze(lost), 0.9)
    for name in ("critical_mass", "dr", "full_score"):
        assert got[name].item() == whole[name].item()


def test_the_full_layer_alone_is_a_result():
    results = synthetic_results(fractions=(1.0,), n_seeds=1)
    for smaller in (results, results.isel(fraction=0), results.squeeze(["fraction", "seed"])):
        assert (redundancy(smaller, 0.9).dr == 0).all()


def test_what_is_no_result_is_refused_in_one_line():
    results = synthetic_results()
    for other in (None, results.accuracy):
        with pytest.raises(InputError, match="give what sweep or cka returned"):
            redundancy(other)
    with pytest.raises(InputError, match=r"got RESULTS results\.zarr, which does not exist"):
        redundancy("results.zarr")
    for delta in ("most", None, [], [[0.9]], 0):
        with pytest.raises(InputError, match=r"allowed: shares of the full score in \(0, 1\]"):
            redundancy(results, delta)


def test_fractions_in_any_order_give_the_same():
    results = one_curve([[0.5], [0.95], [0.6], [1.0]], [1, 2, 3, 10])
    shuffled = results.isel(fraction=[3, 0, 2, 1])
    assert (
        redundancy(shuffled, 0.9, bootstrap=0).critical_mass
        == redundancy(results, 0.9, bootstrap=0).critical_mass
    )


def test_several_layers_selections_and_deltas_equal_one_at_a_time():
    results = synthetic_results(
        layers=("blocks.3", "penultimate"), selections=("random", "pca"), l2s=(1e-4, 1e-2)
    )
    deltas = [0.8, 0.9, 0.99]
    together = redundancy(results, deltas, bootstrap=50)
    assert together.critical_mass.dims == ("delta", "target", "layer", "selection", "shots", "l2")
    for delta in deltas:
        for layer in results.layer.values:
            for l2 in results.l2.values:
                alone = results.sel({"layer": layer, "selection": "random", "l2": l2}).squeeze()
                table = alone.accuracy.values
                want = by_definition(table, alone.n_neurons.values[:, 0], delta)
                cell = {"delta": delta, "layer": layer, "selection": "random", "l2": l2}
                assert together.critical_mass.sel(cell).item() == want


def test_the_full_layer_is_random_s_full_layer_and_a_projection_may_never_reach_it():
    results = synthetic_results(selections=("random", "pca-least"))
    results["accuracy"].loc[{"selection": "pca-least"}] = 0.2
    got = redundancy(results, 0.9).isel(layer=0, l2=0)
    assert np.isnan(got.critical_mass.sel({"selection": "pca-least"}))
    assert np.isnan(got.dr.sel({"selection": "pca-least"}))
    assert got.critical_mass.sel({"selection": "random"}) > 0


def test_the_interval_brackets_the_estimate_and_changes_sides_for_dr():
    rng = np.random.default_rng(0)
    table = np.linspace(0.5, 1, 20)[:, None] + rng.normal(size=(20, 5)) * 0.05
    table[-1] = 1.0
    got = redundancy(one_curve(table, np.arange(1, 21) * 5), 0.9)
    assert got.critical_mass_low < got.critical_mass_high
    assert got.critical_mass_low <= got.critical_mass <= got.critical_mass_high
    assert float(got.dr_low) == pytest.approx(1 - float(got.critical_mass_high) / 100)
    assert float(got.dr_high) == pytest.approx(1 - float(got.critical_mass_low) / 100)
    assert redundancy(one_curve(table, np.arange(1, 21) * 5), 0.9).identical(got)  # seeded


def test_bootstrap_equals_resampling_by_hand():
    rng = np.random.default_rng(1)
    table = np.sort(rng.uniform(0.3, 1, size=(6, 4)), axis=0)
    sizes = np.arange(1, 7)
    got = redundancy(one_curve(table, sizes), 0.9, bootstrap=200, confidence=0.9, seed=3)
    draws = np.random.default_rng(3).multinomial(4, np.full(4, 0.25), 200)
    masses = sorted(by_definition(np.repeat(table, w, axis=1), sizes, 0.9) for w in draws)
    assert float(got.critical_mass_low) == masses[int(np.ceil(0.05 * 200)) - 1]
    assert float(got.critical_mass_high) == masses[int(np.ceil(0.95 * 200)) - 1]


def test_one_seed_has_no_interval():
    got = redundancy(one_curve([[0.5], [0.95], [1.0]], [1, 5, 10]), 0.9)
    assert float(got.critical_mass) == 5
    assert np.isnan(got.critical_mass_low)
    assert np.isnan(got.dr_high)


def test_missing_cells_are_left_out():
    results = one_curve([[np.nan, np.nan], [0.95, np.nan], [1.0, 1.0]], [1, 5, 10])
    assert float(redundancy(results, 0.9, bootstrap=0).critical_mass) == 5


def test_works_on_cka_results():
    results = one_curve([[0.4, 0.5], [0.95, 0.97], [1.0, 1.0]], [1, 5, 10]).rename(accuracy="cka")
    got = redundancy(results, 0.9)
    assert float(got.dr) == 0.5
    assert got.attrs["score"] == "cka"


@pytest.mark.parametrize(
    ("change", "delta", "says"),
    [
        (lambda r: r, 0.0, "got delta 0.0; allowed"),
        (lambda r: r, 1.1, "got delta 1.1; allowed"),
        (lambda r: r, [0.9, float("nan")], "got delta [0.9, nan]; allowed"),
        (lambda r: r.isel(fraction=slice(0, 2)), 0.9, "run the same sweep with fraction 1.0 added"),
        (lambda r: r.drop_vars("accuracy"), 0.9, "no accuracy or cka"),
        (lambda r: r.drop_vars("n_neurons"), 0.9, "no variable n_neurons"),
        (lambda r: r.mean("seed"), 0.9, "no dimension seed"),
    ],
)
def test_wrong_input_is_one_line(change, delta, says):
    with pytest.raises(InputError) as error:
        redundancy(change(one_curve([[0.5], [0.95], [1.0]], [1, 5, 10])), delta)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def of_numbers(r2, accuracy=np.nan):
    """Results of two targets, numbers and classes: r2 and accuracy (fraction, seed) of each."""
    r2, k = np.asarray(r2, float), [2, 5, 10]
    lost = np.full_like(r2, np.nan)
    each = {"accuracy": [lost, np.broadcast_to(accuracy, r2.shape)], "r2": [r2, lost]}
    return xr.Dataset(
        {name: (("target", "fraction", "seed"), np.stack(values)) for name, values in each.items()}
        | {"n_neurons": ("fraction", k)},
        coords={"target": ["age", "label"], "fraction": [0.2, 0.5, 1.0], "seed": range(r2.shape[1])},
    )


def test_numbers_are_judged_by_r2_and_classes_by_accuracy():
    results = of_numbers([[0.1, 0.2], [0.7, 0.8], [0.8, 0.8]], np.array([[0.5], [0.9], [0.95]]))
    found = redundancy(results, 0.9)
    assert found["critical_mass"].values.tolist() == [5, 5]
    assert found["full_score"].values.tolist() == [0.8, 0.95]
    alone = redundancy(results.sel(target=["age"]), 0.9)
    assert alone.attrs["score"] == "r2"
    assert alone["critical_mass"].values.tolist() == [5]


def test_no_share_is_kept_of_a_score_that_is_not_above_zero():
    # worse and worse: every "share" is above 1, and means nothing
    results = of_numbers([[-3.0, -3.0], [-2.0, -2.0], [-1.0, -1.0]], 0.5)
    found = redundancy(results, 0.9).sel(target="age")
    assert np.isnan(found[["critical_mass", "dr", "dr_low"]].to_array()).all()
    assert float(found["full_score"]) == -1


@pytest.mark.parametrize("score", ["log_loss", "ece", "mae"])
def test_a_loss_is_refused(score):
    results = one_curve([[0.5], [0.4], [0.3]], [2, 5, 10]).rename(accuracy=score)
    with pytest.raises(InputError, match=rf"{score}.*lower is better"):
        redundancy(results, score=score)


def test_what_is_no_score_is_refused():
    results = one_curve([[0.5], [0.6]], [5, 10])
    with pytest.raises(InputError, match="'seconds', which says nothing about how good"):
        redundancy(results.assign(seconds=results["accuracy"]), score="seconds")
    with pytest.raises(InputError, match=r"no auroc .* accuracy: sweep with metric auroc"):
        redundancy(results, score="auroc")


@pytest.mark.parametrize(
    "wrong", [{"bootstrap": -1}, {"bootstrap": 1.5}, {"bootstrap": "x"}, {"confidence": "a"}]
)
def test_counts_and_coverages_that_are_none_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        redundancy(synthetic_results(), **wrong)
