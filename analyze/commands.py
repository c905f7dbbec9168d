"""The subcommands of `analyze`. Heavy imports are inside the functions: `--help` loads no torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from probecache.analyze.arguments import (
    known_names,
    list_of,
    memory_bytes,
    names_of,
    number_of,
    one_or_list,
    splits_named,
    weights_of,
)
from probecache.analyze.probe_commands import fit, online_code, predict
from probecache.store.choose import choose, choose_layers, split_names


def sweep(
    store: str = typer.Argument(help="Store to read."),
    out: Path = typer.Option(None, "--out", help="RESULTS folder; an existing one is continued."),
    layer: list[str] = typer.Option(
        None, "--layer", "--layers", help="Layers: a,b, repeated, or globs such as 'blocks.*'."
    ),
    target: list[str] = typer.Option(
        None, "--target", help="What to predict: a,b, repeated, or globs  [label]"
    ),
    train: str = typer.Option(None, "--train", help="Split to fit on, or a union a+b  [train]"),
    test: str = typer.Option(None, "--test", help="Split to score on  [test]"),
    val: str = typer.Option(None, "--val", help="Split that chooses l2 auto."),
    refit: str = typer.Option(None, "--refit", help="Where --val chose: train, or train+val  [train]"),
    fractions: str = typer.Option(None, "--fractions", help="Comma list in (0, 1]."),
    shots: str = typer.Option(
        None, "--shots", help="Training rows per class: 1,4,0.1,all (a share of them below 1)  [all]"
    ),
    seeds: str = typer.Option(None, "--seeds", help="A count, or a comma list of seeds  [5]"),
    selection: list[str] = typer.Option(
        None, "--selection", help="How columns are picked; repeatable  [random]"
    ),
    probe: str = typer.Option(None, "--probe", help="logistic, ridge, knn or sgd  [logistic]"),
    metric: list[str] = typer.Option(
        None, "--metric", help="Beside accuracy: a,b or repeated; docs/metrics.md lists them."
    ),
    save_predictions: str = typer.Option(
        None, "--save-predictions", help="Keep each test sample's class; =scores keeps its scores too."
    ),
    groups: str = typer.Option(
        None, "--groups", help="Target that says which test samples belong together, kept with predictions."
    ),
    control: str = typer.Option(None, "--control", help="Labels that say nothing: shuffled or random."),
    tol: float = typer.Option(None, "--tol", help="Relative gap at which a logistic probe has converged."),
    l2: str = typer.Option(None, "--l2", help="Comma list of penalties, or auto  [1e-4]"),
    l2_path: str = typer.Option(None, "--l2-path", help="What --l2 auto chooses from  [1e-6 to 10]"),
    class_weight: str = typer.Option(None, "--class-weight", help="balanced, or cat=2,dog=0.5."),
    solver: str = typer.Option(None, "--solver", help="auto, torch, sklearn or cuml  [auto]"),
    standardize: bool = typer.Option(
        None, "--standardize/--no-standardize", help="By train's moments  [yes]"
    ),
    preset: str = typer.Option(None, "--preset", help="A protocol: dinov3, clip or one-percent; flags win."),
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
    max_hours: float = typer.Option(None, "--max-hours", help="Stop in time, whole blocks committed."),
) -> int:
    """Probe every layer x selection x fraction x seed x l2. A killed sweep goes on by the same command."""
    layers, targets = known_names(
        store, config, splits_named(train or "train", test or "test", val), layer, target
    )
    from probecache.analyze.sweeps import launch

    given: dict[str, Any] = {
        "layer": layers or None,
        "target": targets or None,
        "shots": None if shots is None else shots.split(","),
        "val": val,
        "refit": refit,
        "metric": names_of(metric),
        "save_predictions": save_predictions,
        "groups": groups,
        "control": control,
        "tol": tol,
        "train": train,
        "test": test,
        "fractions": list_of(fractions),
        "seeds": list_of(seeds),
        "selection": names_of(selection),
        "probe": probe,
        "l2": list_of(l2),
        "l2_path": list_of(l2_path),
        "class_weight": weights_of(class_weight),
        "solver": solver,
        "standardize": standardize,
    }
    if seeds is not None and "," not in seeds:
        given["seeds"] = number_of(seeds)
    given = {name: value for name, value in given.items() if value is not None}
    plan = launch.read_plan(store, given, config, preset)
    limit = memory_bytes(memory_limit, "--memory-limit")
    how = launch.Launch(out, device, workers, scheduler, gpus, limit, performance_report, max_hours)
    return launch.dry_run(plan, store, how) if dry_run else launch.run_sweep(plan, store, how)


def cka(
    store: str = typer.Argument(help="Store to read."),
    layer: list[str] = typer.Option(
        ..., "--layer", "--layers", help="Layers: a,b, repeated, or globs such as 'blocks.*'."
    ),
    split: str = typer.Option("test", "--split", help="Split."),
    fractions: str = typer.Option(
        "0.01,0.02,0.05,0.1,0.2,0.5,1", "--fractions", help="Comma list in (0, 1]."
    ),
    seeds: str = typer.Option("5", "--seeds", help="A count, or a comma list of seeds."),
    out: Path = typer.Option(
        None, "--out", help="Folder to write, for `report`; with several layers, one in it for each."
    ),
) -> None:
    """Linear CKA of random column subsets with the full layer, and of two subsets of one size."""
    from probecache.store.reader import open_store

    opened = open_store(store)
    layers = choose_layers(opened, layer, [split])
    from probecache.analyze.findings.cli_output import tell_cka
    from probecache.analyze.results.saved import require_room_for, save_dataset
    from probecache.analyze.similarity.cka import cka as compute

    chosen: Any = list_of(seeds) if "," in seeds else number_of(seeds)
    places = {name: out if out is None or len(layers) == 1 else out / name for name in layers}
    for place in places.values():  # all of them are computed and written, or none
        require_room_for(place)
    found = {
        name: compute(opened, layer=name, split=split, fractions=list_of(fractions) or [], seeds=chosen)
        for name in layers
    }
    for name, place in places.items():
        if place is not None:
            save_dataset(found[name], place)
        tell_cka(found[name], place)


def redundancy(
    results: str = typer.Argument(help="RESULTS folder, or one that `cka --out` wrote."),
    delta: str = typer.Option("0.9", "--delta", help="Comma list of shares of the full score to keep."),
    keep: float = typer.Option(None, "--keep", help="Also find the smallest subset that keeps this share."),
    layer: list[str] = typer.Option(
        None, "--layer", "--layers", help="Only these: a,b, repeated, or globs; one for --keep."
    ),
    target: list[str] = typer.Option(None, "--target", help="Only these, likewise."),
    score: str = typer.Option(
        None, "--score", help="A metric of the sweep  [accuracy; r2 of numbers; else cka]"
    ),
    indices: Path = typer.Option(None, "--indices", help="Write that subset's neurons, one a line."),
    time: str = typer.Option(None, "--time", help="The store that was swept: time that subset's probe."),
) -> None:
    """Critical mass and DR of every layer, selection and l2, with intervals over seeds."""
    from probecache.analyze.findings.cli_output import find_subset, tell_redundancy, tell_subset

    subset = None
    if keep is not None or indices is not None or time is not None:  # what is wrong is told before the rest
        subset = find_subset(results, 0.95 if keep is None else keep, layer, target)
    tell_redundancy(results, list_of(delta) or [], layer, score, target)
    if subset is not None:
        tell_subset(*subset, indices, time)


def critical(
    store: str = typer.Argument(help="Store to read."),
    layer: list[str] = typer.Option(
        ..., "--layer", "--layers", help="Layers: a,b, repeated, or globs such as 'blocks.*'."
    ),
    train: str = typer.Option("train", "--train", help="Split to fit on."),
    test: str = typer.Option("test", "--test", help="Split to score on."),
    delta: str = typer.Option("0.9", "--delta", help="Comma list of shares of the full score to keep."),
    precision: float = typer.Option(0.01, "--precision", help="Step between sizes, as a share of the layer."),
    seeds: str = typer.Option("5", "--seeds", help="A count, or a comma list of seeds."),
    probe: str = typer.Option("logistic", "--probe", help="logistic, ridge, knn or sgd."),
    l2: str = typer.Option("1e-4", "--l2", help="Comma list of penalties, or auto."),
    selection: list[str] = typer.Option(None, "--selection", help="How columns are picked  [random]"),
    target: list[str] = typer.Option(None, "--target", help="What is predicted  [label]"),
    shots: str = typer.Option(None, "--shots", help="Comma list of training rows per class, or all."),
    score: str = typer.Option(
        None, "--score", help="A metric, cka or cka_debiased  [accuracy; r2 of numbers]"
    ),
    out: Path = typer.Option(None, "--out", help="RESULTS folder; an existing one is continued."),
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda, cuda:N."),
    workers: int = typer.Option(None, "--workers", help="Worker processes on this machine."),
    scheduler: str = typer.Option(None, "--scheduler", help="Address of a running Dask scheduler."),
) -> None:
    """Critical mass to a precision, by probes that close in on it. A killed search goes on by its command."""
    from probecache.store.reader import open_store

    opened, splits = (
        open_store(store),
        splits_named(test) if "cka" in (score or "") else splits_named(train, test),
    )
    layers = choose_layers(opened, layer, splits)
    targets = choose(opened, "target", split_names(target), splits)
    from probecache.analyze.findings.critical.critical_mass import SIMILARITIES, critical_mass
    from probecache.analyze.findings.critical.tell import tell_critical
    from probecache.analyze.sweeps.cluster.start import connect
    from probecache.store.progress import progress_bar

    more: dict[str, Any] = {"selection": split_names(selection), "target": targets, "shots": list_of(shots)}
    more = {name: one_or_list(value) for name, value in more.items() if value}
    with connect(workers, scheduler, None, None) as client, progress_bar() as progress:
        found = critical_mass(
            opened,
            layer=one_or_list(layers),
            train=train,
            test=test,
            delta=list_of(delta) or [],
            precision=precision,
            seeds=(list_of(seeds) or []) if "," in seeds else number_of(seeds),
            probe=probe,
            l2=one_or_list(list_of(l2) or []),
            score=score,
            out=out,
            device=device,
            client=client,
            progress=progress,
            **more,
        )
    print(tell_critical(found))
    if out is not None and score not in SIMILARITIES:
        print(f"results: {out}")


def compare(
    a: str = typer.Argument(help="RESULTS of a sweep with --save-predictions."),
    b: str = typer.Argument(help="RESULTS to compare them with; may be the same."),
    target: str = typer.Option(None, "--target", help="One for both, or A,B."),
    layer: str = typer.Option(
        None, "--layer", "--layers", help="One or a glob for both, or A,B: two layers are compared."
    ),
    selection: str = typer.Option(None, "--selection", help="One for both, or A,B."),
    shots: str = typer.Option(None, "--shots", help="One for both, or A,B."),
    fraction: str = typer.Option(None, "--fraction", help="One for both, or A,B."),
    l2: str = typer.Option(None, "--l2", help="One for both, or A,B."),
    pairs: str = typer.Option(None, "--pairs", help="A dimension: each value of A with each later one of B."),
    groups: Path = typer.Option(
        None, "--groups", help="CSV: sample, group. Resampled as wholes  [those of the sweep]"
    ),
    bootstrap: int = typer.Option(5000, "--bootstrap", help="Resamples."),
    out: Path = typer.Option(None, "--out", help="Folder to write, or FILE.csv."),
) -> None:
    """Paired tests of two sweeps' probes on the same test samples: A's accuracy less B's."""
    from probecache.analyze.comparison.cli_output import compare_results

    chosen = {"layer": layer, "selection": selection, "shots": shots, "fraction": fraction, "l2": l2}
    chosen |= {"target": target}
    compare_results(a, b, chosen, pairs=pairs, groups=groups, bootstrap=bootstrap, out=out)


def report(
    results: list[str] = typer.Argument(help="RESULTS folders, and CKA folders beside them."),
    out: Path = typer.Option(..., "--out", help="Folder for index.html, figures and tables."),
    delta: float = typer.Option(0.9, "--delta", help="Share of the full accuracy that DR keeps."),
    title: str = typer.Option(None, "--title", help="Title of the page."),
    name: list[str] = typer.Option(None, "--name", help="What to call each RESULTS, in their order."),
    task: list[str] = typer.Option(None, "--task", help="Task of each RESULTS; those of one are compared."),
) -> None:
    """One HTML page that opens offline, the same figures for print, the tables as CSV."""
    from probecache.analyze.report.write import report_files

    page = report_files(
        results, out, names=name or (), tasks=task or (), delta=delta, title=title, progress=len(results) > 1
    )
    print(f"report: {page}")
    print(f"figures: {out / 'figures'}\ntables: {out / 'tables'}")


COMMANDS: dict[str, Callable[..., object]] = {
    "sweep": sweep,
    "fit": fit,
    "predict": predict,
    "online-code": online_code,
    "cka": cka,
    "redundancy": redundancy,
    "critical": critical,
    "compare": compare,
    "report": report,
}
