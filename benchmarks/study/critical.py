"""The adaptive critical mass beside a full grid of the same precision: the same f*, and probes counted.

    python -m benchmarks.study.critical FEATURES --out STUDY

For every store and task that `study.paper` finds: `critical_mass` at delta 0.9 and 0.95, steps of 1% of
the late layer, five seeds, its probes; then a sweep of all hundred sizes into RESULTS of its own, and
what `redundancy` reads off it. Prints a line per task, writes STUDY/critical.json and the record. The same
command continues after a stop. `--tasks` takes some of them.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from dask.utils import parse_bytes

import probecache as pc
from benchmarks.record import record
from benchmarks.study.paper import L2
from benchmarks.study.stores import TASKS, Study, find_studies, ordered_layers
from probecache.analyze.findings.critical.critical_mass import grid_sizes

DELTAS = (0.9, 0.95)
PRECISION = 0.01


def compare(study: Study, out: Path, **how: Any) -> dict[str, Any]:
    """Both ways on one task: masses, interval, probes, and seconds of this run."""
    store = pc.open_store(study.path)
    layer = ordered_layers(store)[-1]
    what: dict[str, Any] = {**study.splits, **how}
    begun = time.perf_counter()
    found = pc.critical_mass(
        store, layer=layer, delta=DELTAS, precision=PRECISION, out=out / "critical" / study.file, **what
    )
    between = time.perf_counter()
    fractions = grid_sizes(store.shape(what["test"], layer)[1], PRECISION)[0]
    whole = pc.sweep(store, layer=layer, fractions=fractions, out=out / "grid" / study.file, **what)
    ended = time.perf_counter()
    want = pc.redundancy(whole, DELTAS)
    return {
        "adaptive": found["critical_mass"].values.tolist(),
        "interval": [found[f"critical_mass_{end}"].values.tolist() for end in ("low", "high")],
        "grid": want["critical_mass"].values.ravel().tolist(),
        "probes": int(found.attrs["n_probes"]),
        "grid_probes": int(whole["accuracy"].notnull().sum()),
        "seconds": round(between - begun, 1),
        "grid_seconds": round(ended - between, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("features", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--store", action="append", default=[], help="BACKBONE/TASK=STORE, one from elsewhere"
    )
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="such as 'lite0 / cifar10'")
    parser.add_argument("--memory-limit", type=parse_bytes, help="of this process, such as 4GiB")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--probe", default="logistic", choices=tuple(L2))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--record", type=Path, help="folder of the record (default: benchmarks/results)")
    arguments = parser.parse_args()
    rows = {}
    for study in find_studies(arguments.features, arguments.store):
        if study.task not in arguments.tasks or study.name in arguments.without:
            continue
        rows[study.name] = row = compare(
            study,
            arguments.out,
            probe=arguments.probe,
            l2=L2[arguments.probe],
            device=arguments.device,
            memory_limit=arguments.memory_limit,
        )
        print(f"{study.name}: f* {row['adaptive']} for {row['grid']} of the grid", end="; ", flush=True)
        print(
            f"{row['probes']} probes for {row['grid_probes']}, {row['seconds']} s for {row['grid_seconds']} s"
        )
    (arguments.out / "critical.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(f"record: {record(f'critical-{arguments.probe}', rows, folder=arguments.record)}")


if __name__ == "__main__":
    main()
