"""Neighbours and SGD as sweeps, and awkward data: right results, or one line and nothing written."""

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

import probecache as pc
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.tasks.load import load_task
from probecache.store.errors import InputError, ProbecacheError


def write(path, x, y, test_x=None, test_y=None, **options):
    """A store with layer 'a'; the test rows are the training rows where none are given."""
    parts = {"train": (x, y), "test": (x if test_x is None else test_x, y if test_y is None else test_y)}
    for split, (matrix, labels) in parts.items():
        matrix = np.asarray(matrix, np.float32)
        store = pc.write_arrays(path, split=split, layer="a", activations=matrix, labels=labels, **options)
    return store


def written_and_swept(folder, x, y, **options):
    """Import and sweep in one: wrong data may be refused by either."""
    store = write(folder / "s", x, y, **options)
    return pc.sweep(store, layer="a", fractions=[1], seeds=1, out=folder / "r")


def blobs(n=260, d=16, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return rng.normal(size=(classes, d))[y] + 1.5 * rng.normal(size=(n, d)), y


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    x, y = blobs()
    return write(tmp_path_factory.mktemp("kinds") / "s", x[:200], y[:200], x[200:], y[200:])


@pytest.mark.parametrize("standardize", [True, False])
def test_a_knn_sweep_is_scikit_learns_neighbours(store, standardize, tmp_path):
    plan = {"layer": "a", "fractions": [0.25, 1], "probe": "knn", "standardize": standardize}
    pc.sweep(store, **plan, seeds=1, out=tmp_path / "r")
    results = pc.sweep(store, **plan, seeds=2, out=tmp_path / "r")  # grown, as any other
    task = load_task(store, "a")
    for seed in (0, 1):
        for fraction, k in ((0.25, 4), (1, 16)):
            train, test = (m.astype(np.float64) for m in (task.train, task.test))
            if standardize:
                train, test = ((m - task.mean) / task.scale for m in (train, test))
            columns = permutation(16, seed)[:k]
            vote = KNeighborsClassifier(20, metric="cosine", weights=lambda far: np.exp((1 - far) / 0.07))
            model = vote.fit(train[:, columns], task.train_labels)
            mine = results.sel(
                {"layer": "a", "selection": "random", "fraction": fraction, "seed": seed}
            ).squeeze()
            assert float(mine["accuracy"]) == pytest.approx(model.score(test[:, columns], task.test_labels))
    assert results["objective"].isnull().all()
    assert (results["state"] == 1).all()
    xr.testing.assert_identical(pc.open_results(tmp_path / "r").load(), results)


def test_an_sgd_sweep_is_the_papers_loop(store):
    results = pc.sweep(store, layer="a", fractions=[0.5, 1], seeds=1, probe="sgd").isel(fraction=[1])
    task, order = load_task(store, "a"), permutation(16, 0)
    x, test = (
        torch.from_numpy(((m - task.mean) / task.scale)[:, order]).float() for m in (task.train, task.test)
    )
    labels = torch.from_numpy(task.train_labels)
    start = (2 * torch.rand(17, 3, generator=torch.Generator().manual_seed(0)) - 1).T / 4
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(16, 3)
    with torch.no_grad():
        layer.weight.copy_(start[:, 1:])
        layer.bias.copy_(start[:, 0])
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    steps = torch.optim.lr_scheduler.StepLR(optimiser, 20, 0.1)
    for _ in range(100):
        for rows in torch.randperm(200, generator=generator).split(256):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(layer(x[rows]), labels[rows]).backward()
            optimiser.step()
        steps.step()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(layer(x), labels)
        right = (layer(test).argmax(dim=1).numpy() == task.test_labels).mean()
    assert float(results["objective"].item()) == pytest.approx(float(loss), rel=1e-4)
    assert float(results["accuracy"].item()) == pytest.approx(right, abs=0.02)
    assert int(results["n_iter"].item()) == 100
    assert bool(results["converged"].item())


@pytest.mark.parametrize("probe", ["knn", "sgd"])
def test_probes_that_need_rows_in_memory_say_so(store, monkeypatch, probe):
    monkeypatch.setattr("probecache.analyze.tasks.load.stays_on_disk", lambda size, limit: True)
    with pytest.raises(ProbecacheError, match=f"stays on disk; {probe} needs it in memory") as caught:
        pc.sweep(store, layer="a", fractions=[1], seeds=1, probe=probe)
    assert "\n" not in str(caught.value)


def test_neighbours_of_fewer_rows_than_neighbours_are_one_line(tmp_path):
    x, y = blobs(n=12)
    with pytest.raises(
        ProbecacheError, match=r"got 12 training rows .* for a knn probe; needed: 20"
    ) as caught:
        pc.sweep(write(tmp_path / "s", x, y), layer="a", fractions=[1], seeds=1, probe="knn")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("probe", ["logistic", "ridge"])
def test_more_neurons_than_samples(tmp_path, probe):
    x, y = blobs(n=300, d=60)
    store = write(tmp_path / "s", x[:25], y[:25], x[25:], y[25:])
    results = pc.sweep(store, layer="a", fractions=[0.5, 1], seeds=1, probe=probe, l2=1e-2)
    task = load_task(store, "a")
    for i, k in enumerate((30, 60)):
        columns = permutation(60, 0)[:k]
        train, test = (((m - task.mean) / task.scale)[:, columns] for m in (task.train, task.test))
        if probe == "ridge":
            model = RidgeClassifier(alpha=1e-2 * 25)
        else:
            model = LogisticRegression(C=1 / (1e-2 * 25), tol=1e-8, max_iter=5000)
        score = model.fit(train, task.train_labels).score(test, task.test_labels)
        assert float(results["accuracy"].values.ravel()[i]) == pytest.approx(score, abs=0.008)
    assert results["converged"].all()


@pytest.mark.parametrize("probe", ["logistic", "ridge", "sgd"])
def test_one_sample_of_each_class(tmp_path, probe):
    x, y = blobs(n=5, d=8, classes=5)
    results = pc.sweep(write(tmp_path / "s", x, y), layer="a", fractions=[1], seeds=1, probe=probe, l2=1e-3)
    assert float(results["accuracy"].item()) == 1  # five points in eight dimensions are separable
    assert np.isfinite(results["objective"].item())


def test_classes_that_are_named_but_have_no_sample_are_no_classes(tmp_path):
    x, y = blobs(n=6, d=8, classes=2)
    names = [f"class {i}" for i in range(40)]  # more classes than samples
    store = write(tmp_path / "s", x, y * 30, class_names=names)
    results = pc.sweep(store, layer="a", fractions=[1], seeds=1)
    assert results["class"].values.tolist() == ["class 0", "class 30"]
    assert results["class_accuracy"].shape[-1] == 2


@pytest.mark.parametrize("probe", ["logistic", "ridge", "knn", "sgd"])
def test_constant_and_repeated_columns(tmp_path, probe):
    x, y = blobs(d=6)
    odd = np.hstack([x, x[:, :3], np.full((len(x), 2), 7.0)])
    both = [write(tmp_path / name, m[:200], y[:200], m[200:], y[200:]) for name, m in (("a", x), ("b", odd))]
    plain, with_odd = (
        pc.sweep(s, layer="a", fractions=[1], seeds=1, probe=probe, l2=1e-4, selection="first") for s in both
    )
    assert abs(float((plain["accuracy"] - with_odd["accuracy"]).item())) < 0.12
    if probe in ("logistic", "ridge"):  # copies share a weight, so that its penalty falls
        assert float(with_odd["objective"].item()) <= float(plain["objective"].item()) * (1 + 1e-5)


def test_a_layer_that_never_changes_predicts_the_commonest_class(tmp_path):
    y = np.array([0] * 30 + [1] * 10)
    for probe in ("logistic", "ridge"):
        store = write(tmp_path / probe, np.full((40, 4), 3.0), y)
        results = pc.sweep(store, layer="a", fractions=[1], seeds=1, probe=probe)
        assert float(results["accuracy"].item()) == 0.75


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (np.zeros(40, int), {}, "got only one class"),
        (np.arange(40) * 0 - 1, {}, "got no row with target 'label'"),
        (np.arange(40) % 4, {"class_names": ["a", "b", "c"]}, "got label 3|label"),
    ],
)
def test_labels_that_cannot_be_probed_are_one_line(tmp_path, labels, options, message):
    with pytest.raises(InputError, match=message) as caught:
        written_and_swept(tmp_path, blobs(n=40)[0], labels, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_nan_in_a_row_that_is_ok_is_refused_and_in_a_failed_row_left_out(tmp_path):
    x, y = blobs()
    x[5, 3] = np.nan
    with pytest.raises(ProbecacheError) as caught:
        written_and_swept(tmp_path, x, y)
    assert "\n" not in str(caught.value)
    status = np.ones(len(x), np.uint8)
    status[5] = 2
    kept = np.delete(np.arange(len(x)), 5)
    marked, dropped = (
        pc.sweep(s, layer="a", fractions=[1], seeds=1)
        for s in (write(tmp_path / "m", x, y, status=status), write(tmp_path / "d", x[kept], y[kept]))
    )
    np.testing.assert_allclose(marked["objective"], dropped["objective"], rtol=1e-5)
