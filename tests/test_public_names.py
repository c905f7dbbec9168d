"""The public names: each has an example that runs as printed, and stands in docs/api.md."""

import ast
import doctest
import inspect
import operator
import re
import typing
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import probecache as pc
from probecache.analyze import commands as analyze
from probecache.extract import commands as extract
from probecache.store import commands as store

COMMANDS = extract.COMMANDS | store.COMMANDS | analyze.COMMANDS
ROOT = Path(__file__).parent.parent


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


@pytest.mark.parametrize("name", pc.__all__)
def test_the_example_runs(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    value = getattr(pc, name)
    known = {"pc": pc, "np": np, name: value}
    (example,) = doctest.DocTestFinder(recurse=False).find(value, name, globs=known)
    assert example.examples
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert runner.run(example, out=said.append).failed == 0, "".join(said)


def sections(text: str) -> dict[str, str]:
    """The numpydoc sections of a docstring by their titles; what stands before the first is "promise"."""
    parts = re.split(r"^(\w+)\n-+\n", inspect.cleandoc(text), flags=re.MULTILINE)
    return {"promise": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def told(section: str) -> set[str]:
    """The names that a Parameters section tells of: `a, b : type` at its margin."""
    heads = [line.partition(" : ")[0] for line in section.splitlines() if line and not line.startswith(" ")]
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


METHODS = ["Store.matrix", "Store.blocks"]  # what they raise is said by their class


@pytest.mark.parametrize("name", [*pc.__all__, *METHODS])
def test_a_docstring_tells_all_that_goes_in_and_comes_out(name):
    value = operator.attrgetter(name)(pc)
    found = sections(value.__doc__)
    assert found["promise"].splitlines()[0].endswith((".", ":")), "the promise is one line"
    error = isinstance(value, type) and issubclass(value, Exception)
    if not error or "__init__" in vars(value):
        signature = inspect.signature(value)
        taken = {n for n, p in signature.parameters.items() if n != "self"}
        assert taken <= told(found.get("Parameters", "")), "every parameter is told"
        gives = signature.return_annotation
        if not isinstance(value, type) and gives not in (None, "None"):
            assert found["Returns"].strip()
    if not error:
        assert name in METHODS or found["Raises"].strip()
    assert set(found) <= {"promise", "Parameters", "Returns", "Raises", "Examples"}


def test_a_docstring_without_a_parameter_is_seen():
    found = sections("Adds.\n\nParameters\n----------\na, b : int\n    Both.\n**more\n    Rest.\n")
    assert told(found["Parameters"]) == {"a", "b", "more"}
    assert "Returns" not in found


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_says_what_it_does_and_what_each_option_means(name):
    function = COMMANDS[name]
    assert function.__doc__.splitlines()[0].rstrip().endswith((".", ";", ":"))
    hints = typing.get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters:
        if hints[parameter] is typer.Context:
            continue
        about = [m for m in getattr(hints[parameter], "__metadata__", ()) if hasattr(m, "help")]
        default = inspect.signature(function).parameters[parameter].default
        assert (about and about[0].help) or getattr(default, "help", None), f"{name}: {parameter}"


def test_the_reference_lists_every_public_name():
    listed = {
        line.removeprefix("::: ").strip()
        for line in (ROOT / "docs" / "api.md").read_text().splitlines()
        if line.startswith("::: ")
    }
    assert listed == {f"probecache.{module}.{name}" for name, module in pc._PUBLIC.items()}


def test_type_checkers_see_every_public_name():
    """The imports that only they make are those that are made when a name is first used."""
    tree = ast.parse((ROOT / "probecache" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert isinstance(block.test, ast.Name)
    assert block.test.id == "TYPE_CHECKING"
    seen = {
        alias.name: f"{node.module}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {name: f"probecache.{module}" for name, module in pc._PUBLIC.items()}
    assert seen == lazy | {"plot": "probecache.analyze"}
    assert {name for name in dir(pc) if not name.startswith("_")} == set(seen)
