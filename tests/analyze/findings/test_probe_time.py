"""What a smaller subset saves in time: the probes that are timed are those of the results, each alone."""

import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

import probecache as pc
from probecache.analyze.findings import probe_time as probetime
from probecache.analyze.findings.probe_time import probe_time
from probecache.analyze.findings.transfer import efficient_subset
from probecache.analyze.probes.fit import describe_device, pick_device
from probecache.store.errors import InputError

ROOT = Path(__file__).parents[3]
PLAN = {"layer": "a", "fractions": [0.25, 0.5, 1], "seeds": 3, "l2": 1e-2}


def make_store(path, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 400)
    x = (rng.normal(size=(3, 4))[y] @ rng.normal(size=(4, 16)) + rng.normal(size=(400, 16))).astype(
        np.float32
    )
    for split, rows in (("train", slice(0, 300)), ("test", slice(300, 400))):
        store = pc.write_arrays(
            path,
            split=split,
            layer="a",
            activations=x[rows],
            labels=y[rows],
            class_names=("cat", "dog", "hen"),
        )
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("time") / "s")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"probe": "ridge"},
        {"standardize": False},
        {"class_weight": {"cat": 3.0}},
        {"l2": [1e-3, 1e-1]},
        {"l2": "auto", "l2_path": [1e-3, 1e-1]},
    ],
    ids=lambda change: ", ".join(change) or "logistic",
)
def test_the_probes_that_are_timed_are_those_of_the_results(store, change):
    results = pc.sweep(store, **(PLAN | change))
    subset = efficient_subset(results, 0.8)
    got = probe_time(results, subset, store, runs=2)
    full = float(
        results["accuracy"].sel({"fraction": 1.0, "selection": "random", "seed": int(subset.seed)}).max()
    )
    assert float(got["accuracy"].sel(width="subset")) == pytest.approx(float(subset["score"]), abs=0.011)
    assert float(got["accuracy"].sel(width="full")) == pytest.approx(full, abs=0.011)
    assert got["n_neurons"].values.tolist() == [16, int(subset["n_neurons"])]
    assert got["seconds"].dims == ("width", "run")
    assert (got["seconds"] > 0).all()
    assert got.attrs["threads"] == torch.get_num_threads()
    assert got.attrs["probe"] == change.get("probe", "logistic")
    assert got.attrs["device"] == describe_device(pick_device("auto"))


def test_each_is_fitted_alone_from_its_own_columns_and_medians_are_of_runs(store, monkeypatch):
    results = pc.sweep(store, **PLAN)
    subset = efficient_subset(results, 0.8)
    k, seen = int(subset["n_neurons"]), []
    assert k < 16
    real = probetime.fit_block

    def recorded(task, orders, sizes, l2s, **options):
        seen.append((task.n_neurons, orders.shape, sizes.tolist(), len(l2s), options.get("shared")))
        return real(task, orders, sizes, l2s, **options)

    # a clock that gives the full layer 4 s and the subset 1, 2, 6 s in turn, and 100 s to the first of each
    steps = iter([100, 100, 4, 1, 4, 2, 4, 6])
    ticks, now = count(), [0.0]

    def clock():
        if next(ticks) % 2:
            now[0] += next(steps)
        return now[0]

    monkeypatch.setattr(probetime, "fit_block", recorded)
    monkeypatch.setattr(probetime, "perf_counter", clock)
    got = probe_time(results, subset, store, runs=3)
    assert seen == [(16, (1, 16), [16], 1, None), (k, (1, k), [k], 1, None)] * 4
    assert got["seconds"].values.tolist() == [[4, 4, 4], [1, 2, 6]]  # the warm-up is in none
    assert got["median_seconds"].values.tolist() == [4, 2]
    assert float(got["time_share"]) == 0.5  # of pairs: 1/4, 2/4, 6/4


def test_another_store_or_no_runs_are_one_line(store, tmp_path):
    results = pc.sweep(store, **PLAN)
    subset = efficient_subset(results, 0.8)
    with pytest.raises(InputError, match="holds other rows of layer 'a' than those of the results") as caught:
        probe_time(results, subset, make_store(tmp_path / "other", seed=1))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="got 0 runs; allowed: 1 or more"):
        probe_time(results, subset, store, runs=0)
    bare = results.assign_attrs(settings="{}")
    with pytest.raises(InputError, match="do not say how their probes were fitted"):
        probe_time(bare, subset, store)


@pytest.mark.slow
def test_the_command_prints_what_was_measured(store, tmp_path):
    pc.sweep(store, **PLAN, out=tmp_path / "r")

    def run(*line):
        command = [sys.executable, "-m", "probecache", "redundancy", str(tmp_path / "r"), *line]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    done = run("--keep", "0.8", "--time", str(store.path))
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("a probe alone"))
    assert "s on all 16 neurons" in line
    assert "median of 5 runs on cpu" in line
    missing = run("--keep", "0.8", "--time", str(tmp_path / "nothing"))
    assert missing.returncode == 2
    assert len(missing.stderr.strip().splitlines()) == 1
