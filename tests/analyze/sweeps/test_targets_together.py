"""Targets of two classes over the same rows are one block, and come out as they do alone."""

import numpy as np
import pytest

import probecache as pc
from probecache.analyze.probes.fit import fit_block, pick_device, task_moments
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.sweeps import execute, worker
from probecache.analyze.sweeps.blocks import Block
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.analyze.sweeps.resolved_plan import machine_for, size_up
from probecache.analyze.sweeps.whole_rows import WholeRows
from probecache.analyze.tasks.labels import load_labels
from probecache.analyze.tasks.load import load_rows, load_task

NAMES = ["even", "warm", "tall", "gaps"]
ALIKE = ["even", "warm", "tall"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("together") / "s.zarr"
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(16, 4))
    for split, n in (("train", 240), ("val", 80), ("test", 90)):
        x = rng.normal(size=(n, 16)).astype(np.float32)
        pc.write_arrays(path, split=split, layer="a", activations=x, labels=rng.integers(0, 3, n))
        bits = (x @ directions + rng.normal(size=(n, 4)) > 0).astype(np.int64)
        bits[::7, 3] = -1  # rows that lack it
        pc.write_targets(path, split=split, targets=dict(zip(NAMES, bits.T, strict=True)))
        four = (x @ directions).argmax(axis=1)
        more = {"four": four, "four_too": (four + (rng.random(n) < 0.5)) % 4, "size": x @ directions[:, :2]}
        lacking = four.copy()
        lacking[1::5] = -1
        pc.write_targets(path, split=split, targets=more | {"fewer": lacking})
    return pc.open_store(path)


@pytest.fixture
def ran(monkeypatch):
    """The blocks that were computed."""
    blocks, original = [], worker.run_block

    def run_block(block, *rest):
        blocks.append(block)
        return original(block, *rest)

    monkeypatch.setattr(execute, "run_block", run_block)
    return blocks


HOW = {"layer": "a", "fractions": [0.25, 1], "seeds": 2, "l2": [1e-2, 1e-1], "metric": ["auroc"]}


@pytest.mark.parametrize("probe", ["ridge", "logistic"])
def test_each_target_is_as_it_is_alone(store, ran, probe):
    how = HOW | {"probe": probe, "save_predictions": True, "tol": 1e-7}
    found = pc.sweep(store, target=NAMES, **how)
    assert [block.targets for block in ran] == [tuple(ALIKE), ("gaps",)]
    assert (found.state == 1).all()
    for name in NAMES:
        alone, mine = pc.sweep(store, target=name, **how), found.sel(target=[name])
        np.testing.assert_allclose(mine.objective, alone.objective, rtol=1e-6)
        np.testing.assert_array_equal(mine.predictions, alone.predictions)
        np.testing.assert_array_equal(mine.accuracy, alone.accuracy)
        np.testing.assert_allclose(mine.auroc, alone.auroc, atol=2e-3)
        assert (mine.converged == alone.converged).all()


def test_what_is_there_is_kept_and_the_rest_goes_together(store, ran, tmp_path):
    out = tmp_path / "results.zarr"
    pc.sweep(store, target="warm", out=out, **HOW)
    first = pc.open_results(out)
    pc.sweep(store, target=NAMES, out=out, **HOW)
    assert [block.targets for block in ran] == [("warm",), ("even", "tall"), ("gaps",)]
    np.testing.assert_array_equal(pc.open_results(out).sel(target=["warm"]).accuracy, first.accuracy)
    pc.sweep(store, target=NAMES, out=out, **HOW)
    assert len(ran) == 3


def test_plans_that_draw_rows_or_choose_l2_go_target_by_target(store, ran):
    few = HOW | {"l2": 0.1, "fractions": [1], "metric": []}
    pc.sweep(store, target=ALIKE, shots=[20], **few)
    pc.sweep(store, target=ALIKE, **(few | {"l2": "auto", "l2_path": [0.1, 1.0]}))
    pc.sweep(store, target=ALIKE, class_weight="balanced", **few)
    pc.sweep(store, target=ALIKE, solver="sklearn", **few)
    assert {len(block.targets) for block in ran} == {1}


@pytest.mark.parametrize(
    ("probe", "more"),
    [
        ("logistic", {"control": "shuffled"}),
        ("logistic", {"l2": "auto", "l2_path": [1e-2, 1.0], "val": "val"}),
        (
            "ridge",
            {"l2": "auto", "l2_path": [1e-2, 1.0], "val": "val", "refit": "train+val", "control": "random"},
        ),
    ],
)
def test_controls_and_a_validation_split_go_together_too(store, ran, probe, more):
    how = HOW | {"probe": probe, "tol": 1e-7, "save_predictions": True, "metric": []} | more
    found = pc.sweep(store, target=ALIKE, **how)
    assert [block.targets for block in ran] == [tuple(ALIKE)]
    for name in ALIKE[:2]:
        alone, mine = pc.sweep(store, target=name, **how), found.sel(target=[name])
        np.testing.assert_allclose(mine.objective, alone.objective, rtol=1e-6)
        np.testing.assert_array_equal(mine.predictions, alone.predictions)
        if "val" in more:
            np.testing.assert_array_equal(mine.chosen_l2, alone.chosen_l2)


def test_ridge_takes_any_targets_of_one_kind_and_size_together(store, ran):
    how = HOW | {"probe": "ridge", "metric": []}
    found = pc.sweep(store, target=["four", "size", "four_too", "even"], **how)
    assert [block.targets for block in ran] == [("four", "four_too"), ("size",), ("even",)]
    for name in ("four", "four_too", "size"):
        alone = pc.sweep(store, target=name, **how)
        for score in ("objective", "accuracy", "r2" if name == "size" else "grad_norm"):
            np.testing.assert_allclose(found[score].sel(target=[name]), alone[score], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("probe", "standardize"), [("ridge", True), ("logistic", False)])
def test_targets_of_other_rows_read_the_layer_once_and_are_as_they_are_alone(store, probe, standardize):
    names = ["four", "fewer", "gaps"]
    reads, original = [], type(store).matrix

    class Counted(type(store)):
        def matrix(self, split, *args, **how):
            reads.append(split)
            return original(self, split, *args, **how)

    counted = pc.open_store(store.path)
    counted.__class__ = Counted
    how = {"layer": "a", "fractions": [0.25, 1], "seeds": 2, "l2": 1e-2, "standardize": standardize}
    found = pc.sweep(counted, target=names, probe=probe, tol=1e-7, **how)
    assert sorted(reads) == ["test", "train"]
    orders = np.stack([permutation(16, seed) for seed in (0, 1)])
    for name in names:
        task = load_task(store, "a", target=name)
        assert len(task.train) == {"four": 240, "fewer": 192, "gaps": 205}[name]
        plan = {"probe": probe, "standardize": standardize, "tol": 1e-7}
        alone = fit_block(task, orders, sizes([0.25, 1], 16), [1e-2], **plan)
        mine = found.sel(target=name).squeeze().transpose("seed", "fraction", ...)
        np.testing.assert_allclose(mine.objective, alone.objective[..., 0], rtol=1e-6)
        np.testing.assert_allclose(mine.accuracy, alone.accuracy[..., 0], atol=1e-12)


@pytest.mark.parametrize("standardize", [True, False])
def test_moments_of_some_rows_are_those_of_all_less_the_others(store, standardize):
    usable = {split: np.ones(n, bool) for split, n in (("train", 240), ("test", 90))}
    rows, device = load_rows(store, "a", usable), pick_device("cpu")
    whole = WholeRows(rows, usable, "train", standardize, device)
    for name, served in (("gaps", True), ("fewer", True), ("four", False)):
        task, keep = load_task(store, "a", target=name), load_labels(store, "train", "test", name).train_keep
        found = whole.gram_of(task, keep)
        assert (found is not None) == served, name
        if found is not None:
            direct = task_moments(task, standardize, "cpu").moments
            np.testing.assert_allclose(found.gram, direct.gram, atol=1e-5)
            assert found.count == direct.count
            own = whole.of({"train": keep})["train"]
            np.testing.assert_array_equal(own.matrix, task.train)
            np.testing.assert_allclose(own.mean, task.mean, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(own.scale, task.scale, rtol=1e-6)
    few = np.arange(240) % 3 == 0  # most rows are left out
    assert whole.gram_of(load_task(store, "a", target="four"), few) is None
    rows["train"].matrix[60:, 3] *= 1e-4  # a column that varies in the rows left out alone
    narrow = WholeRows(rows, usable, "train", standardize, device)
    assert narrow.of({"train": np.arange(240) >= 60})["train"].mean is None
    assert narrow.gram_of(load_task(store, "a", target="four"), np.arange(240) >= 60) is None


def test_a_failed_block_fails_each_of_its_targets(store, monkeypatch, tmp_path):
    def run_block(block, *rest):
        if block.also:
            raise RuntimeError("broken")
        return worker.run_block(block, *rest)

    out = tmp_path / "results.zarr"
    with monkeypatch.context() as broken:
        broken.setattr(execute, "run_block", run_block)
        with pytest.warns(RuntimeWarning, match="1 of 2 blocks failed"):
            found = pc.sweep(store, target=NAMES, out=out, **HOW)
    assert (found.state.sel(target=ALIKE) == 2).all()
    assert (found.state.sel(target="gaps") == 1).all()
    again = pc.sweep(store, target=NAMES, out=out, **HOW)
    assert (again.state == 1).all()
    assert again.attrs["failures"] == "[]"


def test_a_block_that_runs_out_of_memory_is_halved_by_targets(store, monkeypatch):
    original, sizes = worker.fit_cells, []

    def fit_cells(block, *rest):
        sizes.append(len(block.targets))
        if len(block.targets) > 2:
            raise MemoryError
        return original(block, *rest)

    plan = HOW | {"seeds": 1, "probe": "ridge"}
    expected = pc.sweep(store, target=ALIKE, **plan)
    monkeypatch.setattr(worker, "fit_cells", fit_cells)
    found = pc.sweep(store, target=ALIKE, **plan)
    assert sizes == [3, 1, 2]
    np.testing.assert_array_equal(found.accuracy, expected.accuracy)


def test_blocks_that_need_more_memory_than_there_is_are_halved_before(store):
    plan = SweepPlan.from_mapping(HOW | {"target": ALIKE, "probe": "logistic"}, "here")
    sized, machine = size_up(plan, store), machine_for(None, "cpu", None)
    everything = np.ones(sized.grid.shape, bool)
    assert [block.targets for block in sized.blocks(everything, machine)] == [tuple(ALIKE)]
    small = type(machine)(machine.flops, 1, 1, "cpu")
    assert [block.targets for block in sized.blocks(everything, small)] == [(name,) for name in ALIKE]


def test_halves_hold_the_same_probes():
    block = Block("a", "random", (0.5, 1.0), (0,), (0.1,), target="x", also=("y", "z"))
    left, right = block.halves()
    assert (left.targets, right.targets) == (("x",), ("y", "z"))
    assert left.n_probes + right.n_probes == block.n_probes == 6
