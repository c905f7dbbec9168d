"""Peak memory of sweeps against the budget that was stated: layers and budgets of several sizes.

    python -m benchmarks.sweeps.memory              # 12 sweeps, about 10 minutes

Every pair of a synthetic layer (as in sweep_streamed.py) and a `--memory-limit` is swept in a process of its
own. Its peak resident memory, interpreter and libraries included, by the kernel's account, stands beside the
limit and beside what `--dry-run` projects. Where the command refuses, because the limit is too small, the
case says so.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from benchmarks.record import record
from benchmarks.sweeps.streamed import TEST_ROWS, sweep, write
from probecache.analyze.arguments import memory_bytes
from probecache.analyze.sweeps.job import working_memory
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.analyze.sweeps.resolved_plan import machine_for, projection, size_up
from probecache.analyze.tasks.load import stays_on_disk

LAYERS = {"20,000 x 512": (20_000, 512), "200,000 x 512": (200_000, 512), "50,000 x 2,048": (50_000, 2048)}
BUDGETS = ("1GiB", "1.5GiB", "2GiB", "4GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory against the stated budget.")
    parser.add_argument("--fractions", default="0.1,0.5,1")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--probe", default="logistic")
    parser.add_argument("--folder", type=Path, default=None, help="where the stores go (default: temporary)")
    options = parser.parse_args()
    fractions = [float(f) for f in options.fractions.split(",")]
    cases = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, (rows, neurons) in LAYERS.items():
            store, out = Path(folder) / "store", Path(folder) / "results"
            write(store, rows, neurons)
            for budget in BUDGETS:
                limit = memory_bytes(budget)
                plan = SweepPlan(
                    layer=("synthetic",),
                    fractions=fractions,
                    seeds=options.seeds,
                    probe=options.probe,
                    l2=1e-2,
                )
                expected = projection(size_up(plan, store), machine_for(None, "cpu", limit))
                case = {"layer": name, "budget_gib": limit / 2**30, "projected_gib": expected.memory / 2**30}
                if expected.memory > limit:
                    case["refused"] = True
                else:
                    loaded = 4 * (rows + TEST_ROWS) * neurons
                    case["on_disk"] = stays_on_disk(loaded, working_memory(limit))
                    case |= sweep(store, out, options, budget)
                    case["peak_over_limit"] = case["peak_gib"] * 2**30 / limit
                    shutil.rmtree(out)
                cases.append(case)
                print(case, flush=True)
            shutil.rmtree(store)
    settings = {"fractions": options.fractions, "seeds": options.seeds, "probe": options.probe}
    print(record("sweep-memory", {**settings, "cases": cases}))


if __name__ == "__main__":
    main()
