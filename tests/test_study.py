"""The study's own code: which stores make it, and that it runs, stops and goes on."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import probecache as pc
from benchmarks.study.paper import GREEDY, plans
from benchmarks.study.stores import find_studies
from benchmarks.study.text import read_sentences

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


def test_a_store_from_elsewhere_is_named_and_wins_over_the_folders(tmp_path):
    store(tmp_path / "folder", "tf_efficientnet_lite0", "pets37")
    for split in ("train", "test"):
        x = np.ones((4, 3), np.float32)
        pc.write_arrays(tmp_path / "mine.zarr", split=split, layer="l", activations=x, labels=[0, 1, 0, 1])
    found = find_studies(tmp_path / "folder", [f"lite0/pets37={tmp_path}/mine.zarr"])
    assert [(s.name, s.splits) for s in found] == [("lite0 / pets37", {"train": "train", "test": "test"})]
    for wrong, says in (
        ("lite0/pets37", "allowed: BACKBONE/TASK=STORE"),
        ("lite0/birds=x", "a task of pets37"),
    ):
        with pytest.raises(pc.InputError, match=says):
            find_studies(tmp_path / "folder", [wrong])


def test_sentences_are_clear_balanced_and_the_same_each_time(tmp_path):
    def packed(files):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w:gz") as archive:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        return raw.getvalue()

    ratings = [-2.0, -0.4, 0.4, 1.5, -0.6, 3.0, 0.51]
    text = "".join(f"{i}\t{v}\tsentence {i} of {{}}\n" for i, v in enumerate(ratings))
    names = ("tweets", "movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets")
    inner = packed({f"hutto_ICWSM_2014/{n}_GroundTruth.txt": text.format(*[n] * 7).encode() for n in names})
    path = tmp_path / "v.tar.gz"
    path.write_bytes(packed({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner}))
    found = read_sentences(path, 2)
    assert found == read_sentences(path, 2)
    assert len(found) == 4 * 2 * 2
    for name, sentence, positive in found:
        source, row = name.split("/")
        assert sentence == f"sentence {row} of {source}"
        assert positive == (ratings[int(row)] > 0.5)
        assert abs(ratings[int(row)]) > 0.5
    path.write_bytes(packed({"other": b""}))
    with pytest.raises(pc.InputError, match="needed: vaderSentiment's source package"):
        read_sentences(path, 2)


@pytest.mark.slow
def test_a_study_holds_every_selection_and_layer_and_goes_on_after_a_stop(tmp_path):
    features = tmp_path / "features"
    store(features, "tf_efficientnet_lite0", "pets37", layers=("blocks.3", "penultimate"))
    command = ["benchmarks.study.paper", str(features), "--out", str(tmp_path / "study"), "--device", "cpu"]

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


def test_plans_come_to_every_selection_and_layer_with_all_seeds():
    most: dict[tuple[str, str], int] = {}
    for plan in plans(["blocks.3", "penultimate"], 5):
        layers, ways = (np.atleast_1d(np.asarray(plan[name])).tolist() for name in ("layer", "selection"))
        for cell in ((layer, way) for layer in layers for way in ways):
            assert plan["seeds"] > most.get(cell, 0)  # nothing is asked for twice
            most[cell] = plan["seeds"]
    late = ("random", "pca", "pca-least", "variance", *GREEDY, "randproj")
    assert most == {**{("penultimate", way): 5 for way in late}, ("blocks.3", "random"): 5}
