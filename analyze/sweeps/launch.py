"""`probecache sweep`: flags and file to a plan, a cluster around it, a bar, a summary, an exit code."""

import dataclasses
import sys
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from probecache.analyze.results.write import missing_in
from probecache.analyze.sweeps.cluster.start import check_choice, connect
from probecache.analyze.sweeps.cost import check_fits
from probecache.analyze.sweeps.plan import SweepPlan, read_config
from probecache.analyze.sweeps.presets import with_preset
from probecache.analyze.sweeps.resolved_plan import check_finite, machine_for, projection, size_up
from probecache.analyze.sweeps.sweep import Running, Told, execute
from probecache.analyze.tasks.shots import ALL
from probecache.analyze.threads import SHORTEST, Watch, describe
from probecache.store.errors import InputError, OutOfTime
from probecache.store.progress import progress_bar
from probecache.store.reader import open_store
from probecache.store.stop import end_after
from probecache.store.words import duration


@dataclass(frozen=True)
class Launch:
    """Where a sweep of the command line runs, into what, and for how long; texts as they were typed."""

    out: Path | None = None
    device: str = "auto"
    workers: int | None = None
    scheduler: str | None = None
    gpus: str | None = None
    memory_limit: int | None = None  # bytes, for all processes of this machine
    performance_report: Path | None = None
    max_hours: float | None = None


def read_plan(store: str, given: dict[str, Any], config: Path | None, preset: str | None) -> SweepPlan:
    """The plan of the flags `given`, which win over the file's lines, which win over the preset's."""
    where = "the command line" if config is None else str(config)
    given = (read_config(config) if config else {}) | given
    if preset is not None:
        given = with_preset(preset, given, open_store(store))
    return SweepPlan.from_mapping(given, where)


def run_sweep(plan: SweepPlan, store: str, launch: Launch) -> int:
    """Run the sweep of the command line; 0, or 1 where blocks failed. OutOfTime by --max-hours."""
    out = launch.out
    if out is None:
        raise InputError("got no --out; give the folder that RESULTS should be written to")
    end_after(launch.max_hours)
    sized = size_up(plan, store)
    plan = sized.plan
    for line in sized.left_out:
        print(f"probecache: {line}", file=sys.stderr)
    missing = missing_in(out, sized.grid, sized.settings)
    with ExitStack() as stack:
        client = stack.enter_context(_cluster(launch, bool(missing.any())))
        if client is not None:
            print(f"dashboard: {client.dashboard_link}", file=sys.stderr)
        if launch.performance_report is not None and missing.any():
            if client is None:
                raise InputError("got --performance-report without a cluster; add --workers or --scheduler")
            from distributed import performance_report as report

            stack.enter_context(client.as_current())
            stack.enter_context(report(filename=str(launch.performance_report)))
        progress = stack.enter_context(progress_bar())
        if client is None and launch.device in ("auto", "cpu") and missing.any():
            progress = _adjusting(progress)
        seconds = None if launch.max_hours is None else 3600 * launch.max_hours
        limit = launch.memory_limit if client is None else None  # it was shared out among the workers
        ran = execute(
            sized, Running(client, out, launch.device, limit, progress, seconds=seconds, tell=_tell)
        )
    if ran.failed:
        print(f"probecache: {ran.failures}", file=sys.stderr)
    print(summary(ran.results))
    took = duration(ran.results.attrs.get("seconds", 0))
    print(f"results: {out} ({plan.n_probes:,} probes, {took} in all)")
    if ran.left:
        raise OutOfTime(
            f"--max-hours {launch.max_hours:g} are over, {ran.left:,} of {plan.n_probes:,} probes are left; "
            "the same command continues"
        )
    return 1 if ran.failed else 0


def _cluster(launch: Launch, needed: bool) -> AbstractContextManager[Any]:
    """The client that was asked for, or None; no cluster is started for nothing."""
    if needed:
        return connect(launch.workers, launch.scheduler, launch.gpus, launch.memory_limit)
    check_choice(launch.workers, launch.scheduler, launch.gpus)
    return nullcontext()


def _tell(line: str) -> None:
    print(f"probecache: {line}", file=sys.stderr)


def _adjusting(progress: Told) -> Told:
    """`progress`, with as many threads after each block as the machine's others leave."""
    watch = Watch.start()
    time.sleep(SHORTEST)
    watch.adjust()

    def then(done: int, total: int) -> None:
        progress(done, total)
        watch.adjust()

    return then


def dry_run(plan: SweepPlan, store: str, launch: Launch) -> int:
    """Print what the sweep would cost; refuse what the sweep would refuse."""
    end_after(launch.max_hours)
    machine = machine_for(None, launch.device, launch.memory_limit)
    if launch.workers is not None and launch.workers > 1:
        n = launch.workers
        machine = dataclasses.replace(machine, workers=n, memory=machine.memory // n, flops=machine.flops / n)
    sized = size_up(plan, store)
    plan = sized.plan
    print(describe(), file=sys.stderr)
    check_finite(sized)  # a plan that would be refused has no cost
    missing = missing_in(launch.out, sized.grid, sized.settings)
    if not missing.any():
        print(f"nothing is left to compute: {launch.out} holds all {sized.plan.n_probes:,} probes")
        return 0
    projected = projection(sized, machine, missing)
    print(projected)
    check_fits(projected, machine)
    return 0


def summary(results: xr.Dataset) -> str:
    """Mean score over seeds against fraction: a line per target, layer, selection, shots and l2.

    The score is accuracy, or R^2 of targets that are numbers.
    """
    rows = [
        (score, cell)
        for score in ("accuracy", "r2")
        if score in results
        for cell in _cells(results[score].mean("seed"))
    ]
    rows = [(score, row) for score, row in rows if not np.isnan(row.values).all()]
    width = max(len(str(layer)) for layer in results["layer"].values)
    lines = [" " * width + "  " + "".join(f"{fraction:>8.3g}" for fraction in results["fraction"].values)]
    for score, row in rows:
        at = {dim: row[dim].item() for dim in ("target", "layer", "selection", "shots", "l2")}
        told = [
            str(at["selection"]),
            f"l2 {at['l2'] if isinstance(at['l2'], str) else format(at['l2'], 'g')}",
        ]
        told += [f"shots {at['shots']}"] if at["shots"] != ALL else []
        told += [f"target {at['target']}"] if at["target"] != "label" else []
        told += ["R2"] if score == "r2" else []
        cells = "".join(f" {value:7.4f}" for value in row.values)
        lines.append(f"{at['layer']!s:<{width}}  {cells}  {', '.join(told)}")
    score = {"r2": "R2"}.get(rows[0][0], "accuracy") if len({score for score, _ in rows}) == 1 else "score"
    return f"{score}, mean over seeds, by fraction:\n" + "\n".join(lines)


def _cells(mean: xr.DataArray) -> list[xr.DataArray]:
    """One line of fractions for every other coordinate."""
    dims = [str(dim) for dim in mean.dims if dim != "fraction"]
    return [mean[dict(zip(dims, at, strict=True))] for at in np.ndindex(*(mean.sizes[d] for d in dims))]
