"""CKA of subsets against linear CKA computed from the sample-by-sample kernels, by definition."""

import numpy as np
import pytest
import xarray as xr

from probecache.analyze.selections.subsets import permutation
from probecache.analyze.similarity.cka import (
    cka,
    cka_between,
    cka_with_full,
    debiased_form,
    nested_masks,
    products_squared,
)
from probecache.analyze.similarity.gram import centred_gram, cross_products
from probecache.store.errors import InputError
from tests.analyze.synthetic import MemoryStore, features


def direct_cka(x, y):
    """Kornblith et al. 2019: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with linear kernels, centred by H."""
    n = len(x)
    h = np.eye(n) - 1 / n
    k, m = h @ (x @ x.T) @ h, h @ (y @ y.T) @ h
    return np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))


def unbiased_hsic(x, y):
    """Song et al. 2012, equation 5: diagonals set to zero."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    one = np.ones(n)
    total = (
        np.trace(k @ m)
        + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ m @ one)
    )
    return total / (n * (n - 3))


def direct_debiased(x, y):
    return unbiased_hsic(x, y) / np.sqrt(unbiased_hsic(x, x) * unbiased_hsic(y, y))


@pytest.fixture
def x():
    return features(n=120, d=16).astype(np.float64)


@pytest.fixture
def store(x):
    return MemoryStore({("test", "penultimate"): x})


def test_subset_against_full_is_the_definition(store, x):
    got = cka(store, layer="penultimate", split="test", fractions=[0.1, 0.25, 0.6, 1.0], seeds=3)
    assert got.cka.dims == ("fraction", "seed")
    assert got.permutation.dims == ("layer", "seed", "neuron")
    for i, k in enumerate(got.n_neurons.values):
        for seed in range(3):
            columns = permutation(16, seed)[:k]
            assert got.permutation.values[0, seed, :k].tolist() == columns.tolist()
            assert float(got.cka[i, seed]) == pytest.approx(direct_cka(x[:, columns], x), rel=1e-10)
            assert float(got.cka_debiased[i, seed]) == pytest.approx(
                direct_debiased(x[:, columns], x), rel=1e-9
            )


def test_two_subsets_of_one_size_are_the_definition(store, x):
    got = cka(store, layer="penultimate", split="test", fractions=[0.25, 0.5], seeds=[3, 7, 11])
    assert got.sizes["pair"] == 3
    for i, k in enumerate(got.n_neurons.values):
        for p in range(3):
            one, two = int(got["first"][p]), int(got["second"][p])
            a, b = x[:, permutation(16, one)[:k]], x[:, permutation(16, two)[:k]]
            assert float(got.cka_pair[i, p]) == pytest.approx(direct_cka(a, b), rel=1e-10)
            assert float(got.cka_pair_debiased[i, p]) == pytest.approx(direct_debiased(a, b), rel=1e-9)


def test_full_layer_has_cka_one(store):
    got = cka(store, layer="penultimate", split="test", fractions=[1.0], seeds=2)
    np.testing.assert_allclose(got.cka, 1.0, rtol=1e-12)
    np.testing.assert_allclose(got.cka_debiased, 1.0, rtol=1e-12)


def test_batches_equal_one_at_a_time(store, x):
    gram = centred_gram(store, "test", "penultimate", squares=True)
    masks = (np.random.default_rng(0).random((30, 16)) < 0.4).astype(float)
    masks[:, 0] = 1
    for matrix, direct in ((products_squared(gram), direct_cka), (debiased_form(gram), direct_debiased)):
        whole, pairs = cka_with_full(matrix, masks), cka_between(matrix, masks)
        for i in (0, 7, 29):
            assert whole[i] == pytest.approx(direct(x[:, masks[i] > 0], x), rel=1e-9)
            assert pairs[i, 3] == pytest.approx(direct(x[:, masks[i] > 0], x[:, masks[3] > 0]), rel=1e-9)


def test_masks_nest():
    orders = np.stack([permutation(10, s) for s in range(3)])
    masks = nested_masks(orders, np.array([2, 5, 10]))
    assert masks.sum(-1).tolist() == [[2] * 3, [5] * 3, [10] * 3]
    assert (masks[0] <= masks[1]).all()
    assert masks[2].all()


def test_failed_rows_are_left_out(x):
    spoiled = x.copy()
    spoiled[[3, 50]] = np.nan
    store = MemoryStore({("test", "penultimate"): spoiled}, failed=(3, 50))
    got = cka(store, layer="penultimate", split="test", fractions=[0.5], seeds=1)
    kept = np.delete(x, [3, 50], axis=0)
    assert float(got.cka[0, 0]) == pytest.approx(direct_cka(kept[:, permutation(16, 0)[:8]], kept), rel=1e-10)
    assert got.attrs["samples"] == 118


def test_row_blocks_do_not_change_the_gram(store, x):
    whole = centred_gram(store, "test", "penultimate", squares=True)
    parts = centred_gram(store, "test", "penultimate", squares=True, rows=7)
    np.testing.assert_allclose(parts.products, whole.products, rtol=1e-12)
    np.testing.assert_allclose(parts.squares, whole.squares, rtol=1e-12)
    np.testing.assert_allclose(whole.products, np.cov(x.T) * (len(x) - 1), rtol=1e-9)


def test_cross_products_is_the_product_and_refuses_other_samples(x):
    y = features(n=120, d=5, seed=1).astype(np.float64)
    one = MemoryStore({("test", "a"): x}, failed=(2,), path="one.zarr")
    two = MemoryStore({("test", "b"): y}, failed=(5,), path="two.zarr")
    keep = np.delete(np.arange(120), [2, 5])
    xc, yc = x[keep] - x[keep].mean(0), y[keep] - y[keep].mean(0)
    np.testing.assert_allclose(
        cross_products(one, "a", two, "b", "test", rows=50).xy, xc.T @ yc, rtol=1e-8, atol=1e-9
    )
    renamed = MemoryStore({("test", "b"): y}, samples=[f"other-{i}" for i in range(120)], path="three.zarr")
    with pytest.raises(
        InputError, match=r"sample 0 of test is image-0 in one.zarr and other-0 in three.zarr"
    ):
        cross_products(one, "a", renamed, "b", "test")
    shorter = MemoryStore({("test", "b"): y[:100]}, path="four.zarr")
    with pytest.raises(InputError, match=r"has 120 samples in test, four.zarr has 100"):
        cross_products(one, "a", shorter, "b", "test")


def test_what_is_given_twice_or_alone_counts_once(store):
    once = cka(store, layer="penultimate", split="test", fractions=[0.25], seeds=[4, 2])
    for fractions, seeds in ((0.25, [4, 2, 4]), ([0.25, 0.25], np.array([4, 2]))):
        again = cka(store, layer="penultimate", split="test", fractions=fractions, seeds=seeds)
        xr.testing.assert_identical(again, once)


def test_a_constant_subset_has_no_cka(x):
    x[:, permutation(16, 0)[0]] = 3.0
    store = MemoryStore({("test", "penultimate"): x})
    got = cka(store, layer="penultimate", split="test", fractions=[1 / 16, 1.0], seeds=1)
    assert np.isnan(got.cka[0, 0])
    assert float(got.cka[1, 0]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("fractions", "seeds", "says"),
    [
        ([0.0, 1.0], 2, "fraction 0"),
        (["half"], 2, "got fractions"),
        ([0.5], 0, "got seeds 0"),
        ([0.5], [-1], "got seeds"),
    ],
)
def test_wrong_input(store, fractions, seeds, says):
    with pytest.raises(InputError, match=says):
        cka(store, layer="penultimate", split="test", fractions=fractions, seeds=seeds)


def test_too_few_samples():
    store = MemoryStore({("test", "penultimate"): np.ones((3, 4))})
    with pytest.raises(InputError, match="3 usable samples in test: similarity needs at least 4"):
        cka(store, layer="penultimate", split="test", fractions=[0.5])


def test_a_layer_too_wide_for_its_gram_is_refused_before_it_is_read():
    class Wide(MemoryStore):
        def shape(self, split, layer):
            return 10**6, 10**6

    with pytest.raises(InputError, match=r"1,000,000 neurons, .* 14901 GiB, more than this machine's"):
        cka(Wide({("test", "l"): features()}), layer="l", split="test")


def test_layers_come_one_at_a_time(store):
    with pytest.raises(InputError, match=r"got layer \['l'\]; one at a time"):
        cka(store, layer=["l"], split="test")


@pytest.mark.parametrize("n", [5, 30])
def test_few_samples_of_many_neurons_have_the_cka_of_the_definition(n):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n + 1, 4)) @ rng.normal(size=(4, 400)) + rng.normal(size=(n + 1, 400)) + 3
    x = x.astype(np.float32)
    x[n] = np.nan  # failed
    store = MemoryStore({("test", "l"): x}, failed=[n])
    got = cka(store, layer="l", split="test", fractions=[1.0, 0.01, 0.3], seeds=3)
    kept = x[:n].astype(np.float64)
    for i, k in enumerate((400, 4, 120)):
        for seed in range(3):
            part = kept[:, permutation(400, seed)[:k]]
            assert float(got.cka[i, seed]) == pytest.approx(direct_cka(part, kept), rel=1e-10)
            own, whole = unbiased_hsic(part, part), unbiased_hsic(kept, kept)
            wanted = unbiased_hsic(part, kept) / np.sqrt(own * whole) if own > 0 else np.nan
            assert float(got.cka_debiased[i, seed]) == pytest.approx(wanted, rel=1e-8, nan_ok=True)
        pair = (int(got["first"][2]), int(got["second"][2]))
        first, second = (kept[:, permutation(400, seed)[:k]] for seed in pair)
        assert float(got.cka_pair[i, 2]) == pytest.approx(direct_cka(first, second), rel=1e-10)
    assert got.attrs["samples"] == n
