"""The module list of docs/design.md, from each module's own first line.

python docs/modules.py            rewrite the list
python docs/modules.py --check    exit 1 where it is not what the modules say
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "design.md"
BEGIN, END = "<!-- modules: python docs/modules.py -->\n", "<!-- end of modules -->"
FOLDERS = ("extract", "store", "analyze")


def first_line(path: Path) -> str:
    """The first paragraph of a module's docstring, on one line, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")


def listing() -> str:
    """A table per folder and room: module, what it says of itself."""
    lines = []
    for folder in FOLDERS:
        rooms = [
            ROOT / folder,
            *sorted(p for p in (ROOT / folder).rglob("*") if p.is_dir() and p.name[0] != "_"),
        ]
        for room in rooms:
            modules = sorted(p for p in room.glob("*.py") if p.name != "__init__.py")
            init = room / "__init__.py"
            if not init.exists():
                continue
            name = room.relative_to(ROOT).as_posix()
            lines += ["", f"### `{name}/`", "", first_line(init) + ".", ""]
            if modules:
                lines += ["| module | what it holds |", "|---|---|"]
                lines += [f"| `{p.stem}` | {first_line(p).replace('|', chr(92) + '|')} |" for p in modules]
    return "\n".join(lines).strip() + "\n\n"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    new = before + BEGIN + "\n" + listing() + END + rest.split(END, 1)[1]
    if "--check" in sys.argv:
        if new != page:
            sys.exit("docs/design.md lists other modules than there are; run python docs/modules.py")
        return
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
