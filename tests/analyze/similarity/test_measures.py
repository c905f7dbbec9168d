"""Every measure against a direct computation on the sample matrices, by scipy, scikit-learn or definition."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes, qr
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

import probecache as pc
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.similarity.compare import similarity, subset_similarity
from probecache.analyze.similarity.measures import MEASURES
from probecache.analyze.similarity.rsa import rsa
from probecache.store.errors import InputError
from tests.analyze.similarity.test_cka import direct_cka, direct_debiased
from tests.analyze.synthetic import MemoryStore, features


def direct_procrustes(x, y):
    """The best rotation found by scipy, applied, and the distance measured."""
    x, y = x - x.mean(0), y - y.mean(0)
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(a, ((0, 0), (0, width - a.shape[1]))) / np.linalg.norm(a) for a in (x, y))
    rotation, _ = orthogonal_procrustes(y, x)
    return np.linalg.norm(x - y @ rotation)


def canonical(x, y):
    """Canonical correlations and X's variates by QR (Bjorck and Golub 1973)."""
    qx, qy = qr(x - x.mean(0), mode="economic")[0], qr(y - y.mean(0), mode="economic")[0]
    u, s, _ = np.linalg.svd(qx.T @ qy, full_matrices=False)
    return s, qx @ u


def direct_svcca(x, y):
    def leading(a):
        u, s, _ = np.linalg.svd(a - a.mean(0), full_matrices=False)
        keep = int(np.argmax(np.cumsum(s**2) / np.sum(s**2) >= 0.99)) + 1
        return u[:, :keep] * s[:keep]

    return canonical(leading(x), leading(y))[0].mean()


def direct_pwcca(x, y):
    correlations, variates = canonical(x, y)
    weights = np.abs(variates.T @ (x - x.mean(0))).sum(1)
    return (weights * correlations).sum() / weights.sum()


DIRECT = {
    "linear_cka": direct_cka,
    "linear_cka_debiased": direct_debiased,
    "orthogonal_procrustes_centered_and_normalized": direct_procrustes,
    "svcca": direct_svcca,
    "pwcca": direct_pwcca,
}
X = features(n=150, d=12, seed=0).astype(np.float64)
Y = np.maximum(X @ np.random.default_rng(1).normal(size=(12, 7)) + features(n=150, d=7, seed=2), 0)


@pytest.fixture
def store():
    return MemoryStore({("test", "blocks.3"): Y, ("test", "penultimate"): X})


def test_all_measures_have_an_oracle():
    assert set(DIRECT) == set(MEASURES)


@pytest.mark.parametrize("name", sorted(DIRECT))
def test_layers_and_stores_against_direct_computation(store, name):
    layers = ["blocks.3", "penultimate"]
    matrices = {"blocks.3": Y, "penultimate": X}
    got = similarity(store, layers=layers, split="test", measure=name)
    assert got.dims == ("layer", "other_layer")
    for a in layers:
        for b in layers:
            want = DIRECT[name](matrices[a], matrices[b])
            assert float(got.sel(layer=a, other_layer=b)) == pytest.approx(want, rel=1e-6, abs=1e-6), (a, b)
    one = MemoryStore({("test", "penultimate"): X}, path="one.zarr")
    two = MemoryStore({("test", "blocks.3"): Y}, path="two.zarr")
    across = similarity(
        one, layers=["penultimate"], split="test", other=two, other_layers=["blocks.3"], measure=name
    )
    assert float(across[0, 0]) == pytest.approx(DIRECT[name](X, Y), rel=1e-6)
    assert across.attrs["other_store"] == "two.zarr"


@pytest.mark.parametrize("name", sorted(DIRECT))
def test_declared_range_direction_and_invariances(name):
    kind = MEASURES[name]
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    noise = rng.normal(size=X.shape)
    rotated = MemoryStore({("test", "a"): X, ("test", "b"): 3.5 * X @ rotation + 2.0, ("test", "c"): noise})
    got = similarity(rotated, layers=["a", "b", "c"], split="test", measure=name)
    best = kind.high if kind.larger_is_closer else kind.low
    assert float(got[0, 0]) == pytest.approx(best, abs=1e-6)
    assert float(got[0, 1]) == pytest.approx(best, abs=1e-6)  # rotated, scaled and moved: the same
    other = similarity(rotated, layers=["c"], split="test", other_layers=["a", "b"], measure=name)
    mine = similarity(rotated, layers=["a", "b"], split="test", other_layers=["c"], measure=name)
    assert float(other[0, 0]) == pytest.approx(float(other[0, 1]), abs=1e-6)
    same = float(mine[0, 0]) == pytest.approx(float(mine[1, 0]), abs=1e-6)
    assert same == ("orthogonal transformation" in kind.invariances)
    assert (float(got[0, 2]) < float(got[0, 1])) == kind.larger_is_closer
    assert ((got >= kind.low - 1e-9) & (got <= kind.high + 1e-9)).all()
    if kind.symmetric:
        np.testing.assert_allclose(got, got.values.T)


def test_subsets_of_a_layer_against_direct_computation(store):
    got = subset_similarity(
        store, layer="penultimate", split="test", fractions=[0.25, 1.0], seeds=2, measures=sorted(DIRECT)
    )
    for i, k in enumerate(got.n_neurons.values):
        for seed in range(2):
            subset = X[:, permutation(12, seed)[:k]]
            for name, direct in DIRECT.items():
                assert float(got[name][i, seed]) == pytest.approx(direct(subset, X), rel=1e-5, abs=2e-6), name


def test_rsa_against_scipy():
    x = X + np.random.default_rng(5).normal(size=X.shape)  # no two distances tie
    store = MemoryStore({("test", "penultimate"): x})
    got = rsa(store, layer="penultimate", split="test", fractions=[0.25, 1.0], seeds=2, samples=40)
    rows = np.sort(permutation(150, 0)[:40])
    for seed in range(2):
        subset = x[rows][:, permutation(12, seed)[:3]]
        ours, full = (pdist(a, "correlation") for a in (subset, x[rows]))
        want = spearmanr(ours, full).statistic
        assert float(got.rsa[0, seed]) == pytest.approx(want, abs=1e-9)
    np.testing.assert_allclose(got.rsa[1], 1.0)


def test_a_constant_layer_is_similar_to_nothing():
    store = MemoryStore({("test", "a"): X, ("test", "b"): np.ones((150, 3))})
    assert np.isnan(similarity(store, layers=["a"], other_layers=["b"], split="test")[0, 0])


def test_unknown_measure_and_too_few_samples(store):
    with pytest.raises(InputError, match=r"got measure 'svca'; close names: svcca"):
        similarity(store, layers=["penultimate"], split="test", measure="svca")
    with pytest.raises(InputError, match="RSA compares pairs of at least 3"):
        rsa(store, layer="penultimate", split="test", fractions=[1.0], samples=2)


@pytest.mark.parametrize("name", sorted(DIRECT))
def test_more_neurons_than_samples(name):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20, 3))
    matrices = {"wide": z @ rng.normal(size=(3, 90)) + rng.normal(size=(20, 90)), "narrow": z}
    store = MemoryStore({("test", layer): x for layer, x in matrices.items()})
    got = similarity(store, layers=["wide", "narrow"], split="test", measure=name)
    for a, x in matrices.items():
        for b, y in matrices.items():
            want = DIRECT[name](x, y)
            assert float(got.sel(layer=a, other_layer=b)) == pytest.approx(want, rel=1e-6, abs=1e-6), (a, b)


def test_a_pair_too_wide_for_its_products_is_refused():
    wide = MemoryStore({("test", "l"): np.broadcast_to(np.eye(5)[:, :1], (5, 10**6))})
    with pytest.raises(InputError, match=r"1,000,000 neurons, .* GiB, more than this machine's"):
        similarity(wide, layers=["l"], split="test", measure="pwcca")


def test_numbered_rows_of_other_classes_are_not_taken_for_the_same_samples(tmp_path):
    """Numbers say nothing of what a row is; labels that both stores have do."""
    y, order = np.arange(150) % 3, np.random.default_rng(3).permutation(150)

    def store(name, rows, labels, **more):
        options = {"split": "test", "layer": "l", "activations": X[rows].astype(np.float32), **more}
        return pc.write_arrays(tmp_path / name, labels=labels, **options)

    whole = slice(None)
    mine, other = store("a", whole, y), store("b", order, y[order])
    with pytest.raises(InputError, match=r"only numbered, and \d+ is '\d' in .*/a, '\d' in .*/b"):
        similarity(mine, split="test", other=other)
    coarse = store("c", whole, (y > 0).astype(int), class_names=["no", "yes"])  # another question of the same
    unlabelled = store("d", whole, None)
    for same in (store("e", whole, y), coarse, unlabelled):
        assert float(similarity(mine, split="test", other=same)[0, 0]) == pytest.approx(1)
