"""The subcommands of `analyze`; those that read a store stand here.

Heavy imports are inside the functions: `--help` loads no torch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from probecache.analyze.arguments import (
    known_names,
    list_of,
    memory_bytes,
    names_of,
    one_or_list,
    seeds_of,
    splits_named,
    weights_of,
)
from probecache.analyze.probe_commands import fit, online_code, predict
from probecache.analyze.result_commands import compare, redundancy, report
from probecache.store.choose import choose, choose_layers, split_names

# Named here, since the module that has them loads torch.
PICKED = "How neurons are picked: random, first, variance, variance-least, greedy, greedy-worst"


def sweep(
    store: str = typer.Argument(metavar="STORE", help="Store to read: a folder or URL."),
    out: Path = typer.Option(
        None, "--out", help="RESULTS: the folder to write. If it exists, the sweep continues."
    ),
    layer: list[str] = typer.Option(
        None, "--layer", "--layers", help="Layers: a,b or repeated; globs such as 'blocks.*'."
    ),
    target: list[str] = typer.Option(
        None, "--target", help="What to predict: a,b or repeated; globs  [label]"
    ),
    train: str = typer.Option(None, "--train", help="Split to fit on, or a union a+b  [train]"),
    test: str = typer.Option(None, "--test", help="Split to score on  [test]"),
    val: str = typer.Option(None, "--val", help="Split by whose scores --l2 auto chooses."),
    refit: str = typer.Option(
        None, "--refit", help="With --val, what the final fit uses: train or train+val  [train]"
    ),
    fractions: str = typer.Option(
        None, "--fractions", help="Shares of the neurons to keep, in (0, 1]: 0.1,0.5,1."
    ),
    shots: str = typer.Option(
        None, "--shots", help="Training rows per class, or a share of them: 1,4,0.1,all  [all]"
    ),
    seeds: str = typer.Option(None, "--seeds", help="How many seeds, or which: 5, or 0,3,7  [5]"),
    selection: list[str] = typer.Option(
        None, "--selection", help=f"{PICKED}, pca, pca-least, randproj or index:FILE  [random]"
    ),
    probe: str = typer.Option(None, "--probe", help="Kind of probe: logistic, ridge, knn or sgd  [logistic]"),
    metric: list[str] = typer.Option(
        None, "--metric", help="Metrics to add to accuracy, such as auroc,macro_f1: a,b or repeated."
    ),
    save_predictions: str = typer.Option(
        None,
        "--save-predictions",
        help="Keep the class predicted for each test sample; =scores keeps its scores too.",
    ),
    groups: str = typer.Option(
        None, "--groups", help="Target that groups test samples, such as patients; kept with the predictions."
    ),
    control: str = typer.Option(
        None, "--control", help="Control labels instead of the real ones: shuffled or random."
    ),
    tol: float = typer.Option(
        None, "--tol", help="Relative gap of the objective at which a logistic probe stops  [5e-6]"
    ),
    l2: str = typer.Option(None, "--l2", help="Penalties: 1e-4,1e-2, or auto  [1e-4]"),
    l2_path: str = typer.Option(
        None, "--l2-path", help="Penalties that --l2 auto chooses from  [1e-6 to 10]"
    ),
    class_weight: str = typer.Option(
        None, "--class-weight", help="Weights of the classes: balanced, or cat=2,dog=0.5."
    ),
    solver: str = typer.Option(
        None, "--solver", help="What fits the probes: auto, torch, sklearn or cuml  [auto]"
    ),
    standardize: bool = typer.Option(
        None,
        "--standardize/--no-standardize",
        help="Scale neurons by the training rows' standard deviation  [yes]",
    ),
    preset: str = typer.Option(
        None, "--preset", help="A published protocol: dinov3, clip or one-percent; flags override it."
    ),
    config: Path = typer.Option(
        None, "--config", help="TOML or YAML file of these settings; flags override it."
    ),
    device: str = typer.Option("auto", "--device", help="Where to compute: auto, cpu, cuda or cuda:N."),
    workers: int = typer.Option(None, "--workers", help="Worker processes on this machine."),
    scheduler: str = typer.Option(None, "--scheduler", help="Address of a running Dask scheduler."),
    gpus: str = typer.Option(None, "--gpus", help="GPUs, one process each (dask-cuda): all, or 0,1."),
    memory_limit: str = typer.Option(
        None, "--memory-limit", help="Memory for all processes of this machine, such as 4GiB."
    ),
    performance_report: Path = typer.Option(
        None, "--performance-report", help="File for Dask's performance report (HTML)."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print what the sweep would cost, and stop."),
    max_hours: float = typer.Option(
        None, "--max-hours", help="Stop after so many hours; the same command continues."
    ),
) -> int:
    """Fit probes over layers, fractions, seeds and penalties.

    One for every combination of target, layer, selection, shots, fraction, seed and l2. The same command
    continues a killed run.
    """
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
        "seeds": None if seeds is None else seeds_of(seeds),
        "selection": names_of(selection),
        "probe": probe,
        "l2": list_of(l2),
        "l2_path": list_of(l2_path),
        "class_weight": weights_of(class_weight),
        "solver": solver,
        "standardize": standardize,
    }
    given = {name: value for name, value in given.items() if value is not None}
    plan = launch.read_plan(store, given, config, preset)
    limit = memory_bytes(memory_limit, "--memory-limit")
    how = launch.Launch(out, device, workers, scheduler, gpus, limit, performance_report, max_hours)
    return launch.dry_run(plan, store, how) if dry_run else launch.run_sweep(plan, store, how)


def cka(
    store: str = typer.Argument(metavar="STORE", help="Store to read: a folder or URL."),
    layer: list[str] = typer.Option(
        ..., "--layer", "--layers", help="Layers: a,b or repeated; globs such as 'blocks.*'."
    ),
    split: str = typer.Option("test", "--split", help="Split whose rows are compared."),
    fractions: str = typer.Option(
        "0.01,0.02,0.05,0.1,0.2,0.5,1",
        "--fractions",
        help="Shares of the neurons to keep, in (0, 1]: 0.1,0.5,1.",
    ),
    seeds: str = typer.Option("5", "--seeds", help="How many seeds, or which: 5, or 0,3,7."),
    out: Path = typer.Option(
        None, "--out", help="Folder to write, for `report`; several layers get a folder each inside it."
    ),
) -> None:
    """Linear CKA of random subsets with the full layer.

    And of two random subsets of one size.
    """
    from probecache.store.reader import open_store

    opened = open_store(store)
    layers = choose_layers(opened, layer, [split])
    from probecache.analyze.findings.cli_output import tell_cka
    from probecache.analyze.results.saved import require_room_for, save_dataset
    from probecache.analyze.similarity.cka import cka as compute

    chosen = seeds_of(seeds)
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


def critical(
    store: str = typer.Argument(metavar="STORE", help="Store to read: a folder or URL."),
    layer: list[str] = typer.Option(
        ..., "--layer", "--layers", help="Layers: a,b or repeated; globs such as 'blocks.*'."
    ),
    train: str = typer.Option("train", "--train", help="Split to fit on."),
    test: str = typer.Option("test", "--test", help="Split to score on."),
    delta: str = typer.Option("0.9", "--delta", help="Shares of the full layer's score to keep: 0.9,0.95."),
    precision: float = typer.Option(
        0.01, "--precision", help="Step between the sizes searched, as a share of the layer."
    ),
    seeds: str = typer.Option("5", "--seeds", help="How many seeds, or which: 5, or 0,3,7."),
    probe: str = typer.Option("logistic", "--probe", help="Kind of probe: logistic, ridge, knn or sgd."),
    l2: str = typer.Option("1e-4", "--l2", help="Penalties: 1e-4,1e-2, or auto."),
    selection: list[str] = typer.Option(None, "--selection", help=f"{PICKED} or index:FILE  [random]"),
    target: list[str] = typer.Option(
        None, "--target", help="What to predict: a,b or repeated; globs  [label]"
    ),
    shots: str = typer.Option(
        None, "--shots", help="Training rows per class, or a share of them: 1,4,0.1,all  [all]"
    ),
    score: str = typer.Option(
        None, "--score", help="Metric to judge by, or cka or cka_debiased  [accuracy; r2 for numbers]"
    ),
    out: Path = typer.Option(
        None, "--out", help="RESULTS: the folder to write. If it exists, the sweep continues."
    ),
    device: str = typer.Option("auto", "--device", help="Where to compute: auto, cpu, cuda or cuda:N."),
    workers: int = typer.Option(None, "--workers", help="Worker processes on this machine."),
    scheduler: str = typer.Option(None, "--scheduler", help="Address of a running Dask scheduler."),
) -> None:
    """Search for the critical mass, fitting few probes.

    The smallest number of neurons that keeps a share of the score, to a precision that you choose. The same
    command continues a killed search.
    """
    from probecache.store.reader import open_store

    opened = open_store(store)
    splits = splits_named(test) if "cka" in (score or "") else splits_named(train, test)
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
            seeds=seeds_of(seeds),
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
