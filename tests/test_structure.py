"""Imports run one way: extract -> store <- analyze, and probecache above all three."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "store": {"extract", "analyze", "probecache"},
    "extract": {"analyze", "probecache"},
    "analyze": {"extract", "timm", "torchvision", "probecache"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_imports_run_one_way(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): sorted(imported(f) & FORBIDDEN[folder]) for f in files}
    assert not {name: bad for name, bad in wrong.items() if bad}


def test_no_module_is_called_utils():
    assert not [p for folder in FORBIDDEN for p in (ROOT / folder).rglob("util*.py")]
