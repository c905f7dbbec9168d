"""Index lists of any sizes, nested in nothing: from Python and as selections of a sweep."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifier

import probecache as pc
from probecache.analyze.probes.index_lists import fit_lists
from probecache.analyze.tasks.task import Task
from probecache.store.errors import FingerprintMismatch, InputError

L2 = 1e-2
LISTS = ([20, 3, 41], [60, 1], [5, 20, 33, 42, 50, 10, 11], [2, 41, 20])


def digits():
    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    return Task(x[:400], y[:400], x[400:600], y[400:600])


def peer(task, columns, probe):
    """scikit-learn's accuracy on exactly these columns, and the objective of its logistic fit."""
    x, test = (((m - task.mean) / task.scale)[:, columns].astype(np.float64) for m in (task.train, task.test))
    if probe == "ridge":
        return RidgeClassifier(alpha=L2 * len(x)).fit(x, task.train_labels).score(test, task.test_labels), 0
    model = LogisticRegression(C=1 / (L2 * len(x)), tol=1e-8, max_iter=2000).fit(x, task.train_labels)
    p = model.predict_proba(x)[np.arange(len(x)), task.train_labels]
    return model.score(test, task.test_labels), -np.log(p).mean() + L2 / 2 * (model.coef_**2).sum()


@pytest.mark.parametrize("probe", ["logistic", "ridge"])
def test_every_list_is_a_probe_on_exactly_its_columns(probe):
    task = digits()
    got = fit_lists(task, LISTS, np.array([L2]), probe=probe)
    assert got.accuracy.shape == (4, 1, 1)
    for i, columns in enumerate(LISTS):
        accuracy, objective = peer(task, columns, probe)
        assert got.accuracy[i, 0, 0] == pytest.approx(accuracy, abs=0.01)
        if probe == "logistic":
            assert got.objective[i, 0, 0] == pytest.approx(objective, rel=1e-4)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([], "got no list of neurons"),
        ([[1, 2], [64]], "list 1 names neuron 64; the layer has 0 to 63"),
        ([[1, 1]], "list 0 names neuron 1 twice"),
        ([[]], "list 0 holds"),
        ([[0.5]], "list 0 holds float64"),
    ],
)
def test_wrong_lists_are_one_line(lists, message):
    with pytest.raises(InputError, match=message) as caught:
        fit_lists(digits(), lists, np.array([L2]))
    assert "\n" not in str(caught.value)


@pytest.fixture
def store(tmp_path):
    task = digits()
    for split in ("train", "test"):
        store = pc.write_arrays(
            tmp_path / "s",
            split=split,
            layer="a",
            activations=getattr(task, split),
            labels=getattr(task, f"{split}_labels"),
        )
    return store


def test_a_sweep_takes_several_lists_as_selections(store, tmp_path):
    selections = []
    for i, columns in enumerate(LISTS[:3]):
        file = tmp_path / f"{i}.txt"
        file.write_text("\n".join(map(str, columns)))
        selections.append(f"index:{file}")
    ks = [len(columns) for columns in LISTS[:3]]
    plan = {"layer": "a", "fractions": [k / 64 for k in ks], "seeds": 2, "l2": L2}
    results = pc.sweep(store, **plan, selection=selections, out=tmp_path / "r").sel(layer="a", l2=L2)
    results = results.squeeze(["target", "shots"])
    task = digits()
    for selection, k, columns in zip(selections, ks, LISTS, strict=False):
        mine = results.sel({"selection": selection}).isel(fraction=sorted(ks).index(k))
        accuracy, objective = peer(task, columns, "logistic")
        assert (mine["n_neurons"] == k).all()
        np.testing.assert_allclose(mine["objective"], [objective] * 2, rtol=1e-4)  # the same for each seed
        np.testing.assert_allclose(mine["accuracy"], [accuracy] * 2, atol=0.01)


def test_a_list_may_lie_in_the_home_folder(store, tmp_path, monkeypatch):
    """No shell resolves `index:~/neurons.txt`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "neurons.txt").write_text("1\n2\n3\n")
    plan = {"layer": "a", "fractions": [0.1], "seeds": 1}
    home, plain = (f"index:{folder}/neurons.txt" for folder in ("~", tmp_path))
    found = pc.sweep(store, selection=[home, plain], **plan)["accuracy"].squeeze()
    assert float(found.sel(selection=home)) == float(found.sel(selection=plain))


def test_a_list_that_was_edited_is_another_selection(store, tmp_path):
    file = tmp_path / "neurons.txt"
    plan = {"layer": "a", "fractions": [0.1], "seeds": 1, "selection": f"index:{file}", "out": tmp_path / "r"}
    file.write_text("1\n2\n3\n")
    pc.sweep(store, **plan)
    file.write_text("1\n2\n4\n")
    with pytest.raises(FingerprintMismatch, match=r"digests.index:.*neurons.txt"):
        pc.sweep(store, **plan)


def test_a_list_that_does_not_fit_the_layer_is_one_line(store, tmp_path):
    file = tmp_path / "neurons.txt"
    file.write_text("1\n64\n")
    with pytest.raises(InputError, match="names neuron 64; the layer has 0 to 63") as caught:
        pc.sweep(store, layer="a", fractions=[0.1], selection=f"index:{file}", out=tmp_path / "r")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()
