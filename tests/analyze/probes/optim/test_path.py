"""Paths of penalties: each probe ends at its own minimum, whatever its neighbours left it."""

import numpy as np
import pytest
import torch

from probecache.analyze.probes.fit import fit_block
from probecache.analyze.probes.optim import fit_logistic, path
from probecache.analyze.probes.optim.fit_logistic import fit_after
from probecache.analyze.tasks.task import Task


def task(n, d, classes, spread, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    mixed = rng.normal(size=(n, d)) @ (np.diag(np.geomspace(1, 0.05, d)) + 0.1 * rng.normal(size=(d, d)))
    x = (spread * rng.normal(size=(classes, d))[y] + mixed).astype(np.float32)
    return Task(x, y, x[:90], y[:90])


@pytest.mark.parametrize(
    ("classes", "spread", "slow"),
    [(5, 0.3, 60), (5, 0.3, 1), (2, 0.9, 60)],
    ids=["five classes", "factors made anew each time", "two, separable"],
)
def test_each_penalty_of_a_fine_path_is_within_its_tol_of_the_minimum(classes, spread, slow, monkeypatch):
    monkeypatch.setattr(path, "SLOW", slow)
    monkeypatch.setattr(path, "LONE", 2 if slow > 1 else 1)  # some probes with class Grams of their own
    some, order, ks = task(3000, 120, classes, spread), np.arange(120)[None], np.array([120, 40])
    l2s, tol = np.geomspace(1e-5, 1, 10), 1e-4  # near enough to start from one another
    found = fit_block(some, order, ks, l2s, tol=tol, device="cpu")
    best = [
        fit_block(some, order, ks, l2s[i : i + 1], tol=1e-7, device="cpu").objective for i in range(len(l2s))
    ]
    assert found.converged.all()
    gaps = found.objective / np.concatenate(best, axis=2) - 1
    assert gaps.max() < 1.5 * tol


@pytest.mark.parametrize("search", [torch.float32, torch.bfloat16])
def test_no_probe_is_left_where_one_penalty_after_the_other_starts(search, monkeypatch):
    monkeypatch.setattr(path, "_search_dtype", lambda batch, penalties: search)
    some, order, ks = task(3000, 120, 3, 0.5, seed=3), np.arange(120)[None], np.array([120, 80, 40])
    l2s = np.geomspace(1e-6, 1, 14)  # the smallest loss is 2e-5: what stays the same grows beside it
    found, best = (fit_block(some, order, ks, l2s, tol=tol, device="cpu") for tol in (1e-2, 1e-7))
    assert found.converged.all()
    assert (found.objective / best.objective - 1).max() < 1.5e-2  # twelve times tol, before


def test_a_search_in_float32_goes_on_from_the_penalty_before(monkeypatch):
    lent, pairs = fit_logistic.History.of_another, []

    def noted(history):
        pairs.append(int(history.pairs.min()))
        return lent(history)

    monkeypatch.setattr(path, "_search_dtype", lambda batch, penalties: torch.float32)
    monkeypatch.setattr(fit_logistic.History, "of_another", noted)
    some, order, ks = task(3000, 120, 5, 0.3), np.arange(120)[None], np.array([120, 40])
    found = fit_block(some, order, ks, np.geomspace(1e-5, 1e-2, 8), tol=1e-5, device="cpu")
    assert found.converged.all()
    assert len(pairs) == 7
    assert min(pairs) >= 2
    assert pairs == sorted(pairs)  # each knows what those before have learnt


@pytest.mark.parametrize(("sums", "near"), [(True, True), (False, True), (False, False)])
def test_paths_are_searched_in_float32_where_bfloat16_products_are_rounded(sums, near, monkeypatch):
    asked = []
    monkeypatch.setattr(path.bfloat16_product, "available", lambda: sums)
    monkeypatch.setattr(path, "search_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr(
        path,
        "fit_after",
        lambda *given, search, **how: asked.append(search) or fit_after(*given, search=torch.float32, **how),
    )
    l2s = np.array([1e-3, 3e-3] if near else [1e-3, 1e-1])
    fit_block(task(600, 20, 5, 0.3), np.arange(20)[None], np.array([20]), l2s, tol=1e-3, device="cpu")
    assert asked == [torch.float32 if near and not sums else torch.bfloat16] * 2


def test_two_classes_go_on_where_only_narrow_probes_are_left(monkeypatch):
    search, made, widths = path.search_roughly, path.curved_by, []

    def wide_ends(*given):
        found = search(*given)
        found.converged[:] = torch.tensor([True, False])
        return found

    def curved_by(batch, *given):
        widths.append(batch.width)
        return made(batch, *given)

    some, sizes = task(1500, 60, 2, 0.3), np.array([60, 6])
    how = {"device": "cpu", "tol": 1e-6}
    plain = fit_block(some, np.arange(60)[None], sizes, np.array([1e-3]), **how)
    monkeypatch.setattr(path, "search_roughly", wide_ends)
    monkeypatch.setattr(path, "curved_by", curved_by)
    found = fit_block(some, np.arange(60)[None], sizes, np.array([1e-3]), **how)
    assert set(widths) <= {7}  # none where bfloat16 is not searched in
    assert found.converged.all()
    np.testing.assert_allclose(found.objective, plain.objective, rtol=2e-6)


def test_penalties_of_many_classes_that_are_far_apart_are_fitted_as_each_alone(monkeypatch):
    some, order, ks = task(4000, 60, 40, 0.3), np.arange(60)[None], np.array([60, 30])
    how = {"device": "cpu", "tol": 1e-5}
    together = fit_block(some, order, ks, np.array([1e-4, 1e-2]), **how)
    for p, l2 in enumerate([1e-4, 1e-2]):
        alone = fit_block(some, order, ks, np.array([l2]), **how)
        np.testing.assert_array_equal(together.objective[..., p], alone.objective[..., 0])
        np.testing.assert_array_equal(together.n_iter[..., p], alone.n_iter[..., 0])
