"""Probes beside the plain logistic and ridge fits: neighbours, SGD, regression, weights, rows on disk."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.fit import fit_block, pick_device
from probecache.analyze.probes.kinds.sgd import Schedule, Sgd, fit_sgd
from probecache.analyze.probes.optim.cross_entropy import indicator
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.tasks.matrix import StoredRows
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError


def blobs(n=600, d=24, classes=4, seed=0, spread=2.0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.normal(size=(classes, d))[y] + spread * rng.normal(size=(n, d))
    return Task(x[:-100].astype(np.float32), y[:-100], x[-100:].astype(np.float32), y[-100:])


@dataclass
class FakeStore:
    """The two methods of a store that StoredRows calls."""

    matrix: np.ndarray

    def shape(self, split, layer):
        return self.matrix.shape

    def blocks(self, split, layer, columns=None, rows=8192, prefetch=2):
        for start in range(0, len(self.matrix), rows):
            yield start, self.matrix[start : start + rows]


def on_disk(matrix):
    keep = np.ones(len(matrix), bool)
    return StoredRows(FakeStore(matrix), "train", "layer", keep, matrix.shape)


@pytest.mark.parametrize("probe", ["logistic", "ridge"])
def test_rows_on_disk_give_the_same_probes(probe):
    task = blobs()
    disk = Task(on_disk(task.train), task.train_labels, on_disk(task.test), task.test_labels)
    orders = np.stack([permutation(24, s) for s in range(3)])
    sizes, l2s = np.array([5, 24, 11]), np.array([1e-2, 1e-4])
    memory = fit_block(task, orders, sizes, l2s, probe=probe)
    streamed = fit_block(disk, orders, sizes, l2s, probe=probe, memory_limit=2**20)
    np.testing.assert_allclose(streamed.objective, memory.objective, rtol=2e-5)
    np.testing.assert_allclose(streamed.accuracy, memory.accuracy, atol=0.011)
    assert streamed.converged.all()


def test_a_probe_does_not_depend_on_the_others_of_its_block():
    task, order = blobs(), permutation(24, 1)[None]
    together = fit_block(task, order, np.array([24, 7, 13]), np.array([1e-3, 1e-2]))
    alone = fit_block(task, order, np.array([13]), np.array([1e-3]))
    np.testing.assert_allclose(together.objective[0, 2, 0], alone.objective[0, 0, 0], rtol=2e-5)


def test_explicit_index_lists_are_orders_of_their_own():
    task = blobs()
    lists = np.array([[3, 17, 5, 9], [23, 0, 1, 2]])
    got = fit_block(task, lists, np.array([4]), np.array([1e-2]))
    for row, columns in enumerate(lists):
        x = (task.train[:, columns] - task.mean[columns]) / task.scale[columns]
        model = LogisticRegression(C=1 / (1e-2 * len(x)), tol=1e-8, max_iter=1000).fit(x, task.train_labels)
        p = model.predict_proba(x)[np.arange(len(x)), task.train_labels]
        objective = -np.log(p).mean() + 0.5e-2 * (model.coef_**2).sum()
        assert got.objective[row, 0, 0] == pytest.approx(objective, rel=1e-4)


def test_sample_weights_stand_for_repeated_samples():
    task = blobs(d=8)
    counts = np.random.default_rng(1).integers(0, 3, size=500)
    rows = np.repeat(np.arange(500), counts)
    shared = {"mean": task.mean, "scale": task.scale}
    weighted = Task(
        task.train, task.train_labels, task.test, task.test_labels, weights=counts.astype(float), **shared
    )
    repeated = Task(task.train[rows], task.train_labels[rows], task.test, task.test_labels, **shared)
    for probe in ("logistic", "ridge"):
        a, b = (
            fit_block(t, np.arange(8)[None], np.array([8, 3]), np.array([1e-3]), probe=probe)
            for t in (weighted, repeated)
        )
        np.testing.assert_allclose(a.objective, b.objective, rtol=1e-4)
        np.testing.assert_allclose(a.accuracy, b.accuracy, atol=0.011)


def test_multi_output_regression_equals_scikit_learn():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 12)).astype(np.float32) + 3
    y = x[:, :2] @ rng.normal(size=(2, 3)) + rng.normal(size=(300, 3)) + 5
    task = Task(x[:200], y[:200], x[200:], y[200:])
    order = permutation(12, 0)
    got = fit_block(task, order[None], np.array([4, 12]), np.array([0.1]), probe="ridge")
    for i, k in enumerate((4, 12)):
        train, test = (((m - task.mean) / task.scale)[:, order[:k]] for m in (task.train, task.test))
        model = Ridge(alpha=0.1 * 200).fit(train, y[:200])
        assert got.metrics["r2"][0, i, 0] == pytest.approx(model.score(test, y[200:]), abs=1e-5)
        objective = ((y[:200] - model.predict(train)) ** 2).sum() / 200 + 0.1 * (model.coef_**2).sum()
        assert got.objective[0, i, 0] == pytest.approx(objective, rel=1e-5)


def test_knn_equals_its_definition():
    task = blobs(spread=1.2)
    order = permutation(24, 5)
    sizes = np.array([24, 2, 9])
    got = fit_block(
        task, order[None], sizes, np.array([1.0]), probe="knn", standardize=False, return_predictions=True
    )
    for f, k in enumerate(sizes):
        train, test = (m[:, order[:k]].astype(np.float64) for m in (task.train, task.test))
        similarity = (test @ train.T) / np.outer(np.linalg.norm(test, axis=1), np.linalg.norm(train, axis=1))
        for row in range(len(test)):
            best = np.argsort(-similarity[row], kind="stable")[:20]
            votes = np.bincount(task.train_labels[best], np.exp(similarity[row, best] / 0.07), minlength=4)
            assert got.predictions[0, f, 0, row] == votes.argmax()
    assert np.isnan(got.objective).all()


def test_sgd_equals_a_loop_over_torch_modules():
    task, order = blobs(n=300, d=12), permutation(12, 0)
    schedule = Schedule(epochs=4, decay_every=2, batch=32)
    panels = Panels(task.train, task.mean, task.scale, torch.device("cpu"), [order], keep=True)
    labels = torch.from_numpy(task.train_labels)
    sizes = np.array([12, 5])
    got = fit_sgd(panels, indicator(labels, 4), sizes, schedule, seed=3)
    for i, k in enumerate(sizes):
        drawn = torch.rand(13, 4, generator=torch.Generator().manual_seed(3)).T  # column by column
        start = (2 * drawn - 1) / k**0.5
        generator = torch.Generator().manual_seed(3)
        layer = torch.nn.Linear(int(k), 4)
        with torch.no_grad():
            layer.weight.copy_(start[:, 1 : 1 + k])
            layer.bias.copy_(start[:, 0])
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
        steps = torch.optim.lr_scheduler.StepLR(optimiser, 2, 0.1)
        x = torch.from_numpy(((task.train - task.mean) / task.scale)[:, order[:k]])
        for _ in range(4):
            for rows in torch.randperm(200, generator=generator).split(32):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(layer(x[rows]), labels[rows]).backward()
                optimiser.step()
            steps.step()
        torch.testing.assert_close(got[i, :, 1 : 1 + k], layer.weight.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got[i, :, 0], layer.bias.detach(), rtol=1e-4, atol=1e-5)


def test_sgd_probes_score_and_report():
    task, order = blobs(spread=0.5), permutation(24, 0)
    got = fit_block(task, order[None], np.array([24]), np.array([1e-4]), probe=Sgd(Schedule(epochs=5)))
    assert got.accuracy[0, 0, 0] > 0.9
    assert np.isfinite(got.objective).all()


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_columns_that_repeat_or_never_change_do_no_harm(scale):
    task = blobs(d=6)
    x, t = (np.hstack([m, m[:, :3], np.full((len(m), 2), 7.0)]) * scale for m in (task.train, task.test))
    odd = Task(x, task.train_labels, t, task.test_labels)
    for probe in ("logistic", "ridge"):
        got = fit_block(odd, np.arange(11)[None], np.array([11, 8]), np.array([1e-4]), probe=probe)
        assert got.converged.all()
        assert np.isfinite(got.objective).all()


def test_nearly_separable_data_converge():
    task = blobs(d=40, spread=0.4, n=400)
    got = fit_block(task, np.arange(40)[None], np.array([40, 20, 10]), np.array([1e-5]))
    assert got.converged.all()
    for i, k in enumerate((40, 20, 10)):
        x = ((task.train - task.mean) / task.scale)[:, :k].astype(np.float64)
        model = LogisticRegression(C=1 / (1e-5 * len(x)), tol=1e-9, max_iter=20000).fit(x, task.train_labels)
        p = model.predict_proba(x)[np.arange(len(x)), task.train_labels]
        objective = -np.log(p).mean() + 0.5e-5 * (model.coef_**2).sum()
        assert got.objective[0, i, 0] <= objective * (1 + 1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_labels": np.zeros(500, int)}, "only one class"),
        ({"train_labels": np.arange(500) % 3, "classes": ("a", "b", "c", "d")}, "no train sample of class"),
        ({"test_labels": np.full(100, 9)}, "test label 9"),
        ({"train": np.full((500, 24), np.nan)}, "NaN"),
        ({"test": np.zeros((100, 23))}, "neurons"),
        ({"train_labels": np.arange(499) % 4}, "500 train samples"),
        ({"weights": np.full(500, -1.0)}, "sample weights"),
        ({"weights": np.zeros(500)}, "all zero"),
    ],
)
def test_bad_tasks_are_one_line_errors(change, words):
    task = blobs()
    parts = {
        "train": task.train,
        "train_labels": task.train_labels,
        "test": task.test,
        "test_labels": task.test_labels,
    }
    with pytest.raises(InputError, match=words) as error:
        Task(**(parts | change))
    assert "\n" not in str(error.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("probe", ["logistic", "ridge", "knn"])
def test_cuda_gives_what_the_cpu_gives(probe):
    task = blobs(n=5000, d=64, spread=3.0)
    orders = np.stack([permutation(64, s) for s in range(2)])
    sizes, l2s = np.array([64, 16, 5]), np.array([1e-3, 1e-4])
    cpu, cuda = (fit_block(task, orders, sizes, l2s, probe=probe, device=d) for d in ("cpu", "cuda"))
    if probe != "knn":
        np.testing.assert_allclose(cuda.objective, cpu.objective, rtol=1e-4)
    np.testing.assert_allclose(cuda.accuracy, cpu.accuracy, atol=0.02)
    assert cuda.converged.all()


@pytest.mark.parametrize(
    ("device", "there", "message"),
    [
        ("tpu", 0, "allowed: auto, cpu, cuda, cuda:N"),
        ("meta", 0, "allowed: auto, cpu, cuda, cuda:N"),
        ("cuda", 0, "this machine has no CUDA device; use cpu or auto"),
        ("cuda:3", 2, "this machine has cuda:0 to cuda:1"),
    ],
)
def test_devices_that_are_not_there_are_refused(monkeypatch, device, there, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(InputError, match=message):
        pick_device(device)
