"""Records as Markdown: the newest of a name, a table, a line on where its numbers come from."""

import json
from collections.abc import Sequence
from typing import Any

from benchmarks.record import RESULTS


def latest(name: str) -> dict[str, Any]:
    """The newest record of `name`."""
    dated = sorted(RESULTS.glob(f"{name}-[0-9][0-9][0-9][0-9]-*.json"))
    if not dated:
        raise FileNotFoundError(f"no record {name}-*.json in {RESULTS}: run the benchmark that writes it")
    return json.loads(dated[-1].read_text())


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def source(entry: dict[str, Any]) -> str:
    """Where numbers come from: command, date, machine."""
    machine = entry["machine"]
    where = (
        machine["gpu"] or f"{machine['cores']} core{'s' * (machine['cores'] > 1)} of {machine['processor']}"
    )
    return f"`{entry['command']}`, {entry['date']}, {where}."
