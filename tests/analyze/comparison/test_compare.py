"""Paired comparison: intervals and tests against statsmodels' definitions, and what cannot be paired."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import binomtest

import probecache as pc
from probecache.__main__ import _run
from probecache.analyze.comparison.intervals import bootstrap_means, effective_samples, holm, mcnemar, wilson
from probecache.analyze.findings.classes import class_effects
from probecache.analyze.results.open import read_sweep
from tests.analyze.probes.test_fitted import write
from tests.analyze.synthetic import synthetic_results

DIMS = ("target", "layer", "selection", "shots", "fraction", "seed", "l2")


def results(
    accuracy=(0.8, 0.7), layers=("one", "two"), n=400, seeds=3, fractions=(0.5, 1.0), seed=0, **attrs
):
    """RESULTS with predictions of a given accuracy per layer."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(7).integers(0, 3, n)
    shape = (1, len(layers), 1, 1, len(fractions), seeds, 1, n)
    right = rng.random(shape) < np.reshape(accuracy, (1, -1, 1, 1, 1, 1, 1, 1))
    predictions = np.where(right, truth, (truth + 1 + rng.integers(0, 2, shape)) % 3)
    coords = {
        "target": ["label"],
        "layer": list(layers),
        "selection": ["random"],
        "shots": ["all"],
        "fraction": list(fractions),
        "seed": list(range(seeds)),
        "l2": [1e-4],
        "sample": [f"image {i}" for i in range(n)],
        "class": ["a", "b", "c"],
    }
    return xr.Dataset(
        {"predictions": ((*DIMS, "sample"), predictions), "truth": (("target", "sample"), truth[None])},
        coords,
        {"probe": "logistic", **attrs},
    )


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (3, 10), (499, 500), (1, 2)])
def test_wilsons_interval_solves_its_equation(right, n):
    low, high = (float(v) for v in wilson(right / n, n))
    wanted = binomtest(right, n).proportion_ci(0.95, "wilson")
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert 0 <= low <= right / n <= high <= 1
    assert low < high


@pytest.mark.parametrize(("b", "c"), [(0, 0), (5, 0), (7, 12), (30, 31)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    wanted = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert float(mcnemar(b, c)) == pytest.approx(wanted)
    assert float(mcnemar(c, b)) == pytest.approx(wanted)


def test_holm_by_definition():
    p = np.array([[0.01, 0.5, np.nan], [0.02, 0.02, 0.9]])
    found = holm(p)
    flat = np.sort(p[np.isfinite(p)])
    wanted = {}
    for i, value in enumerate(flat):
        wanted[value] = min(1, max((len(flat) - j) * flat[j] for j in range(i + 1)))
    for one, corrected in zip(p.ravel(), found.ravel(), strict=True):
        assert corrected == pytest.approx(wanted.get(one, np.nan), nan_ok=True)
    assert found.shape == p.shape


def test_the_bootstrap_is_that_of_rows_drawn_one_by_one():
    rng = np.random.default_rng(0)
    values, sizes = rng.integers(-1, 2, (60, 2)).astype(float), rng.integers(1, 4, 60).astype(float)
    ours = bootstrap_means(values, sizes, 20_000, 0)
    slow = np.empty((20_000, 2))
    for i in range(len(slow)):
        rows = rng.integers(0, 60, 60)
        slow[i] = values[rows].sum(0) / sizes[rows].sum()
    np.testing.assert_allclose(ours.mean(0), slow.mean(0), atol=4 * slow.std() / 100)
    np.testing.assert_allclose(ours.std(0), slow.std(0), rtol=0.03)
    quantiles = [0.025, 0.5, 0.975]
    np.testing.assert_allclose(
        np.quantile(ours, quantiles, axis=0), np.quantile(slow, quantiles, axis=0), atol=0.01
    )


def test_samples_that_come_in_copies_count_once():
    rng = np.random.default_rng(0)
    right = (rng.random((100, 1)) < 0.7).astype(float)
    assert effective_samples(right, np.ones(100)) == pytest.approx(100)
    assert effective_samples(5 * right, np.full(100, 5.0)) == pytest.approx(100)
    assert effective_samples(np.ones((100, 1)), np.ones(100)) == 100


def test_two_layers_by_definition():
    data = results()
    found = pc.compare(data.sel(layer=["one"]), data.sel(layer=["two"]))
    assert found.attrs["layer"] == "one against two"
    assert found.attrs["samples_left_out"] == 0
    right = (data["predictions"] == data["truth"]).values[0, :, 0, 0, :, :, 0].astype(float)
    one, two = right  # (fraction, seed, sample)
    at = found.sel(target="label", selection="random", shots="all", l2=1e-4)
    np.testing.assert_allclose(at["accuracy_a"], one.mean((1, 2)))
    np.testing.assert_allclose(at["difference"], (one - two).mean((1, 2)))
    np.testing.assert_array_equal(at["only_a"], (one > two).sum(-1))
    for f in range(2):
        for s in range(3):
            b, c = (one[f, s] > two[f, s]).sum(), (one[f, s] < two[f, s]).sum()
            assert at["p_mcnemar"].values[f, s] == pytest.approx(binomtest(b, b + c).pvalue)
    np.testing.assert_allclose(at["p_mcnemar_holm"], holm(at["p_mcnemar"].values))
    gap = (one - two).mean(1)  # (fraction, sample)
    spread = gap.std(-1) / np.sqrt(400)
    np.testing.assert_allclose(at["difference_low"], gap.mean(-1) - 1.96 * spread, atol=0.1 * spread.max())
    np.testing.assert_allclose(at["difference_high"], gap.mean(-1) + 1.96 * spread, atol=0.1 * spread.max())
    assert (at["p"] < 0.001).all()
    low, high = wilson(one.mean((1, 2)), 400)
    assert (at["accuracy_a_low"] >= low - 1e-12).all()
    assert (at["accuracy_a_high"] <= high + 1e-12).all()
    assert int(found["n_samples"]) == int(found["n_groups"]) == 400


def test_a_p_value_is_uniform_where_nothing_differs():
    """300 comparisons of two that guess alike: 5% below 0.05, give or take."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    p = []
    for i in range(300):
        a, b = (np.where(rng.random(200) < 0.8, truth, 1 - truth) for _ in range(2))
        p.append(float(pc.compare(a, b, truth, bootstrap=400, seed=i)["p"]))
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09
    assert 0.4 < np.mean(p) < 0.6


def test_groups_are_resampled_as_wholes():
    """Every sample five times: the interval of the originals, not of five times as many."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 300)
    a, b = (np.where(rng.random(300) < share, truth, 1 - truth) for share in (0.75, 0.7))
    copies = [np.repeat(x, 5) for x in (a, b, truth)]
    alone = pc.compare(a, b, truth)
    grouped = pc.compare(*copies, groups=np.repeat(np.arange(300), 5))
    blind = pc.compare(*copies)
    assert int(grouped["n_groups"]) == 300
    for name in ("accuracy_a", "difference", "p"):
        assert float(grouped[name]) == pytest.approx(float(alone[name]), abs=0.02)
    for name in ("accuracy_a", "difference"):
        width = [float(x[f"{name}_high"] - x[f"{name}_low"]) for x in (alone, grouped, blind)]
        assert width[1] == pytest.approx(width[0], rel=0.05)
        assert width[2] == pytest.approx(width[0] / np.sqrt(5), rel=0.1)


@pytest.mark.parametrize("share", [0.0, 1.0, 0.995])
def test_intervals_stay_within_what_is_possible(share):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 40)
    a = np.where(rng.random(40) < share, truth, 1 - truth)
    found = pc.compare(a, 1 - a, truth)
    for name in ("accuracy_a", "accuracy_b"):
        assert 0 <= found[f"{name}_low"] <= found[name] <= found[f"{name}_high"] <= 1
        assert found[f"{name}_high"] - found[f"{name}_low"] > 0.05
    assert -1 <= found["difference_low"] <= found["difference_high"] <= 1


def test_samples_are_matched_by_name_and_coordinates_by_value():
    data = results(fractions=(0.2, 0.5, 1.0))
    other = results((0.7, 0.6), layers=("two", "one"), seed=1, probe="ridge")
    order = np.random.default_rng(3).permutation(400)[:390]
    found = pc.compare(data, other.isel(sample=order))
    assert found.attrs["samples_left_out"] == 10
    assert found.attrs["probe"] == "logistic against ridge"
    assert int(found["n_samples"]) == 390
    assert found["fraction"].values.tolist() == [0.5, 1.0]
    right = [(d["predictions"] == d["truth"]).isel(sample=np.sort(order)) for d in (data, other)]
    wanted = [r.astype(float).mean(["sample", "seed"]).sel(fraction=[0.5, 1.0]) for r in right]
    xr.testing.assert_allclose(found["accuracy_a"], wanted[0].rename("accuracy_a").drop_attrs())
    xr.testing.assert_allclose(found["accuracy_b"], wanted[1].sel(layer=["one", "two"]).rename("accuracy_b"))


def test_probes_that_were_not_measured_are_no_numbers():
    data = results()
    data["predictions"][:, 0, :, :, 0, 1] = -1  # one seed of layer one, fraction 0.5
    data["predictions"][:, 1, :, :, 1] = -1  # all of layer two, fraction 1
    found = pc.compare(data.sel(layer=["one"]), data.sel(layer=["two"])).squeeze()
    assert np.isnan(found["p_mcnemar"].sel(fraction=0.5, seed=1))
    assert found["p_mcnemar"].sel(fraction=0.5, seed=[0, 2]).notnull().all()
    assert found["difference"].sel(fraction=0.5).notnull()
    for name in ("difference", "difference_low", "p", "p_holm", "accuracy_a", "accuracy_a_low"):
        assert np.isnan(found[name].sel(fraction=1.0)), name


def test_samples_without_a_label_are_left_out():
    data = results()
    data["truth"][:, :40] = -1
    found = pc.compare(data, results((0.7, 0.6), seed=1))
    assert int(found["n_samples"]) == 360
    assert found.attrs["samples_left_out"] == 40
    right = (data["predictions"] == data["truth"]).isel(sample=slice(40, None)).astype(float)
    np.testing.assert_allclose(found["accuracy_a"], right.mean(["sample", "seed"]))


def test_classes_in_another_order_are_the_same_classes():
    data = results()
    other = data.assign_coords({"class": ["c", "a", "b"]})
    for name in ("predictions", "truth"):
        other[name] = (other[name] + 1) % 3
    found = pc.compare(data, other)
    assert (found["difference"] == 0).all()
    assert (found["p"] == 1).all()


def test_two_fitted_probes(tmp_path):
    store = write(tmp_path / "s.zarr")
    a, b = (pc.fit_probe(store, layer="mine", fraction=f, l2=1e-2, device="cpu") for f in (1.0, 0.1))
    found = pc.compare(a, b, store=store)
    keep = store.status("test") == 1
    x, y = store.matrix("test", "mine")[keep], store.labels("test")[keep]
    assert float(found["accuracy_a"]) == (a.predict(x) == y).mean()
    assert float(found["accuracy_b"]) == (b.predict(x) == y).mean()
    assert found.attrs["fraction"] == "1.0 against 0.1"
    groups = {f"test {i}": i // 7 for i in range(240)}
    assert int(pc.compare(a, b, store=(store, store), groups=groups)["n_groups"]) == len(
        {i // 7 for i in np.flatnonzero(keep)}
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda d: (d.drop_vars("predictions"), d), "without predictions"),
        (lambda d: (d, d.drop_vars("truth")), "without the variable truth"),
        (lambda d: (d, d.assign_coords(sample=[f"other {i}" for i in range(400)])), "no test sample"),
        (lambda d: (d, d.assign_coords(sample=["same"] * 400)), "'same' more than once"),
        (lambda d: (d, d.assign(truth=(d["truth"] + 1) % 3)), "other labels for 400 of 400"),
        (lambda d: (d, d.assign_coords(layer=["three", "four"])), "no layer that both have"),
        (lambda d: (d, np.zeros(400)), "beside something else"),
        (lambda d: (np.zeros(4), np.zeros(4)), "and their truth"),
        (lambda d: (np.zeros(4), np.zeros(5), np.zeros(4)), r"got predictions \(5,\)"),
        (lambda d: (np.zeros(0), np.zeros(0), np.zeros(0)), "not empty"),
        (lambda d: (d, "no/such/results"), "no/such/results"),
        (
            lambda d: (
                xr.concat([d, d.assign_coords(target=["other"])], "target"),
                d.assign_coords(target=["third"]),
            ),
            r"no target that both have \(label, other and third\)",
        ),
    ],
)
def test_what_cannot_be_paired_is_refused(make, says):
    with pytest.raises(pc.InputError, match=says):
        pc.compare(*make(results()))


def test_groups_that_do_not_fit_are_refused():
    truth = np.arange(4)
    for groups, says in (([1, 2], "2 groups for 4"), ({"a": 1}, "without names")):
        with pytest.raises(pc.InputError, match=says):
            pc.compare(truth, truth, truth, groups=groups)
    with pytest.raises(pc.InputError, match="no group for 399 of 400"):
        pc.compare(results(), results(), groups={"image 0": 1})
    for missing in (np.nan, None):
        with pytest.raises(pc.InputError, match="got no group for 2 of 4 samples, first number 1"):
            pc.compare(truth, truth, truth, groups=[0, missing, missing, 1])
    with pytest.raises(pc.InputError, match="bootstrap 5"):
        pc.compare(truth, truth, truth, bootstrap=5)


def test_bands_of_classes_stay_within_what_an_accuracy_can_be():
    """Two seeds that differ much: Student's t with one degree of freedom reaches far beyond 0 and 1."""
    data = synthetic_results(n_seeds=2)
    data["class_accuracy"].loc[{"seed": 0}] *= 0.2
    effects = class_effects(data)
    for name, least, most in (
        ("class_accuracy", 0, 1),
        ("worst_accuracy", 0, 1),
        ("gini", 0, 1),
        ("loss", -1, 1),
    ):
        assert least <= effects[f"{name}_low"].min() <= effects[f"{name}_high"].max() <= most, name
    assert (effects["worst_accuracy_low"] == 0).any()
    assert (effects["class_accuracy_high"] == 1).any()
    assert (effects["coefficient_of_variation_low"] >= 0).all()


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two sweeps that kept their predictions: (store, logistic, ridge)."""
    folder = tmp_path_factory.mktemp("swept")
    store = write(folder / "s.zarr")
    out = []
    for probe in ("logistic", "ridge"):
        where = folder / f"{probe}.zarr"
        pc.sweep(
            store,
            layer="mine",
            fractions=[0.25, 1],
            seeds=2,
            l2=[1e-2, 1],
            probe=probe,
            save_predictions=True,
            out=where,
            device="cpu",
        )
        out.append(str(where))
    return store, *out


def test_sweeps_that_kept_predictions_agree_with_their_own_accuracies(swept):
    store, a, b = swept
    found = pc.compare(a, b)
    assert found.attrs["probe"] == "logistic against ridge"
    assert int(found["n_samples"]) == int((store.status("test") == 1).sum())
    for name, path in (("accuracy_a", a), ("accuracy_b", b)):
        accuracy = read_sweep(path)["accuracy"].mean("seed")
        np.testing.assert_allclose(found[name].transpose(*accuracy.dims), accuracy, atol=1e-12)
    fitted = pc.fit_probe(store, layer="mine", fraction=0.25, seed=1, l2=1e-2, device="cpu")
    keep = store.status("test") == 1
    at = {"layer": "mine", "fraction": 0.25, "seed": 1, "l2": 1e-2}
    kept = read_sweep(a)["predictions"].sel(at).values.ravel()
    np.testing.assert_array_equal(kept[keep], fitted.predict(store.matrix("test", "mine")[keep]))
    assert (kept[~keep] == -1).all()


def test_the_command(swept, tmp_path, capsys):
    store, a, b = swept
    assert _run(["compare", a, b], False) == 0
    shown = capsys.readouterr().out
    assert "probe: logistic against ridge\n234 test samples\n" in shown
    assert len(shown.splitlines()) == 3 + 4
    out = tmp_path / "c.csv"
    line = ["compare", a, a, "--l2", "0.01,1", "--fraction", "0.25", "--layer", "mine", "--out", str(out)]
    assert _run(line, False) == 0
    assert "l2: 0.01 against 1.0" in capsys.readouterr().out
    data = read_sweep(a).sel(fraction=[0.25])
    found = pc.compare(data.sel(l2=[0.01]), data.sel(l2=[1.0]))
    table = pd.read_csv(out)
    assert table["difference"].tolist() == pytest.approx([found["difference"].item()] * 2)
    assert table["p_mcnemar"].tolist() == pytest.approx(found["p_mcnemar"].values.ravel().tolist())
    groups, folder = tmp_path / "groups.csv", tmp_path / "c.zarr"
    names = store.samples("test").tolist()
    pd.DataFrame({"sample": names, "group": np.arange(240) // 8}).to_csv(groups, index=False)
    assert _run(["compare", a, b, "--groups", str(groups), "--out", str(folder)], False) == 0
    assert "234 test samples in 30 groups" in capsys.readouterr().out
    assert int(xr.open_zarr(folder, consolidated=False)["n_groups"]) == 30
    pd.DataFrame({"sample": ["test 0", "test 0"], "group": [1, 2]}).to_csv(tmp_path / "twice.csv")
    for wrong in (
        line,  # --out is there
        ["compare", a, str(tmp_path / "none")],
        ["compare", a, b, "--layer", "three"],
        ["compare", a, b, "--groups", str(tmp_path / "twice.csv")],
        ["compare", a, b, "--groups", str(tmp_path / "none.csv")],
        ["compare", a, b, "--groups", str(out)],
    ):
        assert _run(wrong, False) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
