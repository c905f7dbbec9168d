"""The recipe and the example of the docs, run: on tiny images and random weights, so without any network."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from probecache.__main__ import _run

ROOT = Path(__file__).parents[3]
RECIPE = re.search(r"```bash\n(.*?)```", (ROOT / "docs/paper.md").read_text(), re.S)[1]
MODELS = re.search(r'MODELS="(.*?)"', RECIPE)[1].split()
DATASETS = re.search(r'DATASETS="(.*?)"', RECIPE)[1].split()
LINES = [line.strip() for line in RECIPE.splitlines() if line.strip().startswith("probecache ")]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Class folders of two splits, eight images of four classes each."""
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split in ("train", "test"):
        for i in range(8):
            path = folder / split / f"class{i % 4}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    return folder


def command(line, model, dataset, images):
    """One recipe line as the shell would expand it, its data set and weights replaced by what is here."""
    name = f"{model}--{dataset.split('/')[-1]}"
    words = shlex.split(line.replace("$NAME", name).replace("$MODEL", model).replace("$DATASET", dataset))
    assert not [w for w in words if "$" in w]
    if words[1] == "extract":
        at, split = words.index("--dataset"), words[words.index("--split") + 1]
        words[at + 1] = ""
        words[words.index("--data-dir") + 1] = str(images / split)
        words.remove("--dataset-download")
        words += ["--no-pretrained", "--batch-size", "8", "--workers", "0", "--device", "cpu"]
    elif words[1] == "sweep":
        # Eight images are separable: a penalty under which that is solved at once, and fewer probes.
        for flag, value in (("--l2", "1"), ("--seeds", "2"), ("--fractions", "0.1,0.5,1.0")):
            words[words.index(flag) + 1] = value
        words += ["--device", "cpu"]
    return words[1:]


def run_recipe(model, dataset, images):
    """In this process: starts of an interpreter would be most of the time."""
    for line in LINES[:-1]:
        assert _run(command(line, model, dataset, images), debug=True) == 0, line


def environment():
    import os

    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_recipe_names_the_papers_six_backbones_and_four_data_sets():
    import timm

    assert [m.split(".")[0] for m in MODELS] == [
        "resnet18",
        "resnet50",
        "wide_resnet50_2",
        "vgg16",
        "vit_small_patch16_224",
        "vit_small_patch32_224",
    ]
    assert set(MODELS) <= set(timm.list_pretrained())
    assert len(DATASETS) == 4
    assert [shlex.split(line)[1] for line in LINES] == [
        "extract",
        "extract",
        "sweep",
        "cka",
        "redundancy",
        "report",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_recipe_runs_for_every_backbone(model, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_recipe(model, DATASETS[MODELS.index(model) % len(DATASETS)], images)


def test_recipe_runs_to_the_report(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_recipe(MODELS[0], DATASETS[0], images)
    words = shlex.split(LINES[-1])[1:]
    assert (
        _run([str(p) for w in words for p in (sorted(tmp_path.glob(w)) if "*" in w else [w])], debug=True)
        == 0
    )
    assert (tmp_path / "report/index.html").stat().st_size > 1_000_000


def test_example_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "docs/examples/redundancy.py"), str(tmp_path)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Critical mass at delta 0.9: 32 neurons" in done.stdout
    assert (tmp_path / "report/index.html").exists()
