"""One probe, out of the tool: the sweep's, scikit-learn's, a file that is read without us, or refused."""

import json
import os
import re

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import probecache as pc
from probecache.__main__ import _run
from probecache.analyze.probes.deploy import fit_probe, predict_split
from probecache.analyze.probes.fit import fit_block
from probecache.analyze.selections.projections import select
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.tasks.load import load_task
from probecache.analyze.tasks.shots import take_shots
from probecache.store.fingerprint import Fingerprint

D = 16


def write(path, classes=3, layer="mine", n=240, d=D, seed=0, **options):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, d))
    for split in ("train", "test"):
        labels = rng.integers(0, classes, n)
        x = (3 * rng.normal(size=(n, d)) + 2 * centres[labels]) * np.linspace(0.1, 4, d) + 50
        status = np.ones(n, np.uint8)
        status[::40] = 2
        pc.write_arrays(
            path,
            split=split,
            layer=layer,
            activations=x.astype(np.float32),
            labels=labels,
            samples=[f"{split} {i}" for i in range(n)],
            class_names=[f"class {c}" for c in range(classes)],
            status=status,
            **options,
        )
    return pc.open_store(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write(tmp_path_factory.mktemp("fitted") / "s.zarr")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return write(tmp_path_factory.mktemp("fitted") / "two.zarr", classes=2)


def usable(store, split):
    keep = store.status(split) == 1
    return store.matrix(split, "mine")[keep], store.labels(split)[keep]


@pytest.mark.parametrize("probe", ["logistic", "ridge", "sgd"])
@pytest.mark.parametrize("selection", ["random", "first", "variance-least", "pca", "pca-least", "randproj"])
def test_it_predicts_what_the_sweeps_probe_does(store, probe, selection):
    """The same coordinates among others of a block: the same class for every test sample, and its scores."""
    fractions, seeds, l2s = [0.25, 0.5, 1.0], [0, 3], [1e-3, 1e-1]
    task, at = load_task(store, "mine"), (0, 1, 1)
    parts = list(select(task, selection, seeds))
    part = parts[-1]
    block = fit_block(
        part.task,
        part.orders[-1:],
        np.array([4, 8, 16]),
        np.array(l2s),
        probe=probe,
        device="cpu",
        return_predictions=True,
    )
    fitted = pc.fit_probe(
        store,
        layer="mine",
        l2=l2s[1],
        fraction=fractions[1],
        seed=seeds[1],
        selection=selection,
        probe=probe,
        device="cpu",
    )
    x, _ = usable(store, "test")
    np.testing.assert_array_equal(fitted.predict(x), block.predictions[at])
    assert fitted.coef.shape[1] == (16 if selection in ("pca", "pca-least", "randproj") else 8)


def test_its_accuracy_is_the_one_in_the_results(store):
    results = pc.sweep(store, layer="mine", fractions=[0.5, 1], seeds=[2, 5], l2=[1e-2, 1], device="cpu")
    x, y = usable(store, "test")
    for fraction in (0.5, 1.0):
        for seed in (2, 5):
            fitted = pc.fit_probe(store, layer="mine", fraction=fraction, seed=seed, l2=1e-2, device="cpu")
            found = results["accuracy"].sel(fraction=fraction, seed=seed, l2=1e-2)
            assert (fitted.predict(x) == y).mean() == found.item()
            k = int(results["n_neurons"].sel(fraction=fraction, seed=seed, l2=1e-2).item())
            order = results["permutation"].sel(seed=seed).values.ravel()
            np.testing.assert_array_equal(fitted.neurons, order[:k])


@pytest.mark.parametrize("which", ["store", "two"])
@pytest.mark.parametrize("standardize", [True, False])
def test_it_is_scikit_learns_probe_in_raw_units(which, standardize, request):
    store = request.getfixturevalue(which)
    x, y = usable(store, "train")
    fitted = pc.fit_probe(store, layer="mine", l2=1e-1, device="cpu", tol=1e-9, standardize=standardize)
    scaler = StandardScaler().fit(x) if standardize else None
    ready = scaler.transform(x.astype(np.float64)) if scaler else x.astype(np.float64)
    peer = LogisticRegression(C=1 / (1e-1 * len(y)), solver="newton-cg", tol=1e-9, max_iter=5000).fit(
        ready, y
    )
    scale = scaler.scale_ if scaler else np.ones(D)
    coef = np.zeros((len(fitted.coef), D))
    coef[:, fitted.neurons] = fitted.coef
    np.testing.assert_allclose(coef, peer.coef_ / scale, atol=2e-3 * np.abs(coef).max())
    test, _ = usable(store, "test")
    ready = scaler.transform(test.astype(np.float64)) if scaler else test.astype(np.float64)
    np.testing.assert_allclose(fitted.predict_proba(test), peer.predict_proba(ready), atol=2e-3)
    assert (fitted.predict(test) == peer.predict(ready)).mean() > 0.995


def test_few_shots_and_class_weights_are_the_sweeps(store):
    fitted = pc.fit_probe(
        store,
        layer="mine",
        l2=1e-2,
        shots=5,
        seed=3,
        class_weight={"class 1": 4.0},
        device="cpu",
        fraction=0.5,
    )
    assert fitted.provenance["rows"] == "15"
    task = take_shots(load_task(store, "mine"), "5", 3)
    weight = np.where(task.train_labels == 1, 4.0, 1.0)
    ready = StandardScaler().fit(task.train[:, fitted.neurons]).transform(task.train[:, fitted.neurons])
    peer = LogisticRegression(C=1 / (1e-2 * weight.sum()), tol=1e-8, max_iter=5000)
    peer.fit(ready, task.train_labels, weight)
    np.testing.assert_array_equal(fitted.predict(task.train), peer.predict(ready))


def test_auto_l2_is_the_one_the_sweep_chooses(store):
    results = pc.sweep(store, layer="mine", fractions=[0.5, 1], seeds=[1], l2="auto", device="cpu")
    fitted = pc.fit_probe(store, layer="mine", fraction=0.5, seed=1, l2="auto", device="cpu")
    assert float(fitted.provenance["l2"]) == results["chosen_l2"].isel(fraction=0).item()
    x, y = usable(store, "test")
    assert (fitted.predict(x) == y).mean() == results["accuracy"].isel(fraction=0).item()


def test_a_layer_that_stays_on_disk_gives_the_same_probe(store):
    there, here = (
        pc.fit_probe(store, layer="mine", l2=1e-1, tol=1e-9, device="cpu", memory_limit=limit)
        for limit in (1000, None)
    )
    np.testing.assert_allclose(there.coef, here.coef, rtol=1e-3, atol=1e-4 * np.abs(here.coef).max())


@pytest.mark.parametrize("which", ["store", "two"])
@pytest.mark.parametrize("probe", ["logistic", "ridge", "sgd"])
def test_a_saved_probe_is_the_same_probe(which, probe, tmp_path, request):
    store = request.getfixturevalue(which)
    fitted = pc.fit_probe(store, layer="mine", fraction=0.5, probe=probe, device="cpu", train="train")
    fitted.save(tmp_path / "p.safetensors")
    back = pc.load_probe(tmp_path / "p.safetensors")
    x, _ = usable(store, "test")
    np.testing.assert_array_equal(back.decision_function(x), fitted.decision_function(x))
    assert (back.classes, back.kind, back.probe, back.layer_size) == (fitted.classes, "classes", probe, D)
    assert dict(back.provenance) == dict(fitted.provenance)
    about = back.provenance
    assert (about["layer"], about["split"], about["k"], about["l2"]) == ("mine", "train", "8", "0.0001")
    assert about["digest"] == store.digest("train", "mine")
    assert json.loads(about["backbone"]) == {"source": "arrays"}
    if probe == "ridge":
        with pytest.raises(pc.InputError, match="not probabilities"):
            back.predict_proba(x)
    else:
        p = back.predict_proba(x)
        np.testing.assert_allclose(p.sum(axis=1), 1)
        np.testing.assert_array_equal(p.argmax(axis=1), back.predict(x))
    assert list(tmp_path.iterdir()) == [tmp_path / "p.safetensors"]


def test_it_is_read_by_safetensors_alone(two, store, tmp_path):
    for one in (two, store):
        fitted = pc.fit_probe(one, layer="mine", fraction=0.5, device="cpu")
        fitted.save(tmp_path / "p.safetensors")
        with safe_open(tmp_path / "p.safetensors", "pt") as file:
            coef, intercept, neurons = (file.get_tensor(name) for name in ("coef", "intercept", "neurons"))
            classes = json.loads(file.metadata()["classes"])
        x, _ = usable(one, "test")
        scores = torch.from_numpy(x)[:, neurons].double() @ coef.T + intercept
        best = scores.argmax(dim=1) if len(classes) > 2 else (scores[:, 0] > 0).long()
        np.testing.assert_array_equal(best.numpy(), fitted.predict(x))


def test_a_changed_bit_anywhere_is_refused(two, tmp_path):
    path = tmp_path / "p.safetensors"
    fitted = pc.fit_probe(two, layer="mine", fraction=0.2, device="cpu")
    fitted.save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises((pc.InputError, pc.DamagedStore), match=re.escape(str(path))):
            pc.load_probe(path)
    for length in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises((pc.InputError, pc.DamagedStore)):
            pc.load_probe(path)


def test_what_is_no_probe_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"coef": np.zeros(3)}, tmp_path / "other.safetensors")
    for path, says in (
        (tmp_path / "other.safetensors", "holds no probe"),
        (tmp_path / "none.safetensors", "cannot be read"),
        (tmp_path, "which is a folder; give a file of probecache fit"),
        ("~/probes/p.safetensors", f"got {os.path.expanduser('~')}/probes/p.safetensors, which cannot"),
    ):
        with pytest.raises(pc.InputError, match=says):
            pc.load_probe(path)


def test_a_probe_alone_and_the_sweeps_differ_where_two_classes_tie_within_the_tolerance(tmp_path):
    """Both are within tol of one minimum f, which is l2-strongly convex in the weights: they are at most
    2 sqrt(2 tol f / l2) apart, and so is what separates a sample's two best classes, times its norm."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 300), ("test", 4000)):  # labels of noise: most samples are near ties
        x, y = rng.normal(size=(n, D)), rng.integers(0, 4, n)
        pc.write_arrays(tmp_path / "s", split=split, layer="mine", activations=x.astype("f4"), labels=y)
    l2, fractions = 1e-4, [0.5, 1.0]
    for tol, most in ((1e-2, 400), (1e-12, 0)):
        how = {"layer": "mine", "l2": l2, "tol": tol, "device": "cpu"}
        swept = pc.sweep(tmp_path / "s", fractions=fractions, seeds=1, save_predictions=True, **how)
        fitted = pc.fit_probe(tmp_path / "s", fraction=0.5, seed=0, **how)
        x = pc.open_store(tmp_path / "s").matrix("test", "mine")
        scores = np.sort(fitted.decision_function(x), axis=1)
        differ = fitted.predict(x) != swept.predictions.sel(fraction=0.5, seed=0).values.ravel()
        assert differ.sum() <= most
        task = load_task(pc.open_store(tmp_path / "s"), "mine")
        norm = np.sqrt(1 + ((((x - task.mean) / task.scale)[:, fitted.neurons]) ** 2).sum(axis=1))
        apart = 2 * np.sqrt(2 * tol * float(fitted.provenance["objective"]) / l2) * norm * np.sqrt(2)
        assert (scores[differ, -1] - scores[differ, -2] <= apart[differ]).all()


def test_features_that_do_not_fit_are_refused(store):
    fitted = pc.fit_probe(store, layer="mine", fraction=0.5, device="cpu")
    x, _ = usable(store, "test")
    for wrong in (x[:, fitted.neurons], x[0], x.astype(str)):
        with pytest.raises(pc.InputError, match="all neurons of the layer"):
            fitted.predict(wrong)
    tensor = torch.from_numpy(x)
    np.testing.assert_array_equal(fitted.predict(tensor), fitted.predict(x))
    short = tensor.to(torch.bfloat16)  # numpy has none
    np.testing.assert_array_equal(fitted.predict(short), fitted.predict(short.float().numpy()))
    x = x.copy()
    x[7, fitted.neurons[0]] = np.nan
    with pytest.raises(pc.InputError, match="in 1 rows, first row 7"):
        fitted.predict(x)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layer": "mien"}, "close names: mine"),
        ({"train": "trian"}, "close names: train"),
        ({"probe": "knn"}, "no weights"),
        ({"probe": "svm"}, "got probe 'svm'"),
        ({"fraction": 0}, "got fraction 0"),
        ({"l2": -1}, "got l2"),
        ({"l2": "some"}, "got l2 'some'"),
        ({"shots": 1000}, "got 1000 shots, and class 'class 0' has"),
        ({"selection": "best"}, "'best'"),
        ({"seed": -1}, "got seeds"),
        ({"class_weight": {"class 9": 2}}, "class 9"),
        ({"standardize": "no"}, "got standardize 'no'"),
        (
            {"metrics": ["auroc"]},
            r"got 'metrics' in fit_probe\(\); allowed beside its own arguments: tol, max_iter",
        ),
        ({"max_iter": 0}, "got max_iter 0; allowed: 1 or more"),
        ({"memory_limit": "much"}, "got memory_limit 'much'"),
        ({"train": "train+train"}, "with 'train' twice"),
    ],
)
def test_what_cannot_be_fitted_is_refused(store, options, says):
    with pytest.raises(pc.InputError, match=says):
        fit_probe(store, **({"layer": "mine", "device": "cpu"} | options))


def test_a_split_predicted_row_by_row(store, two):
    for one in (store, two):
        fitted = pc.fit_probe(one, layer="mine", fraction=0.5, device="cpu")
        table = predict_split(fitted, one, "test")
        x, y = usable(one, "test")
        names = np.array(fitted.classes)
        keep = one.status("test") == 1
        assert table["sample"].tolist() == [f"test {i}" for i in np.flatnonzero(keep)]
        assert table["label"].tolist() == names[y].tolist()
        assert table["predicted"].tolist() == names[fitted.predict(x)].tolist()
        np.testing.assert_allclose(table["probability"], fitted.predict_proba(x).max(axis=1))


def test_another_backbone_or_width_is_refused(store, tmp_path):
    fitted = pc.fit_probe(store, layer="mine", device="cpu")
    wide = write(tmp_path / "wide.zarr", d=20)
    with pytest.raises(pc.InputError, match=r"20 neurons .* fitted on 16"):
        predict_split(fitted, wide, "test")
    other = write(tmp_path / "other.zarr", fingerprint=Fingerprint(backbone={"model": "resnet50"}))
    with pytest.raises(pc.FingerprintMismatch, match="resnet50"):
        predict_split(fitted, other, "test")
    named = write(tmp_path / "named.zarr", layer="theirs")
    with pytest.raises(pc.InputError, match="no layer 'mine'"):
        predict_split(fitted, named, "test")
    assert len(predict_split(fitted, named, "test", layer="theirs")) == 234


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_commands(store, tmp_path, capsys, monkeypatch, suffix):
    monkeypatch.setenv("HOME", str(tmp_path))  # `--out=~/p.safetensors`: no shell resolves that
    probe, out = tmp_path / "p.safetensors", tmp_path / f"p.{suffix}"
    fit = [
        "fit",
        store.path,
        "--layer",
        "mine",
        "--fraction",
        "0.5",
        "--seed",
        "1",
        "--l2",
        "1e-2",
        "--device",
        "cpu",
    ]
    assert _run([*fit, "--out", str(probe)], False) == 0
    assert "FittedProbe(logistic, mine, 8 of 16 neurons, 3 classes): 234 rows" in capsys.readouterr().out
    predict = ["predict", str(probe), store.path, "--split", "test", "--out", str(out)]
    assert _run(predict, False) == 0
    assert "234 rows, " in capsys.readouterr().out
    table = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
    fitted = pc.fit_probe(store, layer="mine", fraction=0.5, seed=1, l2=1e-2, device="cpu")
    pd.testing.assert_frame_equal(table, predict_split(fitted, store, "test"), check_dtype=False)
    kept = probe.read_bytes()
    taken = [[*fit, "--out", str(probe)], [*fit, "--seed", "2", f"--out=~/{probe.name}"], predict]
    for line in (*taken, [*predict[:-1], str(tmp_path / "p.xlsx")]):
        assert _run(line, False) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert probe.read_bytes() == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([probe.name, out.name])


def test_other_targets_of_the_same_rows(tmp_path):
    store = write(tmp_path / "s.zarr")
    x = {split: store.matrix(split, "mine").astype(np.float64) for split in ("train", "test")}
    for split, values in x.items():
        y = (values - 50) @ np.linspace(-1, 1, D)
        several = np.stack([y > 0, values[:, -1] > 50], axis=1)
        kind = np.where(y > 0, "up", "down").astype(object)
        kind[3] = None
        pc.write_targets(store, split=split, targets={"kind": kind, "both": several, "height": y / 10})
    keep = store.status("test") == 1
    test, rows = x["test"][keep], keep.sum() + (store.status("train") == 1).sum()
    for target, probe in (("kind", "logistic"), ("both", "logistic"), ("height", "ridge")):
        where = {"layer": "mine", "target": target, "train": "train+test"}
        fitted = pc.fit_probe(store, **where, probe=probe, l2=1e-3, device="cpu", fraction=0.5)
        found = store.target("test", target)
        truth = found.values[keep]
        assert (fitted.kind, fitted.provenance["target"]) == (found.kind, target)
        assert fitted.provenance["rows"] == str(rows - 2 * (target == "kind"))
        fitted.save(tmp_path / f"{target}.safetensors")
        back = pc.load_probe(tmp_path / f"{target}.safetensors")
        guess, table = back.predict(test), predict_split(back, store, "test")
        np.testing.assert_array_equal(guess, fitted.predict(test))
        if target == "kind":
            assert fitted.classes == ("down", "up")
            assert (guess == truth)[truth >= 0].mean() > 0.7
            assert table["label"].tolist() == [("down", "up", "")[v] for v in truth]
        elif target == "both":
            assert guess.shape == truth.shape
            assert (guess == truth).mean() > 0.7
            np.testing.assert_array_equal(back.predict_proba(test) > 0.5, guess == 1)
            assert table.columns.tolist() == ["sample", *found.names]
        else:
            assert np.corrcoef(guess, truth[:, 0])[0, 1] > 0.4
            with pytest.raises(pc.InputError, match="not probabilities"):
                back.predict_proba(test)
        block = fit_block(
            load_task(store, "mine", "train+test", "test", target=target),
            permutation(D, 0)[None],
            np.array([4, 8]),
            np.array([1e-3]),
            probe=probe,
            device="cpu",
            return_scores=True,
        )
        scores = back.decision_function(test[found.labelled[keep]])
        np.testing.assert_allclose(
            scores.reshape(len(scores), -1).T, block.scores[0, 1, 0], rtol=1e-3, atol=2e-3
        )


@pytest.mark.parametrize("what", ["FIFO", "device"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, what):
    path = tmp_path / "p.safetensors"
    os.mkfifo(path) if what == "FIFO" else path.symlink_to("/dev/zero")
    with pytest.raises(pc.InputError, match=f"probe: '.*p.safetensors' is a {what}, not a file"):
        pc.load_probe(path)
