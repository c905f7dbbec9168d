"""Sweeps of a real store: every probe once, the same numbers however they are run, nothing computed twice."""

import json
import os

import numpy as np
import pytest
import xarray as xr
from sklearn.datasets import load_digits

import probecache as pc
from probecache.analyze.probes.fit import fit_block
from probecache.analyze.results.grid import DIMS
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.analyze.sweeps.resolved_plan import Sized, size_up
from probecache.analyze.sweeps.sweep import Running, run_plan
from probecache.analyze.tasks.load import load_task
from probecache.store.errors import FingerprintMismatch, InputError, ProbecacheError

FRACTIONS = [0.1, 0.5, 1.0]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "features.zarr"
    x, y = load_digits(return_X_y=True)
    for split, rows in (("train", slice(0, 300)), ("test", slice(300, 450))):
        for layer, columns in (("wide", slice(None)), ("narrow.1", slice(0, None, 2))):
            pc.write_arrays(
                path, split=split, layer=layer, activations=x[rows, columns].astype("float32"), labels=y[rows]
            )
    return pc.open_store(path)


@pytest.fixture
def counted(monkeypatch):
    """Probes that were computed, as they are."""
    from probecache.analyze.sweeps import worker

    ran = []
    original = worker.run_block

    def run_block(block, job, cache):
        ran.append(block)
        return original(block, job, cache)

    monkeypatch.setattr("probecache.analyze.sweeps.execute.run_block", run_block)
    return lambda: sum(block.n_probes for block in ran)


def test_a_sweep_is_the_probes_fitted_one_layer_and_seed_at_a_time(store):
    l2s = [1e-3, 1e-1]
    results = pc.sweep(store, layer=["wide", "narrow.1"], fractions=FRACTIONS, seeds=2, l2=l2s, device="cpu")
    assert results["accuracy"].dims == DIMS
    assert results["accuracy"].shape == (1, 2, 1, 1, 3, 2, 2)
    for layer in ("wide", "narrow.1"):
        task = load_task(store, layer)
        d = task.n_neurons
        for seed in (0, 1):
            order = permutation(d, seed)
            direct = fit_block(task, order[None], sizes(FRACTIONS, d), np.array(l2s), device="cpu")
            swept = results.sel({"layer": layer, "selection": "random", "seed": seed}).squeeze()
            for name in ("accuracy", "objective", "n_iter", "converged"):
                np.testing.assert_array_equal(swept[name], getattr(direct, name)[0])
            np.testing.assert_allclose(swept["class_accuracy"], direct.class_accuracy[0], rtol=1e-6)
            np.testing.assert_array_equal(swept["permutation"][:d], order)
            np.testing.assert_array_equal(swept["n_neurons"][:, 0], sizes(FRACTIONS, d))
    assert (results["permutation"].sel(layer="narrow.1")[:, 32:] == -1).all()
    assert results.attrs["solver"] == "torch"
    assert results.attrs["device"] == "cpu"
    assert store.digest("train", "wide") in results.attrs["fingerprint"]
    assert "torch" in results.attrs["versions"]


def test_results_open_as_plain_xarray_with_labels(store, tmp_path):
    out = tmp_path / "results.zarr"
    returned = pc.sweep(store, layer="wide", fractions=FRACTIONS, seeds=2, out=out)
    opened = xr.open_zarr(out)  # warnings are errors here
    plain = opened.load().drop_vars([str(v) for v in opened.data_vars if str(v).endswith("seal")])
    del plain.attrs["results"]
    xr.testing.assert_identical(plain, returned.drop_vars("gap_bound"))
    assert set(DIMS) <= set(opened.dims)
    assert opened["layer"].values.tolist() == ["wide"]
    assert opened["class"].values.tolist() == [str(i) for i in range(10)]
    assert float(opened["accuracy"].sel({"layer": "wide", "fraction": 0.5}).mean()) > 0.6
    assert [p.name for p in tmp_path.iterdir()] == ["results.zarr"]  # no litter beside it


def test_the_bound_of_the_gap_holds(store):
    """At a loose tol, against the same probes at a tight one; without a penalty nothing bounds it."""
    plan = {"layer": "wide", "fractions": FRACTIONS, "seeds": 1, "l2": [0.0, 1e-3, 1e-1]}
    loose = pc.sweep(store, tol=1e-2, **plan)
    best = pc.sweep(store, tol=1e-8, **plan)
    bound = loose["gap_bound"].sel(l2=[1e-3, 1e-1])
    gap = 1 - best["objective"].sel(l2=[1e-3, 1e-1]) / loose["objective"].sel(l2=[1e-3, 1e-1])
    assert float(gap.max()) > 1e-4
    assert (bound > gap).all()
    assert loose["gap_bound"].sel(l2=0.0).isnull().all()
    ridge = pc.sweep(store, layer="wide", fractions=FRACTIONS, seeds=1, probe="ridge")
    assert "gap_bound" not in ridge


def test_the_same_command_again_computes_nothing(store, tmp_path, counted):
    first = pc.sweep(store, layer="wide", fractions=FRACTIONS, seeds=2, out=tmp_path / "r")
    assert counted() == 6
    again = pc.sweep(store, layer="wide", fractions=FRACTIONS, seeds=2, out=tmp_path / "r")
    assert counted() == 6
    xr.testing.assert_identical(first, again)


GROWN = {
    "seeds": {"seeds": 3},
    "fractions": {"fractions": [0.1, 0.3, 0.5, 1.0]},
    "l2": {"l2": [1e-4, 1e-2]},
    "layer": {"layer": ["wide", "narrow.1"]},
    "selection": {"selection": ["random", "first"]},
    "all": {"seeds": [5, 0, 1], "fractions": [0.3, 0.5], "l2": [1e-2, 1e-4], "layer": ["narrow.1", "wide"]},
}


@pytest.mark.parametrize("axis", sorted(GROWN))
def test_growing_an_axis_computes_only_the_difference(store, tmp_path, counted, axis):
    plan = {"layer": "wide", "fractions": FRACTIONS, "seeds": 2, "l2": 1e-4}
    before = pc.sweep(store, **plan, out=tmp_path / "r")
    grown = pc.sweep(store, **(plan | GROWN[axis]), out=tmp_path / "r")
    shared = 2 if axis == "all" else before["accuracy"].size  # fraction 0.5 of seeds 0 and 1
    assert counted() == before["accuracy"].size + grown["accuracy"].size - shared
    assert (grown["state"] == 1).all()
    whole = xr.open_zarr(tmp_path / "r").load()
    xr.testing.assert_equal(
        whole["accuracy"].sel({dim: before[dim].values for dim in DIMS}), before["accuracy"]
    )
    # what was computed in two goes is what one go gives
    once = pc.sweep(store, **(plan | GROWN[axis]))
    np.testing.assert_allclose(grown["objective"], once["objective"], rtol=1e-4)
    np.testing.assert_array_equal(grown["n_neurons"], once["n_neurons"])
    np.testing.assert_array_equal(grown["permutation"], once["permutation"])


def test_block_size_does_not_change_a_number(store, monkeypatch):
    plan = SweepPlan("wide", FRACTIONS, seeds=4, l2=[1e-3, 1e-1])
    monkeypatch.setattr("probecache.analyze.sweeps.resolved_plan.target_seconds", lambda *a: 1e9)
    one = run_plan(plan, store)
    monkeypatch.setattr("probecache.analyze.sweeps.resolved_plan.target_seconds", lambda *a: 0.0)
    many = run_plan(plan, store)
    xr.testing.assert_identical(one.drop_vars("seconds").drop_attrs(), many.drop_vars("seconds").drop_attrs())


def test_selections_that_draw_nothing_give_every_seed_the_same_probe(store):
    results = pc.sweep(store, layer="wide", fractions=[0.5], seeds=3, selection=["first", "pca", "randproj"])
    values = results["objective"].squeeze(["layer", "fraction", "l2"])
    spread = values.max("seed") - values.min("seed")  # a standard deviation of equal values need not be 0
    assert (spread.sel({"selection": ["first", "pca"]}) == 0).all()
    assert spread.sel({"selection": "randproj"}) > 0


def test_ridge_sweeps_too(store):
    results = pc.sweep(store, layer="wide", fractions=[1.0], seeds=1, probe="ridge", l2=1e-2)
    from sklearn.linear_model import RidgeClassifier

    task = load_task(store, "wide")
    x, test = ((m - task.mean) / task.scale for m in (task.train, task.test))
    model = RidgeClassifier(alpha=1e-2 * len(x)).fit(x, task.train_labels)
    assert float(results["accuracy"].item()) == pytest.approx(model.score(test, task.test_labels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe": "ridge"}, "probe: 'logistic' there, 'ridge' now"),
        ({"standardize": False}, "standardize: True there, False now"),
        ({"solver": "sklearn"}, "solver: 'auto' there, 'sklearn' now"),
        ({"test": "train"}, "test: 'test' there, 'train' now"),
    ],
)
def test_results_of_another_setting_are_refused_with_the_difference(store, tmp_path, change, message):
    pc.sweep(store, layer="wide", fractions=[0.5], seeds=1, out=tmp_path / "r")
    with pytest.raises(FingerprintMismatch, match=message) as caught:
        pc.sweep(store, layer="wide", **({"fractions": [0.5], "seeds": 2} | change), out=tmp_path / "r")
    assert "\n" not in str(caught.value)
    assert xr.open_zarr(tmp_path / "r").sizes["seed"] == 1


def test_results_of_another_store_are_refused_with_the_difference(store, tmp_path):
    pc.sweep(store, layer="wide", fractions=[0.5], seeds=1, out=tmp_path / "r")
    x, y = load_digits(return_X_y=True)
    for split in ("train", "test"):
        other = pc.write_arrays(
            tmp_path / "other",
            split=split,
            layer="wide",
            activations=x[900:].astype("float32"),
            labels=y[900:],
        )
    with pytest.raises(FingerprintMismatch, match=r"digests.wide: '\w+.* there, '\w+.* now"):
        pc.sweep(other, layer="wide", fractions=[0.5], seeds=1, out=tmp_path / "r")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "wde"}, "got layer 'wde'.*: close names: wide"),
        ({"train": "trian"}, "got split 'trian'.*: close names: train"),
        ({"fractions": [1.1]}, "got fraction 1.1; allowed: above 0, up to 1"),
        ({"device": "tpu"}, "got device 'tpu'; allowed: auto, cpu, cuda, cuda:N"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(store, tmp_path, change, message):
    with pytest.raises(InputError, match=message) as caught:
        pc.sweep(store, **({"layer": "wide", "fractions": [0.5]} | change), out=tmp_path / "r")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_layer_that_is_not_finite_is_named_before_anything_is_written(tmp_path):
    x = np.ones((20, 3), np.float32)
    x[4, 1] = np.inf
    for split, values in (("train", np.ones_like(x)), ("test", x)):
        store = pc.write_arrays(
            tmp_path / "s", split=split, layer="a", activations=values, labels=np.arange(20) % 2
        )
    with pytest.raises(InputError, match="got 1 NaN or infinite values in layer 'a' of split 'test'"):
        pc.sweep(store, layer="a", fractions=[1], out=tmp_path / "r")
    with pytest.raises(InputError, match=r"layer 'a' of split 'test' .* infinite values, first in neuron 1"):
        pc.cka(store, layer="a", split="test", fractions=[1])
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_results_below_a_file_are_wrong_input(store, tmp_path):
    (tmp_path / "notes").write_text("x")
    with pytest.raises(InputError, match="which cannot be made"):
        pc.sweep(store, layer="wide", fractions=[1], out=tmp_path / "notes" / "r")


def test_test_classes_that_training_never_saw_are_named(tmp_path):
    x, y = load_digits(return_X_y=True)
    x = x.astype("float32")
    pc.write_arrays(tmp_path / "s", split="train", layer="a", activations=x[y < 9], labels=y[y < 9])
    store = pc.write_arrays(tmp_path / "s", split="test", layer="a", activations=x, labels=y)
    with pytest.raises(InputError, match="1 test classes that training never saw"):
        pc.sweep(store, layer="a", fractions=[0.5], out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_classes_of_one_name_stay_two(tmp_path):
    x, y = load_digits(n_class=3, return_X_y=True)
    swept = {}
    for names in (["crane", "crane", "eel"], ["0", "1", "2"]):
        for split, rows in (("train", slice(0, 60)), ("test", slice(60, 90))):
            store = pc.write_arrays(
                tmp_path / names[0],
                split=split,
                layer="a",
                activations=x[rows],
                labels=y[rows],
                class_names=names,
            )
        swept[names[0]] = pc.sweep(store, layer="a", fractions=[1], seeds=1)
    assert swept["crane"]["class"].values.tolist() == ["crane (0)", "crane (1)", "eel"]
    np.testing.assert_array_equal(swept["crane"].class_accuracy, swept["0"].class_accuracy)


def test_a_folder_that_holds_no_results_is_left_alone(store, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="which holds no sweep results"):
        pc.sweep(store, layer="wide", fractions=[0.5], out=tmp_path / "r")
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["thesis.tex"]


def failing(monkeypatch, when, error):
    """Make the solver raise `error()` for blocks of seeds for which `when` is true; returns the tries."""
    from probecache.analyze.sweeps import block_fit as worker

    tries = []
    original = worker.solve

    def solve(task, request, *args, **kwargs):
        if when(request.orders):
            tries.append(len(request.orders))
            raise error()
        return original(task, request, *args, **kwargs)

    monkeypatch.setattr(worker, "solve", solve)
    monkeypatch.setattr("probecache.analyze.sweeps.resolved_plan.target_seconds", lambda *a: 0.0)
    return tries


def test_a_block_that_fails_three_times_is_recorded_and_the_rest_goes_on(store, tmp_path, monkeypatch):
    bad = permutation(64, 1)
    with monkeypatch.context() as patch:
        tries = failing(patch, lambda orders: (orders[0] == bad).all(), lambda: RuntimeError("cosmic\nray"))
        with pytest.warns(RuntimeWarning, match="1 of 3 blocks failed; first wide, random, seeds 1"):
            results = pc.sweep(store, layer="wide", fractions=[0.5], seeds=3, out=tmp_path / "r")
    assert len(tries) == 3
    assert results["state"].values.ravel().tolist() == [1, 2, 1]
    assert np.isnan(results["accuracy"].values.ravel()).tolist() == [False, True, False]
    assert json.loads(results.attrs["failures"])[0]["error"] == "RuntimeError: cosmic"
    healed = pc.sweep(store, layer="wide", fractions=[0.5], seeds=3, out=tmp_path / "r")
    assert (healed["state"] == 1).all()
    assert json.loads(healed.attrs["failures"]) == []


def test_if_every_block_fails_it_is_an_error(store, monkeypatch):
    failing(monkeypatch, lambda orders: True, lambda: ValueError("no"))
    with pytest.raises(ProbecacheError, match=r"all 2 blocks failed; the first.*ValueError: no"):
        pc.sweep(store, layer="wide", fractions=[0.5], seeds=2)


def test_if_every_block_is_wrong_input_that_is_the_error(tmp_path):
    few = pc.write_arrays(
        tmp_path / "s", split="few", layer="a", activations=np.eye(4, 3), labels=np.arange(4) % 2
    )
    how = {"layer": "a", "train": "few", "test": "few", "fractions": [0.5], "seeds": 2}
    pc.write_targets(few, split="few", targets={"both": np.eye(4, 2).astype(int)})
    with pytest.raises(InputError, match=r"blocks failed; the first, .* for every training row"):
        pc.sweep(few, target="both", shots=1, **how)  # one row is of one class, whichever it is
    with pytest.raises(InputError, match="got 4 training rows of target 'label', for a knn probe"):
        pc.sweep(few, probe="knn", **how)


def test_out_of_memory_halves_the_block_down_to_what_fits(store, monkeypatch):
    whole = pc.sweep(store, layer="wide", fractions=FRACTIONS, seeds=5)
    with monkeypatch.context() as patch:
        tries = failing(patch, lambda orders: len(orders) > 1, MemoryError)
        patch.setattr("probecache.analyze.sweeps.resolved_plan.target_seconds", lambda *a: 1e9)
        halved = pc.sweep(store, layer="wide", fractions=FRACTIONS, seeds=5)
    assert sorted(tries) == [2, 2, 3, 5]
    xr.testing.assert_equal(halved["objective"], whole["objective"])
    assert (halved["state"] == 1).all()


def test_a_plan_that_cannot_fit_is_refused_naming_the_layer(store, tmp_path):
    with pytest.raises(InputError, match=r"layer 'wide' needs .* and 1.0 MiB are allowed"):
        pc.sweep(store, layer=["narrow.1", "wide"], fractions=[1], memory_limit=2**20)


def test_progress_counts_every_probe(store):
    seen = []
    pc.sweep(store, layer="wide", fractions=FRACTIONS, seeds=2, progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (6, 6)


def test_the_size_of_a_plan_is_known_without_reading_features(store, monkeypatch):
    monkeypatch.setattr(type(store), "matrix", None)
    sized = size_up(SweepPlan(["wide", "narrow.1"], FRACTIONS), store)
    assert isinstance(sized, Sized)
    assert sized.layers["wide"].d == 64
    assert sized.layers["wide"].loaded == 450 * 64 * 4


def test_a_sweep_by_path_needs_no_open_store(store):
    results = pc.sweep(os.fspath(store.path), layer="wide", fractions=[1.0], seeds=1)
    assert results["accuracy"].size == 1


def test_a_finished_sweep_that_cannot_be_written_to_is_read(store, tmp_path, counted, monkeypatch):
    plan = SweepPlan(layer=("narrow.1",), fractions=FRACTIONS, seeds=(0, 1), l2=(1e-2,), probe="ridge")
    first = run_plan(plan, store, Running(out=tmp_path / "r.zarr"))
    before, done = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")), counted()
    monkeypatch.setattr("probecache.analyze.sweeps.sweep.may_write", lambda path: False)
    monkeypatch.setattr("probecache.analyze.sweeps.sweep.Results", None)  # nothing opens them for writing
    again = run_plan(plan, store, Running(out=tmp_path / "r.zarr"))
    xr.testing.assert_identical(first, again)
    assert counted() == done
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_an_empty_folder_is_as_none(store, tmp_path):
    (tmp_path / "r").mkdir()
    pc.sweep(store, layer="wide", fractions=[0.5], seeds=1, probe="ridge", out=tmp_path / "r")
    assert pc.open_results(tmp_path / "r").state.values.ravel().tolist() == [1]


def test_what_is_no_results_asks_for_another_out(store, tmp_path):
    with pytest.raises(InputError, match="which holds no sweep results; give another out"):
        pc.sweep(store, layer="wide", fractions=[0.5], out=store.path)


def test_numbers_for_a_probe_of_classes_say_what_else(store, tmp_path):
    own = tmp_path / "s"
    for split, rows in (("train", 300), ("test", 150)):
        x = store.matrix(split, "narrow.1")
        pc.write_arrays(own, split=split, layer="l", activations=x, labels=store.labels(split))
        pc.write_targets(own, split=split, targets={"n": np.arange(rows) % 3 + 0.0})
    with pytest.raises(InputError, match=r"such as ridge; classes that came as numbers .* kinds classes"):
        pc.sweep(own, layer="l", fractions=[1], target="n")
    with pytest.raises(InputError, match="sweep each kind by itself"):
        pc.sweep(own, layer="l", fractions=[1], target=["label", "n"], metric="r2", probe="ridge")
