"""Dimensions and isotropy against numpy by definition, and against clouds whose answer is known."""

import numpy as np
import pytest
import xarray as xr

import probecache as pc
from probecache.analyze.geometry.geometry import MEASURES, coding_bound
from probecache.analyze.geometry.relation import relation
from probecache.analyze.geometry.spectrum import effective_rank, isoscore, participation_ratio
from probecache.analyze.geometry.two_nn import nearest_two, two_nn


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(300, 5)) @ rng.normal(size=(5, 16)) + 0.1 * rng.normal(size=(300, 16)) + 3
    ).astype(np.float32)


@pytest.fixture(scope="module")
def store(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("geometry") / "s.zarr"
    status = np.ones(len(rows), np.uint8)
    for layer, values in (("early", rows[:, :6]), ("late", rows)):
        pc.write_arrays(path, split="train", layer=layer, activations=values, labels=np.arange(len(rows)) % 4)
    assert status.all()
    return pc.open_store(path)


@pytest.mark.parametrize("standardize", [False, True])
def test_every_measure_is_its_definition(store, rows, standardize):
    found = pc.geometry(store, split="train", standardize=standardize)
    assert found["layer"].values.tolist() == ["early", "late"]
    x = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    x = x / x.std(0) if standardize else x
    values = np.linalg.svd(x, compute_uv=False) ** 2 / len(x)  # not the way it is computed
    late = found.sel(layer="late")
    assert float(late.participation_ratio) == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-6)
    share = values / values.sum()
    assert float(late.effective_rank) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)
    assert int(late.components_90) == int((np.cumsum(share) < 0.9).sum()) + 1
    # IsoScore step by step: the covariance's diagonal in principal coordinates, normalised; defect; phi
    d = 16
    normal = values * np.sqrt(d) / np.linalg.norm(values)
    defect = np.linalg.norm(normal - 1) / np.sqrt(2 * (d - np.sqrt(d)))
    phi = (d - defect**2 * (d - np.sqrt(d))) ** 2 / d**2
    assert float(late.isoscore) == pytest.approx((d * phi - 1) / (d - 1), rel=1e-6)
    assert float(late.two_nn) == pytest.approx(slow_two_nn(x), rel=1e-6)
    assert (int(late.neurons), float(found.coding_neurons)) == (16, pytest.approx(np.log(4)))


def slow_two_nn(x):
    ratios = []
    for i in range(len(x)):
        apart = sorted(np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if j != i)
        ratios.append(apart[1] / apart[0])
    ratios = np.sort(ratios)[: int(0.9 * len(x))]
    ranks = np.arange(1, len(ratios) + 1) / len(x)
    return np.linalg.lstsq(np.log(ratios)[:, None], -np.log(1 - ranks), rcond=None)[0][0]


def test_clouds_whose_answer_is_known():
    rng = np.random.default_rng(1)
    plane = rng.uniform(size=(1200, 2)) @ np.linalg.qr(rng.normal(size=(20, 2)))[0].T
    assert two_nn(plane) == pytest.approx(2, abs=0.15)
    assert two_nn(rng.uniform(size=(1200, 5))) == pytest.approx(5, abs=0.5)
    assert isoscore(np.ones(8)) == pytest.approx(1)
    assert isoscore(np.eye(8)[0]) == pytest.approx(0)
    for measure in (participation_ratio, effective_rank):
        assert measure(np.ones(8)) == pytest.approx(8)
        assert measure(np.eye(8)[0]) == pytest.approx(1)


def test_what_has_no_answer_is_nan_and_copies_count_once():
    dead = np.zeros(4)
    assert all(np.isnan(f(dead)) for f in (participation_ratio, effective_rank, isoscore))
    assert np.isnan(isoscore(np.ones(1)))
    assert np.isnan(two_nn(np.ones((50, 3))))
    rng = np.random.default_rng(2)
    some = rng.normal(size=(200, 3))
    assert two_nn(np.concatenate([some, some[:50]])) == two_nn(some)


def test_near_neighbours_far_from_the_origin_are_exact():
    rng = np.random.default_rng(3)
    rows = 1e6 + rng.normal(size=(120, 4)) * 1e-2
    apart = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1))
    np.fill_diagonal(apart, np.inf)
    np.testing.assert_allclose(nearest_two(rows, block=50), np.sort(apart, axis=1)[:, :2], rtol=1e-6)


def test_failed_rows_and_a_cap_of_rows(store, rows):
    few = pc.geometry(store, "late", "train", rows=100)
    assert few["layer"].values.tolist() == ["late"]
    whole = pc.geometry(store, "late", "train")
    assert float(few.participation_ratio[0]) == float(whole.participation_ratio[0])
    assert float(few.two_nn[0]) != float(whole.two_nn[0])


def test_the_coding_bound_and_wrong_input(store):
    assert coding_bound(1000, 4)[1] == pytest.approx(16 * np.log(1000))
    assert coding_bound(1000, 4)[0] == pytest.approx(16 * np.log(250) / np.log(4))
    with pytest.raises(pc.InputError, match="got 5 active of 4 features"):
        coding_bound(4, 5)
    with pytest.raises(pc.InputError, match="no layer 'lat'"):
        pc.geometry(store, "lat", "train")


def test_relation_ranks_layers_and_resamples_whole_studies():
    def study(seed, turn):
        values = np.random.default_rng(seed).permutation(4).astype(float) + 1
        shape = xr.Dataset(dict.fromkeys(MEASURES, ("layer", values * 2)), {"layer": list("abcd")})
        shape["neurons"] = ("layer", [10, 10, 10, 10])
        return shape, xr.DataArray(turn * values, dims="layer", coords={"layer": list("abcd")})

    same = relation({"one": study(0, 1), "two": study(1, 1)})
    assert same.rho.values == pytest.approx(np.ones(5))
    assert same.rho_low.values == pytest.approx(np.ones(5))
    assert relation({"one": study(0, -1)}).rho.values == pytest.approx(-np.ones(5))
    assert np.isnan(relation({"one": study(0, -1)}).rho_low).all()
    from scipy.stats import spearmanr

    rng = np.random.default_rng(5)
    shape, dr = study(2, 1)
    dr = dr.copy(data=rng.normal(size=4))
    dr[0] = np.nan
    got = relation({"one": (shape, dr)})
    assert got.points == 3
    want = spearmanr(dr[1:], shape.two_nn[1:]).statistic
    assert float(got.rho.sel(measure="two_nn")) == pytest.approx(want)
    with pytest.raises(pc.InputError, match="a correlation needs 3"):
        relation({"one": (shape, dr.isel(layer=[0, 1]))})
