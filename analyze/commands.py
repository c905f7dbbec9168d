"""The subcommands of `analyze`. Heavy imports are inside the functions: `--help` loads no torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer


def sweep(
    store: str = typer.Argument(help="Store to read."),
    out: Path = typer.Option(None, "--out", help="RESULTS folder; an existing one is continued."),
    layer: list[str] = typer.Option(None, "--layer", help="Layer; repeat for several."),
    train: str = typer.Option(None, "--train", help="Split to fit on  [train]"),
    test: str = typer.Option(None, "--test", help="Split to score on  [test]"),
    fractions: str = typer.Option(None, "--fractions", help="Comma list in (0, 1]."),
    seeds: str = typer.Option(None, "--seeds", help="A count, or a comma list of seeds  [5]"),
    method: list[str] = typer.Option(None, "--method", help="How columns are picked; repeatable  [random]"),
    probe: str = typer.Option(None, "--probe", help="logistic or ridge  [logistic]"),
    l2: str = typer.Option(None, "--l2", help="Comma list of penalties  [1e-4]"),
    solver: str = typer.Option(None, "--solver", help="auto, torch, sklearn or cuml  [auto]"),
    standardize: bool = typer.Option(
        None, "--standardize/--no-standardize", help="By train's moments  [yes]"
    ),
    config: Path = typer.Option(None, "--config", help="TOML or YAML file of these names; flags win."),
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda, cuda:N."),
    workers: int = typer.Option(None, "--workers", help="Worker processes on this machine."),
    scheduler: str = typer.Option(None, "--scheduler", help="Address of a running Dask scheduler."),
    gpus: str = typer.Option(None, "--gpus", help="'all' or device numbers: one process each (dask-cuda)."),
    memory_limit: str = typer.Option(
        None, "--memory-limit", help="For all of this machine's processes: 4GiB."
    ),
    performance_report: Path = typer.Option(None, "--performance-report", help="Dask's report, as HTML."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the cost and stop."),
) -> int:
    """Probe every layer x method x fraction x seed x l2. A killed sweep goes on by the same command."""
    from analyze.launch import run_sweep

    given: dict[str, Any] = {
        "layer": layer or None,
        "train": train,
        "test": test,
        "fractions": _list(fractions),
        "seeds": _list(seeds),
        "method": method or None,
        "probe": probe,
        "l2": _list(l2),
        "solver": solver,
        "standardize": standardize,
    }
    if seeds is not None and "," not in seeds:
        given["seeds"] = _number(seeds)
    return run_sweep(
        store,
        {name: value for name, value in given.items() if value is not None},
        out=out,
        config=config,
        device=device,
        workers=workers,
        scheduler=scheduler,
        gpus=gpus,
        memory_limit=memory_limit,
        performance_report=performance_report,
        dry_run=dry_run,
    )


def _list(text: str | None) -> list[Any] | None:
    return None if text is None else [_number(part.strip()) for part in text.split(",") if part.strip()]


def _number(text: str) -> Any:
    """A whole number, a number, or the text itself for the plan to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


COMMANDS: dict[str, Callable[..., object]] = {"sweep": sweep}
