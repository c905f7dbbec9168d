"""Targets, shots, splits, metrics and controls of a sweep: each equals the plain computation."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler, label_binarize

import probecache as pc
from probecache.analyze.metrics import get_metric
from probecache.analyze.probes.fit import fit_block
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.sweeps.presets import with_preset
from probecache.analyze.tasks.control import control_task
from probecache.analyze.tasks.load import load_task
from probecache.analyze.tasks.shots import shot_rows, take_shots
from probecache.analyze.tasks.task import Task

D = 16
FRACTIONS = [0.25, 1.0]
ROWS = {"train": 240, "val": 90, "test": 120}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four classes, and beside them: an attribute with gaps, two labels at once, two numbers."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("protocols") / "s"
    centres, mixing = rng.normal(size=(4, D)), rng.normal(size=(D, 2))
    for split, n in ROWS.items():
        y = np.arange(n) % 4
        x = (centres[y] * 0.5 + rng.normal(size=(n, D))).astype(np.float32)
        pc.write_arrays(path, split=split, layer="a", activations=x, labels=y, class_names=list("wxyz"))
        pc.write_arrays(
            path, split=split, layer="b", activations=x * 2 + 1, labels=y, class_names=list("wxyz")
        )
        bright = (x[:, 0] > 0).astype(int)
        bright[::7] = -1
        both = np.stack([x[:, 1] > 0.5, x[:, 2] + x[:, 3] > 0], axis=1).astype(int)
        numbers = x @ mixing + rng.normal(size=(n, 2))
        targets = {"bright": bright, "both": both, "numbers": numbers}
        pc.write_targets(path, split=split, targets=targets)
    return pc.open_store(path)


def sweep(store, **options):
    return pc.sweep(store, **({"layer": "a", "fractions": FRACTIONS, "seeds": 2, "l2": 1e-2} | options))


def test_each_target_is_a_sweep_of_its_own(store):
    results = sweep(store, target=["label", "bright"], probe="ridge")
    assert results.accuracy.dims == ("target", "layer", "selection", "shots", "fraction", "seed", "l2")
    assert results["target"].values.tolist() == ["label", "bright"]
    for name in ("label", "bright"):
        task = load_task(store, "a", "train", "test", target=name)
        alone = fit_block(
            task, np.stack([permutation(D, s) for s in (0, 1)]), sizes(FRACTIONS, D), [1e-2], probe="ridge"
        )
        swept = results.accuracy.sel(target=name).squeeze().transpose("seed", "fraction")
        np.testing.assert_allclose(swept, alone.accuracy[..., 0], atol=1e-12)
    assert len(load_task(store, "a", "train", "test", target="bright").train) == 240 - len(range(0, 240, 7))


def test_targets_and_layers_may_be_globs(store):
    results = sweep(store, target="b*", layer="*", probe="ridge", seeds=1)
    assert sorted(results["target"].values) == ["both", "bright"]
    assert results["layer"].values.tolist() == ["a", "b"]
    with pytest.raises(pc.InputError, match=r"got target 'c\*', which matches none of label"):
        sweep(store, target="c*")
    with pytest.raises(
        pc.InputError, match=r"got target .brigt.; split .* no such target: close names: bright"
    ):
        sweep(store, target="brigt")


def test_several_labels_are_one_against_the_rest(store):
    results = sweep(store, target="both", l2=1e-3, tol=1e-7, metric="average_precision")
    task = load_task(store, "a", "train", "test", target="both")
    train, test = ((m - task.mean) / task.scale for m in (task.train, task.test))
    right = []
    for column in range(2):
        model = LogisticRegression(C=1 / (1e-3 * len(train)), tol=1e-9, max_iter=5000)
        model.fit(train, task.train_labels[:, column])
        right.append(model.score(test, task.test_labels[:, column]))
    full = results.sel(fraction=1.0, seed=0).squeeze()
    assert float(full.accuracy) == pytest.approx(np.mean(right), abs=0.005)
    np.testing.assert_allclose(full.class_accuracy, right, atol=0.009)  # one of 120 samples
    assert float(full.average_precision) > 0.8


def test_numbers_have_r2_under_its_own_name(store):
    results = sweep(store, target="numbers", probe="ridge", l2=0.1)
    task = load_task(store, "a", "train", "test", target="numbers")
    train, test = ((m - task.mean) / task.scale for m in (task.train, task.test))
    model = Ridge(alpha=0.1 * len(train)).fit(train, task.train_labels)
    full = results.sel(fraction=1.0, seed=1).squeeze()
    assert float(full.r2) == pytest.approx(model.score(test, task.test_labels), abs=1e-5)
    assert np.isnan(full.accuracy)
    with pytest.raises(pc.InputError, match="target 'numbers', which is numbers, for a logistic probe"):
        sweep(store, target="numbers")


@pytest.mark.parametrize("probe", ["logistic", "ridge", "knn"])
def test_few_shots_are_fits_on_those_rows_alone(store, probe):
    results = sweep(store, shots=[8, "all", 20], probe=probe)
    assert results["shots"].values.tolist() == ["8", "all", "20"]
    task = load_task(store, "a", "train", "test")
    for shots, seed in (("8", 1), ("20", 0)):
        rows = shot_rows(task.train_labels, shots, seed)
        assert rows.sum() == 4 * int(shots)
        few = Task(task.train[rows], task.train_labels[rows], task.test, task.test_labels, task.classes)
        alone = fit_block(few, permutation(D, seed)[None], sizes(FRACTIONS, D), [1e-2], probe=probe)
        swept = results.sel(shots=shots, seed=seed).accuracy.squeeze()
        np.testing.assert_allclose(swept, alone.accuracy[0, :, 0], atol=1e-12)
    with pytest.raises(pc.InputError, match="got 100 shots, and class 'w' has 60 training rows"):
        sweep(store, shots=100)


def test_few_shots_of_several_targets_are_fits_on_each_targets_rows_alone(store):
    results = sweep(store, target=["label", "bright", "both"], shots=[24, 0.5], tol=1e-7)
    assert (results.state == 1).all()
    for name, shots, seed in (
        ("label", "24", 0),
        ("bright", "24", 1),
        ("bright", "0.5", 0),
        ("both", "24", 1),
    ):
        task = load_task(store, "a", "train", "test", target=name)
        rows = shot_rows(task.train_labels, shots, seed)
        assert rows.sum() == {"label": 96, "bright": 48, "both": 24}[name] or shots == "0.5"
        few = Task(task.train[rows], task.train_labels[rows], task.test, task.test_labels, task.classes)
        alone = fit_block(few, permutation(D, seed)[None], sizes(FRACTIONS, D), [1e-2], tol=1e-7)
        swept = results.sel(target=name, shots=shots, seed=seed).squeeze()
        np.testing.assert_allclose(swept.objective, alone.objective[0, :, 0], rtol=1e-6)
        np.testing.assert_allclose(swept.accuracy, alone.accuracy[0, :, 0], atol=1e-12)


@pytest.mark.parametrize("refit", ["train", "train+val"])
def test_a_validation_split_chooses_l2_for_each_of_several_targets(store, refit):
    path, names = [1e-3, 1e-1, 10.0], ["label", "bright", "both"]
    results = sweep(store, target=names, l2="auto", l2_path=path, val="val", refit=refit, tol=1e-7)
    order, ks = permutation(D, 0)[None], sizes(FRACTIONS, D)
    for name in names:
        chooser = load_task(store, "a", "train", "val", target=name)
        scores = fit_block(chooser, order, ks, path, tol=1e-7).accuracy[0]
        final = load_task(store, "a", refit, "test", target=name)
        for f, fraction in enumerate(FRACTIONS):
            best = max(l2 for l2, score in zip(path, scores[f], strict=True) if score == scores[f].max())
            found = results.sel(target=name, fraction=fraction, seed=0).squeeze()
            assert float(found.chosen_l2) == best
            alone = fit_block(final, order, ks[f : f + 1], [best], tol=1e-7)
            assert float(found.objective) == pytest.approx(alone.objective.item(), rel=1e-6)
            assert float(found.accuracy) == pytest.approx(alone.accuracy.item(), abs=1e-12)


def test_a_union_of_splits_is_their_rows_one_after_the_other(store, tmp_path):
    rows = [np.asarray(store.matrix(s, "a")) for s in ("train", "val")]
    labels = np.concatenate([store.labels(s) for s in ("train", "val")])
    names = {"class_names": list("wxyz")}
    one = tmp_path / "one"
    pc.write_arrays(one, split="both", layer="a", activations=np.concatenate(rows), labels=labels, **names)
    test = {"activations": store.matrix("test", "a"), "labels": store.labels("test")}
    pc.write_arrays(one, split="test", layer="a", **test, **names)
    union, whole = sweep(store, train="train+val"), sweep(one, train="both")
    np.testing.assert_allclose(union.objective, whole.objective, rtol=1e-6)
    np.testing.assert_array_equal(union.accuracy, whole.accuracy)


@pytest.mark.parametrize("refit", ["train", "train+val"])
def test_a_validation_split_chooses_l2(store, refit):
    path = [1e-3, 1e-1, 10.0]
    results = sweep(store, l2="auto", l2_path=path, val="val", refit=refit, probe="ridge")
    order, ks = permutation(D, 0)[None], sizes(FRACTIONS, D)
    scores = fit_block(load_task(store, "a", "train", "val"), order, ks, path, probe="ridge").accuracy[0]
    final = load_task(store, "a", refit, "test")
    for f, fraction in enumerate(FRACTIONS):
        best = max(l2 for l2, score in zip(path, scores[f], strict=True) if score == scores[f].max())
        found = results.sel(fraction=fraction, seed=0).squeeze()
        assert float(found.chosen_l2) == best
        alone = fit_block(final, order, ks[f : f + 1], [best], probe="ridge")
        assert float(found.accuracy) == pytest.approx(alone.accuracy.item(), abs=1e-12)
    with pytest.raises(pc.InputError, match=r"got val 'val', .* and numbers for l2; give l2 auto"):
        sweep(store, val="val")
    with pytest.raises(pc.InputError, match="got val 'test', which is train or test too"):
        sweep(store, l2="auto", val="test")


def test_control_labels_say_nothing_and_differ_by_seed(store):
    results, control = sweep(store, seeds=3), sweep(store, seeds=3, control="shuffled")
    assert float(results.accuracy.mean()) - float(control.accuracy.mean()) > 0.15
    task = control_task(load_task(store, "a", "train", "test"), "shuffled", 2)
    alone = fit_block(task, permutation(D, 2)[None], sizes(FRACTIONS, D), [1e-2])
    np.testing.assert_allclose(control.sel(seed=2).accuracy.squeeze(), alone.accuracy[0, :, 0], atol=1e-12)
    assert control.attrs["control"] == "shuffled"


def test_metrics_are_variables_computed_from_the_test_scores(store):
    names = ["balanced_accuracy", "macro_f1", "log_loss", "auroc"]
    results = sweep(store, metric=names)
    task = load_task(store, "a", "train", "test")
    alone = fit_block(task, permutation(D, 0)[None], sizes(FRACTIONS, D), [1e-2], return_scores=True)
    import torch

    truth = torch.from_numpy(task.test_labels)
    for name in names:
        wanted = get_metric(name).compute(torch.from_numpy(alone.scores[0, :, 0]), truth, 4)
        np.testing.assert_allclose(results[name].sel(seed=0).squeeze(), wanted, atol=1e-6)
    with pytest.raises(pc.InputError, match="got metric 'r2' for target 'label', which is classes"):
        sweep(store, metric="r2")


@pytest.mark.parametrize("solver", ["torch", "sklearn"])
def test_a_ridge_probe_is_ranked_by_its_scores_and_has_no_probabilities(store, solver, tmp_path):
    results = sweep(store, probe="ridge", metric=["auroc", "top5_accuracy"], solver=solver, fractions=[1])
    x, t = (store.matrix(split, "a").astype(np.float64) for split in ("train", "test"))
    scale = StandardScaler().fit(x)
    model = RidgeClassifier(alpha=1e-2 * len(x)).fit(scale.transform(x), store.labels("train"))
    truth = label_binarize(store.labels("test"), classes=range(4))
    wanted = roc_auc_score(truth, model.decision_function(scale.transform(t)), average="macro")
    np.testing.assert_allclose(results["auroc"], wanted, atol=1e-4)
    out = tmp_path / "r"
    for name in ("log_loss", "ece"):
        with pytest.raises(pc.InputError, match=f"got metric '{name}' for a ridge probe, .*no probabilities"):
            sweep(store, probe="ridge", metric=name, solver=solver, out=out)
    assert not out.exists()


def test_test_rows_that_are_trained_on_are_said(store):
    with pytest.warns(RuntimeWarning, match=r"split test is in train 'train\+test' and in test 'test'"):
        sweep(store, train="train+test", probe="ridge", seeds=1)
    sweep(
        store, train="train", test="train", probe="ridge", seeds=1
    )  # how well it learnt by heart is a question


def test_votes_order_the_classes_of_a_sample_alone(store):
    found = sweep(store, probe="knn", metric=["top5_accuracy", "macro_f1"], seeds=1)
    assert (found["top5_accuracy"] == 1).all()
    for name in ("auroc", "average_precision", "log_loss"):
        with pytest.raises(pc.InputError, match=f"got metric '{name}' for a knn probe"):
            sweep(store, probe="knn", metric=name)


def test_predictions_are_kept_for_every_sample_of_the_split(store):
    results = sweep(store, save_predictions=True, target=["label", "bright"])
    assert results["sample"].values.tolist() == list(store.samples("test"))
    for name in ("label", "bright"):
        kept = store.target("test", name).labelled
        found = results.sel(target=name)
        assert (found.predictions.isel(sample=np.flatnonzero(~kept)) == -1).all()
        right = (found.predictions == found.truth).isel(sample=np.flatnonzero(kept)).mean("sample")
        np.testing.assert_allclose(right, found.accuracy, atol=1e-12)


def test_a_few_shot_task_is_standardised_by_its_own_rows():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 3)) * [1, 5, 9], np.arange(60) % 3
    few = take_shots(Task(x, y, x, y), "4", 0)
    np.testing.assert_allclose(few.mean, few.train.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(few.scale, few.train.std(axis=0), rtol=1e-5)


def test_presets_are_the_fields_protocols(store, tmp_path, capsys):
    found = with_preset("dinov3", {"layer": "a"}, store)
    assert len(found["l2_path"]) == 45
    assert found["l2_path"][0] == pytest.approx(1 / (1e-6 * 240))  # l2 = 1 / (C n)
    with pytest.raises(pc.InputError, match="got preset clip without a validation split"):
        with_preset("clip", {"layer": "a"}, store)
    options = ["--preset", "one-percent", "--target", "label,bright", "--seeds", "1"]
    command = ["sweep", store.path, "--layer", "a", *options, "--out", str(tmp_path / "r")]
    with pytest.raises(SystemExit) as ended:
        pc.main(command)
    assert not ended.value.code
    told = capsys.readouterr().out
    assert "shots 0.01" in told
    assert "target bright" in told


def test_what_no_block_could_fit_is_refused_before_results_are_made(store, tmp_path):
    out = tmp_path / "r"
    both = np.stack([np.arange(240) % 2, np.zeros(240)], axis=1).astype(int)
    for split, n in ROWS.items():
        pc.write_targets(store, split=split, targets={"one_sided": both[:n]})
    for options, says in (
        ({"target": "one_sided"}, "'one_sided' with label '1' that is 0 for every training row"),
        ({"probe": "knn", "shots": 4}, "got 16 training rows of target 'label', shots 4, for a knn probe"),
        ({"memory_limit": "much"}, "got memory_limit 'much'; allowed: bytes, or a number with a unit"),
        ({"out": 5}, "got out 5; needed: the path of a folder"),
    ):
        with pytest.raises(pc.InputError, match=says):
            sweep(pc.open_store(store.path), **({"out": out} | options))
    assert not out.exists()
    assert (sweep(store, memory_limit="4GiB").state == 1).all()


def test_r2_of_a_constant_column_is_scikit_learns(store):
    for split, n in ROWS.items():
        pc.write_targets(store, split=split, targets={"still": np.full(n, 1.5)})
    found = sweep(pc.open_store(store.path), target="still", probe="ridge", metric="mae")
    assert np.isin(found.r2, [0.0, 1.0]).all()  # 1 where every prediction is exact
    assert float(found.mae.max()) < 1e-6


def test_metrics_of_numbers_are_scikit_learns(store):
    results = sweep(store, target="numbers", probe="ridge", l2=0.1, metric=["mae", "spearman", "r2"])
    task = load_task(store, "a", "train", "test", target="numbers")
    train, test = ((m - task.mean) / task.scale for m in (task.train, task.test))
    predicted = Ridge(alpha=0.1 * len(train)).fit(train, task.train_labels).predict(test)
    full = results.sel(fraction=1.0, seed=1).squeeze()
    assert float(full.mae) == pytest.approx(np.abs(predicted - task.test_labels).mean(), abs=1e-5)
    ranks = [spearmanr(p, t).statistic for p, t in zip(predicted.T, task.test_labels.T, strict=True)]
    assert float(full.spearman) == pytest.approx(np.mean(ranks), abs=1e-4)


def test_numbers_for_l2_win_over_a_presets_path(store):
    given = with_preset("dinov3", {"l2": [1.0], "layer": "a"}, store)
    assert given["l2"] == [1.0]
    assert "l2_path" not in given
