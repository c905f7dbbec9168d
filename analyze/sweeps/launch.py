"""`probecache sweep`: flags and file to a plan, a cluster around it, a bar, a summary, an exit code."""

import dataclasses
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from probecache.analyze.results.write import missing_in
from probecache.analyze.sweeps.cluster.start import check_choice, connect
from probecache.analyze.sweeps.cost import check_fits, duration
from probecache.analyze.sweeps.plan import SweepPlan, read_config
from probecache.analyze.sweeps.presets import with_preset
from probecache.analyze.sweeps.resolved_plan import check_finite, machine_for, projection, size_up
from probecache.analyze.sweeps.sweep import Running, Told, execute
from probecache.analyze.tasks.shots import ALL
from probecache.analyze.threads import SHORTEST, Watch, describe
from probecache.store.errors import InputError, OutOfTime
from probecache.store.progress import probe_bar
from probecache.store.reader import open_store
from probecache.store.stop import end_after


def run_sweep(
    store: str,
    given: dict[str, Any],
    *,
    out: Path | None,
    config: Path | None,
    device: str,
    workers: int | None,
    scheduler: str | None,
    gpus: str | None,
    memory_limit: str | None,
    performance_report: Path | None,
    dry_run: bool,
    max_hours: float | None = None,
    preset: str | None = None,
) -> int:
    """Run the sweep of the command line; 0, or 1 where blocks failed. OutOfTime by --max-hours."""
    where = "the command line" if config is None else f"{config} and the command line"
    given = (read_config(config) if config else {}) | given
    if preset is not None:
        given = with_preset(preset, given, open_store(store))
    plan = SweepPlan.from_mapping(given, where)
    if out is None and not dry_run:
        raise InputError("got no --out; give the folder that RESULTS should be written to")
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    end_after(max_hours)
    if dry_run:
        return _dry_run(plan, store, out, device, workers, limit)
    sized = size_up(plan, store)
    plan = sized.plan
    for line in sized.left_out:
        print(f"probecache: {line}", file=sys.stderr)
    missing = missing_in(out, sized.grid, sized.settings)
    with ExitStack() as stack:
        if missing.any():
            client = stack.enter_context(connect(workers, scheduler, gpus, limit))
        else:  # nothing to compute: no cluster is started for it
            check_choice(workers, scheduler, gpus)
            client = None
        if client is not None:
            print(f"dashboard: {client.dashboard_link}", file=sys.stderr)
            limit = None  # it was shared out among the workers
        if performance_report is not None and missing.any():
            if client is None:
                raise InputError("got --performance-report without a cluster; add --workers or --scheduler")
            from distributed import performance_report as report

            stack.enter_context(client.as_current())
            stack.enter_context(report(filename=str(performance_report)))
        progress = stack.enter_context(probe_bar())
        if client is None and device in ("auto", "cpu") and missing.any():
            progress = _adjusting(progress)
        seconds = None if max_hours is None else 3600 * max_hours
        how = Running(client, out, device, limit, progress, seconds=seconds, tell=_tell)
        ran = execute(sized, how)
    if ran.failed:
        print(f"probecache: {ran.failures}", file=sys.stderr)
    print(summary(ran.results))
    took = duration(ran.results.attrs.get("seconds", 0))
    print(f"results: {out} ({plan.n_probes:,} probes, {took} in all)")
    if ran.left:
        raise OutOfTime(
            f"--max-hours {max_hours:g} are over, {ran.left:,} of {plan.n_probes:,} probes are left; the "
            "same command continues"
        )
    return 1 if ran.failed else 0


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


def _dry_run(
    plan: SweepPlan, store: str, out: Path | None, device: str, workers: int | None, limit: int | None
) -> int:
    machine = machine_for(None, device, limit)
    if workers is not None and workers > 1:
        machine = dataclasses.replace(
            machine, workers=workers, memory=machine.memory // workers, flops=machine.flops / workers
        )
    sized = size_up(plan, store)
    plan = sized.plan
    print(describe(), file=sys.stderr)
    check_finite(sized)  # a plan that would be refused has no cost
    missing = missing_in(out, sized.grid, sized.settings)
    if not missing.any():
        print(f"nothing is left to compute: {out} holds all {sized.plan.n_probes:,} probes")
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
    width = max(len(str(layer)) for layer in results["layer"].values)
    lines = [" " * width + "  " + "".join(f"{fraction:>8.3g}" for fraction in results["fraction"].values)]
    for score, row in rows:
        if np.isnan(row.values).all():
            continue
        at = {dim: row[dim].item() for dim in ("target", "layer", "selection", "shots", "l2")}
        told = [
            str(at["selection"]),
            f"l2 {at['l2'] if isinstance(at['l2'], str) else format(at['l2'], 'g')}",
        ]
        told += [f"{at['shots']} shots"] if at["shots"] != ALL else []
        told += [f"target {at['target']}"] if at["target"] != "label" else []
        told += ["R2"] if score == "r2" else []
        cells = "".join(f"{value:8.4f}" for value in row.values)
        lines.append(f"{at['layer']!s:<{width}}  {cells}  {', '.join(told)}")
    return "accuracy, mean over seeds, by fraction:\n" + "\n".join(lines)


def _cells(mean: xr.DataArray) -> list[xr.DataArray]:
    """One line of fractions for every other coordinate."""
    dims = [str(dim) for dim in mean.dims if dim != "fraction"]
    return [mean[dict(zip(dims, at, strict=True))] for at in np.ndindex(*(mean.sizes[d] for d in dims))]


def parse_bytes(text: str) -> int:
    """Bytes from '4GiB', '500 MB' or '1e9'.

    >>> parse_bytes("4GiB") == 4 * 2**30
    True
    """
    from dask.utils import parse_bytes as parse

    try:
        count = int(parse(text))
    except (ValueError, TypeError):
        count = 0
    if count < 1:
        raise InputError(f"got --memory-limit {text!r}; allowed: bytes, or a number with a unit such as 4GiB")
    return count
