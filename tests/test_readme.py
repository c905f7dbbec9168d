"""What the README shows is what happens, and what the pages name is there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(example.strip().splitlines()) <= 11
    exec(compile(example, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "fraction" in shown
    assert "critical_mass" in shown


@pytest.mark.parametrize("target", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_every_link_leads_to_a_file(target):
    assert (ROOT / target).exists()


def test_names_and_modules_in_the_pages_exist():
    """Every `folder.module.name` resolves and every `folder/module.py` is there."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = 0
    folders = "analyze|extract|store"
    for page in pages:
        text = page.read_text()
        for dotted in re.findall(rf"`(probecache\.(?:{folders})\.\w+\.\w+[\w.]*)", text):
            assert _resolves(dotted), f"{page.name}: {dotted}"
            found += 1
        for path in re.findall(rf"`((?:{folders}|tests|benchmarks)/[\w/.]+\.py)`", text):
            assert (ROOT / path).is_file(), f"{page.name}: {path}"
            found += 1
    assert found > 25


def _resolves(dotted):
    module, _, name = dotted.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), name) or bool(importlib.import_module(dotted))
    except ModuleNotFoundError:
        return False
