"""Every block of code in README, CONTRIBUTING and docs runs, or is a command line that the program takes.

A block that is not run says why, in a comment of the page above it: `<!-- not run: needs a GPU -->`.
"""

import contextlib
import importlib.util
import io
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import probecache as pc
from probecache.__main__ import _app, main
from probecache.analyze.arguments import with_values
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.extract.commands import COMMANDS, as_timm

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "console", "sh", "bash", "toml", "text"}
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+) -->\n\s*)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
LONG = {"text", "transformers"}  # pages that take over ten seconds


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str
    why: str | None  # why it is not run


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, m.start("code")), m["language"], m["code"], m["why"])
        for m in BLOCK.finditer(text)
    ]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT).with_suffix(""))


EVERY = [block for page in PAGES for block in blocks(page)]


def test_every_block_is_fenced_and_says_its_language():
    """Indented code would be missed, as would a fence of an unknown language."""
    assert len(EVERY) > 60
    wrong = [f"{b.page.name}:{b.line} {b.language!r}" for b in EVERY if b.language not in LANGUAGES]
    assert not wrong
    for page in PAGES:
        rest = BLOCK.sub("", page.read_text(encoding="utf-8"))
        assert "```" not in rest, page.name
        indented = re.findall(r"(?:^|\n)\n(?:    |\t)(?! *[-*\d])\S.*", rest)
        assert not indented, (page.name, indented[:1])


def test_a_block_that_is_not_run_says_why():
    page = "<!-- not run: needs a GPU -->\n```python\npass\n```\n\n```sh\nls\n```\n"
    assert [m["why"] for m in BLOCK.finditer(page)] == ["needs a GPU", None]
    for block in EVERY:
        assert block.why is None or len(block.why.split()) > 1


def features(folder: Path) -> None:
    """What the pages of docs/ find: features.zarr with two splits, two layers, three classes."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 90), ("test", 45)):
        for layer in ("blocks.5", "penultimate"):
            labels = np.arange(n) % 3
            x = rng.normal(size=(n, 24)).astype(np.float32)
            x[:, :3] += 2 * np.eye(3)[labels]
            what = {"activations": x, "labels": labels, "class_names": ["cat", "dog", "hen"]}
            pc.write_arrays(folder / "features.zarr", split=split, layer=layer, **what)


def runnable() -> list[object]:
    pages = [p for p in PAGES if any(b.language in ("python", "console") for b in blocks(p))]
    slow = [pytest.mark.slow]
    return [pytest.param(p, id=name(p), marks=slow if p.stem in LONG else []) for p in pages]


@pytest.mark.parametrize("page", runnable())
def test_the_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    """In an empty folder; the pages of docs/ itself find features.zarr."""
    monkeypatch.chdir(tmp_path)
    for packages in re.findall(r"<!-- needs: (.*) -->", page.read_text(encoding="utf-8")):
        for package in packages.split(", "):
            pytest.importorskip(package)
    if page.parent.name == "docs":
        features(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        if block.why is not None:
            continue
        if block.language == "python":
            exec(compile("\n" * block.line + block.code, page.name, "exec"), names)
        elif block.language == "console":
            command, _, shown = block.code.partition("\n")
            assert run(command.removeprefix("$ probecache ")) == shown


def run(command: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        main(shlex.split(command))
    assert ended.value.code == 0
    return said.getvalue()


def lines(block: Block) -> list[str]:
    """The commands of a shell block: comments, loops and line ends that are no ends taken out."""
    text = re.sub(r"\\\n\s*", " ", block.code)
    text = re.sub(r"\$\(.*?\)", "NAME", re.sub(r"(^|\s)#[^\n]*", "", text))
    parts = [part.strip() for line in text.splitlines() for part in re.split(r";\s+|;$|\bdo\b", line)]
    return [part for part in parts if part and part != "done" and not part.startswith("for ")]


SHELL = [(b, line) for b in EVERY if b.language in ("sh", "bash") and b.why is None for line in lines(b)]


@pytest.mark.parametrize(
    ("block", "line"), SHELL, ids=[f"{name(b.page)}-{b.line}-{i}" for i, (b, _) in enumerate(SHELL)]
)
def test_a_command_line_is_one_that_the_program_takes(block, line):
    words = shlex.split(re.sub(r"[\[\]](?![a-z0-9,-]*')", "", line))
    while re.match(r"\w+=", words[0]):  # VARIABLE=value before a command, or alone
        words = words[1:]
        if not words:
            return
    check(words)


def check(words: list[str]) -> None:
    if "-m" in words[:6] and "probecache" in words[:8]:  # torchrun -m probecache, python -m probecache
        check_ours(words[words.index("probecache") + 1 :])
    elif words[0] == "probecache":
        check_ours(words[1:])
    elif words[:2] == ["python", "-m"]:
        found = importlib.util.find_spec(words[2])
        assert found is not None
        assert found.origin is not None
        known = Path(found.origin).read_text()
        for module in re.findall(
            r"^from (benchmarks\.\S+) import", known, re.MULTILINE
        ):  # whose flags it may add
            known += Path(importlib.util.find_spec(module).origin).read_text()
        for flag in (word for word in words[3:] if word.startswith("--")):
            assert f'"{flag}"' in known, f"{words[2]} has no {flag}"
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        for target in words[1:]:
            assert re.search(rf"^{target}:|\$\({target.partition('=')[0]}\)", makefile, re.M), target
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for extra in re.findall(r"probecache\[(.*?)\]", " ".join(words)):
            assert set(extra.split(",")) <= set(extras)
    elif words[0] == "dask":
        from distributed.cli import dask_scheduler, dask_worker

        command = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}[words[1]]
        command.make_context(words[1], words[2:])
    else:
        raise AssertionError(f"{words[0]}: no rule tells whether this is right; `not run: ...` says why not")


def check_ours(words: list[str]) -> None:
    """Parsed by the program's own parser; where the page leaves words out, what is there is."""
    import typer

    short = "..." in words
    words = [word for word in words if word != "..."]
    words = with_values(as_timm(words) if words[0] in COMMANDS else words)
    group = typer.main.get_command(_app())
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    command.make_context(words[0], words[1:], resilient_parsing=short)


def test_a_wrong_line_is_seen():
    for wrong in ("sweep S --layer a --fractions 1 --sedes 5", "sweeps S", "sweep S --fractions"):
        with pytest.raises(Exception, match=r"sedes|sweeps|requires an argument"):
            check_ours(shlex.split(wrong))
    with pytest.raises(AssertionError, match="no rule"):
        check(["rm", "-rf", "x"])


# The ten jobs of a probing study.
JOBS = {"own_labels", "own_metric", "few_rows", "controls", "compare", "saved_predictions", "deploy_probe"}
JOBS |= {"import", "several_models", "several_targets"}


def test_each_job_has_a_page_and_each_page_says_what_is_slow_or_refused():
    cookbook = {page.stem: page.read_text() for page in PAGES if page.parent.name == "cookbook"}
    assert set(cookbook) >= JOBS | {"notebook", "gpu", "cluster", "pandas", "text", "transformers", "figures"}
    assert [name for name, text in cookbook.items() if "**Slower or refused:** " not in text] == []
    for page in ("extract", "store", "probes", "metrics", "sweeps", "findings"):
        assert "\n## Slower, refused" in (ROOT / "docs" / f"{page}.md").read_text(), page


@pytest.mark.parametrize(
    "page", ["few_rows", "controls", "saved_predictions", "several_targets", "several_models"]
)
def test_a_job_takes_at_most_15_lines(page):
    (code,) = [b.code for b in blocks(ROOT / "docs" / "cookbook" / f"{page}.md") if b.language == "python"]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("block", [b for b in EVERY if b.language == "toml"], ids=lambda b: name(b.page))
def test_a_configuration_is_a_plan(block):
    plan = SweepPlan.from_mapping(tomllib.loads(block.code))
    assert f"# {plan.n_probes} probes" in block.code
