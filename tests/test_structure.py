"""Imports run one way: extract -> store <- analyze, and probecache above all three."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "store": {"probecache.extract", "probecache.analyze", "probecache.__main__"},
    "extract": {"probecache.analyze", "probecache.__main__"},
    "analyze": {"probecache.extract", "timm", "torchvision", "probecache.__main__"},
}
OURS = {"store", "extract", "analyze"}


def imported(path: Path) -> set[str]:
    """What a module imports: our own folders as `probecache.folder`, all else by its top-level name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names]
    return {".".join(part[:2]) if part[0] == "probecache" else part[0] for part in parts}


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_imports_run_one_way(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): sorted(imported(f) & FORBIDDEN[folder]) for f in files}
    assert not {name: bad for name, bad in wrong.items() if bad}


def test_everything_is_imported_by_its_one_name():
    """`import store` from the repository would be a second copy of our module, or a user's own."""
    files = [p for p in ROOT.rglob("*.py") if not {".venv", ".venv-cuml"} & set(p.parts)]
    assert not {str(f): sorted(imported(f) & OURS) for f in files if imported(f) & OURS}


def modules() -> dict[str, Path]:
    """Every module of the project by its import name."""
    inside = [p for folder in FORBIDDEN for p in (ROOT / folder).rglob("*.py")]
    found = {"probecache." + ".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in inside}
    found["probecache"] = ROOT / "probecache" / "__init__.py"
    found["probecache.__main__"] = ROOT / "probecache" / "__main__.py"
    return {name.removesuffix(".__init__"): path for name, path in found.items()}


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
    # the public names, which are above all others: imported when first used, and for type checkers alone
    graph["probecache"] = set()
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


def test_the_module_list_of_the_design_page_is_what_the_modules_say():
    done = subprocess.run(
        [sys.executable, "docs/modules.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
