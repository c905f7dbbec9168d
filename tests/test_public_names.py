"""The public names: each has an example that runs as printed, and stands in docs/api.md."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import probecache as pc

ROOT = Path(__file__).parent.parent
PLAIN = {"main", *(name for name in pc.__all__ if name.endswith(("Error", "Mismatch", "Split", "Store")))}
PLAIN -= {"Store"}  # errors, and the command line, have nothing to show


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What docs/api.md says that the examples find: features.zarr, results.zarr, photos."""
    path, rng = tmp_path_factory.mktemp("examples"), np.random.default_rng(0)
    for split, n in (("train", 60), ("test", 30)):
        y = np.arange(n) % 3
        for layer, signal in (("early", 1), ("late", 4)):
            x = rng.normal(size=(n, 8)).astype(np.float32)
            x[:, :3] += signal * np.eye(3)[y]
            pc.write_arrays(
                path / "features.zarr",
                split=split,
                layer=layer,
                activations=x,
                labels=y,
                class_names=["cat", "dog", "hen"],
            )
    pc.sweep(path / "features.zarr", layer="*", fractions=[0.5, 1], seeds=2, out=path / "results.zarr")
    for name in ("cat", "dog"):
        (path / "photos" / name).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / "photos" / name / f"{i}.png")
    return path


@pytest.mark.parametrize("name", [name for name in pc.__all__ if name not in PLAIN])
def test_the_example_runs(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    value = getattr(pc, name)
    assert "Examples\n" in value.__doc__
    known = {"pc": pc, "np": np, name: value}
    (example,) = doctest.DocTestFinder(recurse=False).find(value, name, globs=known)
    assert example.examples
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert runner.run(example, out=said.append).failed == 0, "".join(said)


def test_the_reference_lists_every_public_name():
    listed = {
        line.removeprefix("::: ").strip()
        for line in (ROOT / "docs" / "api.md").read_text().splitlines()
        if line.startswith("::: ")
    }
    assert listed == {f"probecache.{module}.{name}" for name, module in pc._PUBLIC.items()}
