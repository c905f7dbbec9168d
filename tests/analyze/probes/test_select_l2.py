"""Choosing l2 by held-out rows (logistic) and by folds of the moments (ridge), against plain loops."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeClassifier

import probecache as pc
from probecache.analyze.probes.design.kept_panels import KeptPanels
from probecache.analyze.probes.fit import fit_block, fit_request, task_moments
from probecache.analyze.probes.kind import ProbeRequest
from probecache.analyze.probes.l2_choice.cross_validate import ridge_scores
from probecache.analyze.probes.l2_choice.folds import fold_numbers, held_out_rows, split_task
from probecache.analyze.probes.l2_choice.race import CLOSE, LOOSE, race
from probecache.analyze.probes.l2_choice.select_l2 import fit_chosen, refit
from probecache.analyze.probes.registry import get_kind
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.sweeps.plan import DIMS
from probecache.analyze.tasks.task import Task
from probecache.store.errors import FingerprintMismatch, InputError

PATH = np.array([1e-4, 1e-2, 1.0])
SIZES = np.array([4, 20, 9])


def blobs(classes=4, n=420, d=20, seed=0, spread=2.5):
    rng = np.random.default_rng(seed)
    y = np.sort(np.arange(n) % classes)  # sorted: a split that is not shuffled or stratified would show
    x = (rng.normal(size=(classes, d))[y] + spread * rng.normal(size=(n, d))).astype(np.float32)
    test = rng.permutation(n) < 120
    return Task(x[~test], y[~test], x[test], y[test])


def real_targets():
    task, rng = blobs(), np.random.default_rng(1)
    mix = rng.normal(size=(20, 2))
    y, truth = (m @ mix + rng.normal(scale=9, size=(len(m), 2)) + 4 for m in (task.train, task.test))
    return Task(task.train, y, task.test, truth)


def looped(task, order, k, l2, model):
    """Mean score of the folds, each fitted and scored by scikit-learn."""
    x = ((task.train - task.mean) / task.scale)[:, order[:k]].astype(np.float64)
    y, folds = task.train_labels, fold_numbers(task.train_labels, 5)
    found = []
    for fold in range(5):
        held = folds == fold
        fitted = model(alpha=l2 * (~held).sum()).fit(x[~held], y[~held])
        found.append(fitted.score(x[held], y[held]))
    return np.mean(found)


@pytest.mark.parametrize(
    ("task", "model"),
    [(blobs(), RidgeClassifier), (blobs(classes=2), RidgeClassifier), (real_targets(), Ridge)],
    ids=["four classes", "two classes", "regression"],
)
def test_folds_of_the_moments_equal_a_loop_over_scikit_learn(task, model):
    orders = np.stack([permutation(20, s) for s in (0, 1)])
    scores = ridge_scores(task_moments(task), orders, SIZES, PATH)
    assert scores.shape == (2, 3, 3)
    for (s, f, p), score in np.ndenumerate(scores):
        assert score == pytest.approx(looped(task, orders[s], SIZES[f], PATH[p], model), abs=1e-6)


def test_moments_without_a_fold_are_the_moments_of_the_other_rows():
    task = blobs()
    weights = np.random.default_rng(0).uniform(0, 3, len(task.train))
    held = fold_numbers(task.train_labels, 5) == 2
    for w in (None, weights):
        parts = []
        for rows in (np.ones_like(held), held, ~held):
            part = Task(
                task.train[rows],
                task.train_labels[rows],
                task.test,
                task.test_labels,
                mean=task.mean,
                scale=task.scale,
                weights=None if w is None else w[rows],
            )
            parts.append(task_moments(part, device="cpu").moments)
        left = parts[0].without(parts[1])
        assert left.count == pytest.approx(parts[2].count)
        for name in ("gram", "cross", "square"):
            np.testing.assert_allclose(getattr(left, name), getattr(parts[2], name), atol=1e-5)


@pytest.mark.parametrize("probe", ["logistic", "ridge"])
def test_each_probe_gets_the_best_of_the_path_and_all_rows(probe):
    task, orders = blobs(), np.stack([permutation(20, s) for s in (0, 1, 2)])
    got, chosen = fit_chosen(task, ProbeRequest(get_kind(probe), orders, SIZES, PATH, tol=1e-7))
    part = split_task(task, held_out_rows(task.train_labels))
    for s, f in np.ndindex(3, 3):
        one = orders[s : s + 1], SIZES[f : f + 1]
        if probe == "logistic":
            scores = fit_block(part, *one, PATH, tol=1e-7).accuracy[0, 0]
        else:
            scores = [looped(task, orders[s], SIZES[f], l2, RidgeClassifier) for l2 in PATH]
        best = max(l2 for l2, score in zip(PATH, scores, strict=True) if score >= max(scores) - 1e-9)
        assert chosen[s, f, 0] == best
        whole = fit_block(task, *one, np.array([best]), probe=probe, tol=1e-7)
        assert got.objective[s, f, 0] == pytest.approx(whole.objective.item(), rel=2e-5)
        assert got.accuracy[s, f, 0] == pytest.approx(whole.accuracy.item(), abs=0.01)
    assert len(np.unique(chosen)) > 1  # the case has something to choose


def test_the_held_out_part_is_a_fifth_of_each_class_and_repeats():
    labels = np.repeat([0, 1, 2, 3], [50, 10, 2, 1])
    held = held_out_rows(labels)
    assert np.bincount(labels[held], minlength=4).tolist() == [10, 2, 1, 0]
    np.testing.assert_array_equal(held, held_out_rows(labels))
    with pytest.raises(InputError, match="got one row per class in train"):
        held_out_rows(np.arange(5))


def test_folds_share_out_rows_and_classes_evenly():
    labels = np.repeat([0, 1, 2], [13, 7, 3])
    folds = fold_numbers(labels, 5)
    assert sorted(np.bincount(folds)) == [4, 4, 5, 5, 5]
    for label in (0, 1, 2):
        counts = np.bincount(folds[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    with pytest.raises(InputError, match="got 5 folds of 3 training rows"):
        fold_numbers(np.array([0, 1, 1]), 5)


def test_a_class_that_a_fold_cannot_fit_is_never_predicted_there():
    task = blobs(n=300)
    lone = task.train_labels.copy()
    lone[lone == 3] = 0
    lone[7] = 3  # one row of class 3: the fold that holds it out has none
    one = Task(task.train, lone, task.test, task.test_labels)
    order = np.arange(20)
    scores = ridge_scores(task_moments(one), order[None], np.array([20]), np.array([1e-2]))
    # RidgeClassifier without the class predicts among the others, as ours must
    assert scores[0, 0, 0] == pytest.approx(looped(one, order, 20, 1e-2, RidgeClassifier), abs=1e-6)
    got, _ = fit_chosen(one, ProbeRequest(get_kind("logistic"), order[None], np.array([20]), PATH))
    assert np.isfinite(got.objective).all()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path, task = tmp_path_factory.mktemp("penalty") / "s", blobs()
    for split in ("train", "test"):
        store = pc.write_arrays(
            path,
            split=split,
            layer="a",
            activations=getattr(task, split),
            labels=getattr(task, f"{split}_labels"),
        )
    return store


@pytest.mark.parametrize("probe", ["logistic", "ridge"])
def test_a_sweep_with_l2_auto_keeps_the_dimension_and_names_the_choice(store, tmp_path, probe):
    plan = {"layer": "a", "fractions": [0.2, 1], "probe": probe, "l2": "auto", "l2_path": PATH}
    first = pc.sweep(store, **plan, seeds=1, selection=["random", "pca"], out=tmp_path / "r")
    results = pc.sweep(store, **plan, seeds=2, selection=["random", "pca"], out=tmp_path / "r")
    assert results["accuracy"].dims == DIMS
    assert results["l2"].values.tolist() == ["auto"]
    np.testing.assert_array_equal(results["seconds"].sel(seed=[0]), first["seconds"])  # not computed again
    task = blobs()
    request = ProbeRequest(get_kind(probe), permutation(20, 1)[None], np.array([4, 20]), PATH)
    direct, chosen = fit_chosen(task, request)
    swept = results.sel({"selection": "random", "seed": 1, "l2": "auto", "layer": "a"}).squeeze()
    np.testing.assert_array_equal(swept["chosen_l2"], chosen[0, :, 0])
    np.testing.assert_allclose(swept["objective"], direct.objective[0, :, 0], rtol=1e-6)
    assert np.isin(results["chosen_l2"], PATH).all()
    with pytest.raises(FingerprintMismatch, match="l2_choice"):
        pc.sweep(store, **(plan | {"l2_path": [1e-3]}), seeds=1, out=tmp_path / "r")
    with pytest.raises(FingerprintMismatch, match="l2_choice"):
        pc.sweep(store, layer="a", fractions=[0.2], probe=probe, seeds=1, out=tmp_path / "r")
    assert float(pc.redundancy(results)["dr"].isel(selection=0).item()) <= 1


def test_a_layer_on_disk_chooses_as_in_memory(store, monkeypatch):
    plan = {"layer": "a", "fractions": [0.2, 1], "seeds": 2, "l2": "auto", "l2_path": PATH}
    for probe in ("logistic", "ridge"):
        here = pc.sweep(store, **plan, probe=probe)
        with monkeypatch.context() as patch:
            patch.setattr("probecache.analyze.tasks.load.stays_on_disk", lambda size, limit: True)
            streamed = pc.sweep(store, **plan, probe=probe)
        np.testing.assert_array_equal(streamed["chosen_l2"], here["chosen_l2"])
        np.testing.assert_allclose(streamed["objective"], here["objective"], rtol=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe": "knn"}, "got l2 'auto' for a knn probe, which has no l2"),
        ({"probe": "ridge", "solver": "sklearn"}, "got l2 'auto' for ridge with solver 'sklearn'"),
        ({"l2": "best"}, "got l2 'best'"),
        ({"l2": [1e-4, "auto"]}, "got l2 'auto'; allowed: 0 to 1e"),
        ({"l2": 1e-4, "l2_path": [1.0]}, "got l2_path and numbers for l2; give l2 auto"),
        ({"l2_path": [-1.0]}, "got l2_path -1.0"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(store, change, message):
    with pytest.raises(InputError, match=message) as caught:
        pc.sweep(store, **({"layer": "a", "fractions": [1], "l2": "auto"} | change))
    assert "\n" not in str(caught.value)


def test_losers_are_fitted_loosely_or_not_at_all_and_no_choice_is_a_row_worse_than_full_fits_best():
    rng = np.random.default_rng(3)
    y = np.arange(2400) % 4
    x = (0.25 * rng.normal(size=(4, 150))[y] + rng.normal(size=(2400, 150))).astype(np.float32)
    task, order, ks = Task(x, y, x[:9], y[:9]), np.arange(150)[None], np.array([8, 60, 150])
    path, asked = np.geomspace(1e-6, 10, 8), []

    def fit(part, request, shared):
        asked.append((request.tol, request.l2s.tolist(), request.sizes.tolist(), len(part.train)))
        return fit_request(part, request, shared)

    request = ProbeRequest(get_kind("logistic"), order, ks, path, tol=1e-7)
    _, chosen = fit_chosen(task, request, fit=fit)
    part = split_task(task, held_out_rows(y))
    full = fit_block(part, order, ks, path, tol=1e-7).accuracy[0]
    # Rows near a tie of two classes change sides with the processor's sums: one of 480 may decide.
    lost = [row.max() - row[path == l2][0] for row, l2 in zip(full, chosen[0, :, 0], strict=True)]
    assert max(lost) < 1.5 / 480
    tried = [one for one in asked if one[3] == len(part.train)]
    assert {tol for tol, l2s, _, _ in tried if max(l2s) < 0.03} >= {LOOSE}
    wide = [(tol, l2s) for tol, l2s, sizes, _ in tried if 150 in sizes]
    assert min(min(l2s) for _, l2s in wide) > 1e-5  # far behind: not followed
    again = [one for one in tried if one[0] < LOOSE and max(one[1]) < 0.03]
    assert again
    assert all(tol == CLOSE and len(sizes) < 3 for tol, _, sizes, _ in again)
    assert {tol for tol, l2s, _, _ in tried if min(l2s) > 0.03} == {1e-7}
    assert all(tol == 1e-7 for tol, *_, rows in asked if rows == 2400)


def test_penalties_beyond_one_that_is_far_behind_are_not_fitted_on_either_side():
    task = blobs(n=1000)
    told = {1e-6: 0.9, 1e-5: 0.3, 1e-4: 0.6, 1e-3: 0.79, 1e-2: 0.8, 0.1: 0.79, 1.0: 0.6, 10.0: 0.9}
    asked = []

    def fit(part, request, shared):
        asked.extend((l2, request.tol) for l2 in request.l2s.tolist())
        score = np.array([told[l2] for l2 in request.l2s])
        return SimpleNamespace(score=np.broadcast_to(score, (1, 1, len(score))), attrs={"tol": request.tol})

    request = ProbeRequest(get_kind("logistic"), np.arange(20)[None], np.array([20]), PATH)
    scores = race(task, task_moments(task), request, np.array(sorted(told)), fit)
    # 1e-4 and 1 are far behind 0.8 of so many rows; what lies beyond is never seen, be it the best
    assert [l2 for l2, _ in asked] == [0.1, 1e-2, 1e-3, 1e-4, 1.0, 1e-2, 1e-3]
    assert [tol for l2, tol in asked if l2 == 1e-2] == [LOOSE, CLOSE]
    assert np.isfinite(scores[0, 0]).tolist() == [False, False, False, True, True, True, False, False]


def test_rows_in_an_order_are_arranged_once_for_its_prefixes():
    task, order = blobs(n=300), permutation(20, 1)
    shared = replace(task_moments(task, device="cpu"), kept=KeptPanels())
    (wide,) = shared.panels([order], keep=True)
    wide.of(0, torch.bfloat16)
    (part,) = shared.panels([order[:7]], keep=True)
    assert part.of(0).data_ptr() == wide.of(0).data_ptr()
    assert part.of(0, torch.bfloat16).data_ptr() == wide.of(0, torch.bfloat16).data_ptr()
    (other,) = shared.panels([permutation(20, 2)], keep=True)
    for panel, columns in ((part, order[:7]), (other, permutation(20, 2))):
        z = (task.train - task.mean) / task.scale
        np.testing.assert_allclose(panel.of(0)[1:], z[:, columns].T, atol=1e-5)


def test_on_few_rows_small_penalties_are_fitted_closely_and_large_ones_to_tol():
    rng = np.random.default_rng(4)
    y = np.arange(200) % 4
    x = (0.3 * rng.normal(size=(4, 150))[y] + rng.normal(size=(200, 150))).astype(np.float32)
    task, order, ks = Task(x, y, x[:9], y[:9]), np.arange(150)[None], np.array([100, 150])
    path, asked = np.geomspace(1e-6, 10, 8), []

    def fit(part, request, shared):
        asked.append((len(part.train), request.tol, request.l2s.tolist()))
        return fit_request(part, request, shared)

    request = ProbeRequest(get_kind("logistic"), order, ks, path, tol=1e-7)
    _, chosen = fit_chosen(task, request, fit=fit)
    assert asked[:2] == [(160, CLOSE, path[:5].tolist()), (160, 1e-7, path[5:].tolist())]
    full = fit_block(split_task(task, held_out_rows(y)), order, ks, path, tol=1e-7).accuracy[0]
    lost = [row.max() - row[path == l2][0] for row, l2 in zip(full, chosen[0, :, 0], strict=True)]
    assert max(lost) < 1.5 / 40


@pytest.mark.parametrize(
    ("probe", "rows", "classes"), [("logistic", 120, 4), ("logistic", 600, 2), ("ridge", 600, 4)]
)
def test_probes_of_different_penalties_that_share_a_fit_are_the_ones_fitted_alone(probe, rows, classes):
    rng = np.random.default_rng(5)
    y = np.arange(rows) % classes
    x = (0.4 * rng.normal(size=(classes, 100))[y] + rng.normal(size=(rows, 100))).astype(np.float32)
    task = Task(x, y, x, y)
    orders = np.stack([rng.permutation(100) for _ in "ab"])
    ks = np.array([70, 80, 100])
    chosen, asked = np.array([[1e-3, 1e-1, 1e-3], [1e-5, 1e-5, 1.0]]), []

    def fit(part, request, shared):
        asked.append(request)
        return fit_request(part, request, shared)

    got = refit(task, ProbeRequest(get_kind(probe), orders, ks, [1.0], tol=1e-6), chosen, None, fit)
    assert len(asked) == 1
    assert got.accuracy.shape == (2, 3, 1)
    assert got.converged.all()
    for s, f in np.ndindex(2, 3):
        l2 = chosen[s, f : f + 1]
        alone = fit_block(task, orders[s : s + 1], ks[f : f + 1], l2, probe=probe, tol=1e-6)
        assert got.objective[s, f, 0] == pytest.approx(alone.objective.item(), rel=2e-6)
        assert got.accuracy[s, f, 0] == pytest.approx(alone.accuracy.item(), abs=1.5 / rows)
