"""The lists of folders and modules in the docs, from the first line of each one's docstring.

python docs/modules.py            rewrite docs/modules.md, and the folders in docs/design.md
python docs/modules.py --check    exit 1 where they are not what the code says
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DESIGN, MODULES = ROOT / "docs" / "design.md", ROOT / "docs" / "modules.md"
BEGIN, END = "<!-- folders: python docs/modules.py -->\n", "<!-- end of folders -->"
HEAD = """# The list of modules

Each with the first line of its docstring, written by `python docs/modules.py`. [The map](design.md) says how
they fit together.
"""
FOLDERS = ("extract", "store", "analyze")


def first_line(path: Path) -> str:
    """The first paragraph of a module's docstring, on one line, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")


def rooms() -> list[Path]:
    """Every package folder of the three, each before those in it."""
    inside = [p for folder in FOLDERS for p in [ROOT / folder, *sorted((ROOT / folder).rglob("*"))]]
    return [p for p in inside if (p / "__init__.py").is_file()]


def name(room: Path) -> str:
    return f"`{room.relative_to(ROOT).as_posix()}/`"


def folders() -> str:
    """A row per folder: what it says of itself."""
    lines = ["| folder | what it holds |", "|---|---|"]
    lines += [f"| {name(room)} | {first_line(room / '__init__.py')} |" for room in rooms()]
    return "\n".join(lines) + "\n"


def modules() -> str:
    """A table per folder: module, what it says of itself."""
    lines = [HEAD.rstrip()]
    for room in rooms():
        found = sorted(p for p in room.glob("*.py") if p.name != "__init__.py")
        lines += ["", f"## {name(room)}", "", first_line(room / "__init__.py") + ".", ""]
        if found:
            lines += ["| module | what it holds |", "|---|---|"]
            lines += [f"| `{p.stem}` | {first_line(p).replace('|', chr(92) + '|')} |" for p in found]
    return "\n".join(lines).strip() + "\n"


def main() -> None:
    design = DESIGN.read_text(encoding="utf-8")
    before, rest = design.split(BEGIN)
    pages = {DESIGN: before + BEGIN + folders() + END + rest.split(END, 1)[1], MODULES: modules()}
    wrong = [page for page, text in pages.items() if not page.is_file() or page.read_text("utf-8") != text]
    if wrong and "--check" in sys.argv:
        names = ", ".join(page.name for page in wrong)
        sys.exit(f"{names}: not what the code says; run python docs/modules.py")
    for page in wrong:
        page.write_text(pages[page], encoding="utf-8")


if __name__ == "__main__":
    main()
