"""Imports run one way: extract -> store <- analyze, and probecache above all three."""

import ast
from graphlib import CycleError, TopologicalSorter
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


def modules() -> dict[str, Path]:
    """Every module of the project by its import name."""
    paths = [ROOT / "probecache.py", *(p for folder in FORBIDDEN for p in (ROOT / folder).rglob("*.py"))]
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


def imported_modules(text: str, known: set[str]) -> set[str]:
    """The modules among `known` that a source imports: at the top, in functions, for type checkers."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inside & known or {node.module}
    return names & known


def circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_import_circle_among_modules():
    found = modules()
    graph = {name: imported_modules(path.read_text(), set(found)) for name, path in found.items()}
    assert sum(map(len, graph.values())) > len(graph)  # the imports are seen at all
    assert not circle(graph)


@pytest.mark.parametrize(
    "back",
    [
        "import a.one",
        "from a import one",
        "from a.one import thing",
        "def f():\n    from a.one import thing",
        "if TYPE_CHECKING:\n    from a.one import thing",
    ],
)
def test_a_circle_is_seen_wherever_the_import_stands(back):
    known = {"a", "a.one", "a.two"}
    graph = {"a.one": imported_modules("from a import two", known), "a.two": imported_modules(back, known)}
    assert set(circle(graph)) == {"a.one", "a.two"}


def test_no_module_is_called_utils():
    assert not [p for folder in FORBIDDEN for p in (ROOT / folder).rglob("util*.py")]
