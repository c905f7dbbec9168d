"""The study's own code: which stores make it, and that it runs, stops and goes on."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import probecache as pc
from benchmarks.paper import GREEDY, find_studies, plans

ROOT = Path(__file__).parent.parent


def store(folder, name, task, layers=("penultimate",)):
    """Splits TASK-train and TASK-test of 60 and 40 rows, 24 neurons that tell three classes apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 3
    for layer in layers:
        features = (rng.normal(size=(100, 24)) + labels[:, None] * np.linspace(0, 1, 24)).astype(np.float32)
        for split, rows in (("train", slice(60)), ("test", slice(60, 100))):
            pc.write_arrays(
                folder / f"{name}.zarr",
                split=f"{task}-{split}",
                layer=layer,
                activations=features[rows],
                labels=labels[rows],
            )


def test_stores_of_two_image_sizes_are_one_backbone(tmp_path):
    store(tmp_path, "tf_efficientnet_lite0", "pets37")
    store(tmp_path, "tf_efficientnet_lite0-128px", "cifar10")
    store(tmp_path, "tf_efficientnet_lite0_random-128px", "cifar10")
    found = find_studies(tmp_path)
    assert [s.name for s in found] == ["lite0 / pets37", "lite0 / cifar10", "lite0_random / cifar10"]
    assert [s.is_control for s in found] == [False, False, True]


def test_the_same_task_at_two_sizes_is_refused(tmp_path):
    store(tmp_path, "tf_efficientnet_lite0", "cifar10")
    store(tmp_path, "tf_efficientnet_lite0-128px", "cifar10")
    with pytest.raises(pc.InputError, match="more than one store of lite0 / cifar10"):
        find_studies(tmp_path)


@pytest.mark.slow
def test_a_study_holds_every_selection_and_layer_and_goes_on_after_a_stop(tmp_path):
    features = tmp_path / "features"
    store(features, "tf_efficientnet_lite0", "pets37", layers=("blocks.3", "penultimate"))
    command = ["benchmarks.paper", str(features), "--out", str(tmp_path / "study"), "--device", "cpu"]

    def run():
        line = [sys.executable, "-m", *command, "--quick"]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / "study/summary.json").read_text())["lite0 / pets37"]

    first = run()
    assert list(first["dr_of_layers"]) == ["blocks.3", "penultimate"]
    assert set(first["methods_at_20%"]) == {"random", "pca", "pca-least", "randproj", "variance", *GREEDY}
    assert None not in first["methods_at_20%"].values()
    # 6 fractions and two cuts more, 2 seeds: seven selections of the late layer, random of the early one
    assert first["probes"] == 8 * 2 * (7 + 1)
    assert set(first["critical"]) == {"0.9", "0.95"}
    low, high = first["critical"]["0.9"]["interval"]
    assert low <= first["critical"]["0.9"]["neurons"] <= high
    assert list(first["kept_at"]) == ["0.005", "0.25", "0.5"]
    assert 0 <= first["neurons_alone"]["degrading_share"] <= 1
    assert set(first["geometry"]) == {"blocks.3", "penultimate"}
    assert (first["fraction"], first["image_size"]) == (0.2, None)
    assert run() == first
    assert (tmp_path / "study/report/index.html").exists()


def test_plans_end_with_everything():
    todo = list(plans(["blocks.3", "penultimate"], 5))
    assert [p["layer"] for p in todo if p["selection"] == "random"] == ["penultimate", ["blocks.3"]]
    assert todo[-1]["selection"] == ["random", "pca", "pca-least", "randproj", "variance", *GREEDY]
    assert todo[-1]["seeds"] == 5
