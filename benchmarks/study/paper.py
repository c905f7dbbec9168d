"""The study of the paper's findings on stored features: sweeps, CKA, the critical mass to 1%, few rows, what
each neuron does, geometry, a report, and what agrees with the paper.

    python -m benchmarks.study.paper FEATURES --out STUDY --device cuda

FEATURES: a folder of stores, one for each backbone, with the splits cifar10-train, cifar10-test,
flowers102-train, ... (benchmarks/study/features.py and text.py make them); `random` in a store's name
marks the control with random weights, and `-128px` at its end an image size other than the backbone's own.
`--store BACKBONE/TASK=STORE` adds one from elsewhere. STUDY: results/*.zarr (RESULTS), critical/*.zarr and
shots/*.zarr (RESULTS of adaptive searches), cka/*.zarr, attribution/*.zarr, geometry/*.zarr,
report/index.html, summary.json, and study.tar.gz with all but the page.

20 fractions from 0.005 to 1 with the successors' cuts at 0.5%, 25% and 50%, five seeds, logistic probes, l2
1e-4 (`--probe ridge`: l2 0.1, a twentieth of the time); the late layer's critical mass to 1% of it; of one
backbone the critical mass with 2, 4, 8 rows of each class, to 2%; leave-one-out of the late layer's neurons
for a ridge probe; every layer's geometry. The same command continues after any stop and computes only what is
missing, the most telling first; `--minutes M` starts nothing new after M minutes, `--tasks` works on some
tasks only; the report is of all that is there. `--quick`: 6 fractions, the cuts and 2 seeds, for a trial.
"""

import argparse
import json
import re
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from dask.utils import parse_bytes

import probecache as pc
from benchmarks.record import record
from benchmarks.study.outline import CUTS, extras, few_rows, outline, related
from benchmarks.study.stores import TASKS, Study, find_studies, ordered_layers
from benchmarks.study.tell import tell
from probecache.analyze.report.write import write_report
from probecache.analyze.results.saved import save_dataset
from probecache.analyze.similarity.cka import cka

GREEDY = ("greedy", "greedy-worst")
DELTAS = (0.9, 0.95)
SHOTS = {"pets37": (2, 4, 8, "all"), "flowers102": (2, 4, "all"), "sentiment": (4, 16, 64, 256)}
SHOTS_OF = ("lite0", "minilm")
L2 = {"logistic": 1e-4, "ridge": 0.1}  # ridge: as many neurons as images, less would fit the noise


def plans(layers: list[str], seeds: int) -> Iterator[dict[str, object]]:
    """Layers, selections and seeds of the sweeps of one store, the most telling first.

    A random projection costs a fit per seed, so one of them comes early and the others last.
    """
    late = layers[-1]
    yield {"layer": late, "selection": ["random", "pca", "pca-least"], "seeds": seeds}
    if len(layers) > 1:
        yield {"layer": layers[:-1], "selection": "random", "seeds": min(2, seeds)}
    yield {"layer": late, "selection": ["variance", *GREEDY], "seeds": seeds}
    yield {"layer": late, "selection": "randproj", "seeds": 1}
    if len(layers) > 1 and seeds > 2:
        yield {"layer": layers[:-1], "selection": "random", "seeds": seeds}
    yield {"layer": late, "selection": "randproj", "seeds": seeds}


def steps(
    study: Study, store: pc.Store, arguments: argparse.Namespace
) -> list[tuple[str, Callable[[], object]]]:
    """Everything that is computed of one store, in its order: what it is called, and the work."""
    seeds, layers, out = 2 if arguments.quick else 5, ordered_layers(store), Path(arguments.out)
    late, where = layers[-1], {"device": arguments.device, "memory_limit": arguments.memory_limit}
    fit = {"probe": arguments.probe, "l2": L2[arguments.probe]}
    sweeps = [
        (
            f"{plan['selection']} of {plan['layer']}, {plan['seeds']} seeds",
            partial(
                pc.sweep,
                store,
                **study.splits,
                **plan,
                fractions=fractions(arguments.quick),
                out=out / "results" / study.file,
                **fit,
                **where,
            ),
        )
        for plan in plans(layers, seeds)
    ]
    search = partial(pc.critical_mass, store, layer=late, seeds=seeds, **study.splits, **where, **fit)
    coarse = 0.05 if arguments.quick else 0.01
    mass = partial(search, delta=DELTAS, precision=coarse, out=out / "critical" / study.file)
    own: list[tuple[str, Callable[[], object]]] = [
        ("critical mass", mass),
        ("CKA", partial(kept, out / "cka" / study.file, similarity, study, store, seeds, arguments.quick)),
        ("neurons", partial(kept, out / "attribution" / study.file, neurons, study, store)),
        (
            "geometry",
            partial(kept, out / "geometry" / study.file, pc.geometry, store, layers, study.splits["train"]),
        ),
    ]
    if study.backbone in SHOTS_OF and study.task in SHOTS and not arguments.quick:
        wide = partial(
            search, delta=0.9, precision=0.02, shots=SHOTS[study.task], out=out / "shots" / study.file
        )
        own.append(("few rows", partial(kept, out / "few" / study.file, wide)))
    return [sweeps[0], *own, *sweeps[1:]]


def fractions(quick: bool) -> list[float]:
    """20 shares of the layer, a fifth exactly among them, and the successors' cuts."""
    grid = np.geomspace(0.005, 1, 6 if quick else 20).round(5)
    grid[np.abs(grid - 0.2).argmin()] = 0.2  # the paper's headline is exactly a fifth
    return sorted({*grid.tolist(), *CUTS})


def kept(target: Path, work: Callable[..., xr.Dataset], *given: object) -> None:
    """The Dataset of `work` in `target`, unless it is there."""
    if not target.exists():
        save_dataset(work(*given), target)


def similarity(study: Study, store: pc.Store, seeds: int, quick: bool) -> xr.Dataset:
    late, split = ordered_layers(store)[-1], study.splits["test"]
    return cka(store, layer=late, split=split, fractions=fractions(quick), seeds=seeds)


def neurons(study: Study, store: pc.Store) -> xr.Dataset:
    return pc.attribution(store, layer=ordered_layers(store)[-1], l2=L2["ridge"], **study.splits)


def run(arguments: argparse.Namespace) -> None:
    begun = time.perf_counter()
    out = Path(arguments.out)
    everything = find_studies(Path(arguments.features), arguments.store)
    todo = [
        (study, steps(study, pc.open_store(study.path), arguments))
        for study in everything
        if study.task in arguments.tasks and study.name not in arguments.without
    ]
    for turn in range(max((len(work) for _, work in todo), default=0)):
        for study, work in todo:
            start = time.perf_counter()
            if turn < len(work) and start - begun < arguments.minutes * 60:
                work[turn][1]()
                now = time.perf_counter()
                print(
                    f"{now - begun:6.0f} s  {study.name:32} {work[turn][0]}  {now - start:.1f} s", flush=True
                )
    parts = ("results", "critical", "cka", "attribution", "geometry")
    whole = [s for s in everything if all((out / part / s.file).exists() for part in parts)]
    if whole:
        summarise(whole, out, arguments)
    took = time.perf_counter() - begun
    print(f"{took:6.0f} s in all; {len(whole)} of {len(everything)} stores have every part")


def summarise(studies: list[Study], out: Path, arguments: argparse.Namespace) -> None:
    """Report, summary.json, the archive, and the verdicts on stdout; from what is on disk."""
    found: dict[str, dict[str, xr.Dataset]] = {
        part: {s.name: xr.open_zarr(out / part / s.file, consolidated=False).load() for s in studies}
        for part in ("results", "cka", "attribution", "geometry")
    }
    for s in studies:  # a sweep that grew lists layers in the order in which they came
        named = ordered_layers(pc.open_store(s.path))
        there = set(found["results"][s.name]["layer"].values)
        found["results"][s.name] = found["results"][s.name].sel(layer=[n for n in named if n in there])
    summary: dict[str, dict] = {}
    for s in studies:
        # every probe of the search is there: this reads its answer off the RESULTS
        again = next(
            work for name, work in steps(s, pc.open_store(s.path), arguments) if name == "critical mass"
        )
        mass, results = again(), found["results"][s.name]
        few = out / "few" / s.file
        summary[s.name] = (
            outline(s, results, found["cka"][s.name])
            | extras(mass, found["attribution"][s.name], found["geometry"][s.name], results)
            | ({"shots": few_rows(xr.open_zarr(few, consolidated=False))} if few.exists() else {})
        )
    shapes = {s.name: (found["geometry"][s.name], found["results"][s.name]) for s in studies}
    summary |= {"geometry and DR": related(shapes)}
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    if not arguments.quick:
        print(f"record: {record(f'study-{arguments.probe}', summary, folder=arguments.record)}")
    tell(studies, summary)
    if not arguments.report:
        return
    line = (
        f"python -m benchmarks.study.paper {Path(arguments.features).name} --out STUDY"
        f" --device {arguments.device}"
    )
    write_report(
        found["results"],
        out / "report",
        similarities=found["cka"],
        attributions=found["attribution"],
        tasks={s.name: s.task for s in studies},
        title="Diffused redundancy in EfficientNet-Lite features",
        commands=[line, "probecache report STUDY/results/*.zarr STUDY/cka/*.zarr --out REPORT"],
    )
    with tarfile.open(out / "study.tar.gz", "w:gz") as archive:
        for part in (*found, "critical", "few", "summary.json", "report/tables", "report/figures"):
            if (out / part).exists():
                archive.add(out / part, arcname=part)


def main() -> None:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__)[0])
    parser.add_argument("features", help="folder of stores")
    parser.add_argument("--out", required=True)
    parser.add_argument(
        "--store", action="append", default=[], help="BACKBONE/TASK=STORE, one from elsewhere"
    )
    parser.add_argument("--probe", default="logistic", choices=tuple(L2))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memory-limit", type=parse_bytes, help="of this process, such as 4GiB")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="such as 'lite0 / cifar10'")
    parser.add_argument("--minutes", type=float, default=60, help="start nothing new after this time")
    parser.add_argument("--no-report", dest="report", action="store_false", help="numbers only")
    parser.add_argument("--record", type=Path, help="folder of the record (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="6 fractions, 2 seeds")
    run(parser.parse_args())


if __name__ == "__main__":
    warnings.filterwarnings("error", category=xr.SerializationWarning)
    main()
