"""Everything that a GPU can tell, in one run under eight minutes; each part under a time limit of its own.

    make gpu-check                                           on a machine with a GPU and the environment
    python -m benchmarks.gpu_check --out DIR                 the same
    python -m benchmarks.gpu_check --only tests,probes       some parts
    python -m benchmarks.gpu_check --seconds 300             no part begins that could end later
    python -m benchmarks.gpu_check --device cpu --quick      a rehearsal: the same parts on small work

A part's record is written as soon as it ends, so that what ran before a limit is kept; at most seven files.
`benchmarks/gpu_check.sh FOLDER` installs wheels from a folder first, for a machine without a network that has
torch, timm, xarray, scikit-learn, h5py, typer, rich and pytest. Measured, in MiB, for CPython 3.12 on Linux:
dask 1.4, numcodecs 1.4, distributed 1.0, tornado 0.5, zarr 0.4, msgspec 0.2, and google-crc32c, zict, donfig,
partd, tblib and locket 0.2 together: 5.1; webdataset, plotly and matplotlib for the suite 23 more, torchcodec
9.5. Without tornado, distributed, tblib and zict the sweep is left out; without torchcodec the decoded part
times Pillow alone; without pytest and hypothesis there are no tests, without xdist no suite; everything needs
zarr, msgspec, numcodecs, google-crc32c, donfig, dask, partd and locket. cuML, some 1.3 GB with its libraries,
is timed where it is installed.

Branches that only a CUDA device enters, and no fake stands for: pinned rings and uploads with their events
(extract/pipeline/device.py, analyze/probes/design/upload.py), channels-last autocast, bfloat16 products with
float32 sums, `torch.cuda.mem_get_info` in `--dry-run`, cuML's fits. Each has a test marked `gpu`. Fakes stand
for the search: tests/analyze/probes/test_device.py runs a step of it on tensors without values.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from benchmarks.record import RESULTS, record

ROOT = Path(__file__).resolve().parent.parent
# The folders with tests marked gpu: collecting all of tests/ takes half a minute.
QUICK = ["tests/extract/pipeline/test_gpu.py", "tests/analyze/probes/test_device.py"]
TESTS = [f"tests/{at}" for at in ("extract/pipeline", "analyze/probes", "analyze/metrics", "analyze/sweeps")]


@dataclass(frozen=True)
class Part:
    """A command, its limit in seconds, the package that it needs beside the core, and its variables."""

    name: str
    command: tuple[str, ...]
    seconds: int
    needs: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


def parts(device: str, quick: bool, out: Path, features: Path | None = None) -> list[Part]:
    """In the order of what is worth most, should time run out."""
    python, there = sys.executable, ("--device", device)
    module = lambda name, *more: (python, "-m", f"benchmarks.{name}", *there, *more, "--out", str(out))  # noqa: E731
    small = ("--quick",) if quick else ()
    preloaded = "--models test_resnet --limit 48 --img-size 64 --batch-size 16 --runs 1 --hand-limit 16"
    decoded = "--models test_resnet --limit 48"
    if not quick:
        preloaded = f"--models resnet50 vit_small_patch16_224 --limit {12 * 8192} --runs 1 --warm-limit 8192"
        preloaded += " --hand-limit 0"
        decoded = "--models resnet50 --limit 8192"
    tests = (
        python,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        *(QUICK if quick else TESTS),
    )
    # The fast suite with 'auto' meaning CUDA: what only the CPU's way had seen shows here.
    some = QUICK[:1] if quick else ["tests/store", "tests/extract", "tests/analyze"]
    spread = "-m pytest -q -n auto --dist worksteal -p no:cacheprovider -p no:benchmark"
    suite = (python, *spread.split(), "-m", "not slow", *some)
    rows = () if features is None else ("--features", str(features.resolve()))
    probes = module("probes.device", *rows, *small, *(("--seconds", "150") if quick else ()))
    return [
        Part("tests", tests, 60, "pytest"),
        Part("probes", probes, 110, variables={"SCIPY_ARRAY_API": "1"}),
        Part("extract", module("extract.speed", *preloaded.split()), 140),
        Part("sweep", module("sweeps.device", *small), 45, "distributed"),
        Part("cka", module("similarity.device", *small), 30),
        Part("decoded", module("extract.decoded", *decoded.split()), 60),
        Part("suite", suite, 200, "xdist", {"OMP_NUM_THREADS": "1"}),
    ]


def run(part: Part, env: dict[str, str], seconds: int) -> dict[str, object]:
    """What became of a part: seconds, how it ended, the end of what it printed."""
    if part.needs and find_spec(part.needs) is None:
        return {"left out": f"{part.needs} is not installed"}
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            part.command, cwd=ROOT, env=env, timeout=seconds, capture_output=True, text=True, check=False
        )
        code, text = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as stopped:
        code, text = 124, (stopped.stdout or b"").decode(errors="replace")
    took = time.perf_counter() - begun
    ended = {0: "done", 5: "no test here", 124: f"stopped at {seconds} s"}.get(code, f"exit code {code}")
    return {"seconds": round(took, 1), "ended": ended, "printed": text[-4000:]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small work: a rehearsal")
    parser.add_argument("--only", default="", help="names of parts, with commas")
    parser.add_argument("--seconds", type=float, default=460, help="no part begins that could end later")
    parser.add_argument(
        "--features", type=Path, help="rows of ten classes, as benchmarks.probes.device takes"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the records")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    found: dict[str, object] = {"device": args.device, "quick": args.quick}
    chosen = set(args.only.split(",")) if args.only else None
    failed = False
    stop = time.perf_counter() + args.seconds
    for part in parts(args.device, args.quick, args.out.resolve(), args.features):
        if chosen is not None and part.name not in chosen:
            continue
        left = stop - time.perf_counter()
        if left < part.seconds and not args.quick:
            outcome: dict[str, object] = {"left out": f"{left:.0f} s were left, it may take {part.seconds}"}
        else:
            outcome = run(part, env | part.variables, 4 * part.seconds if args.quick else part.seconds)
        if "printed" in outcome:  # a record names no folder of the machine
            outcome["printed"] = str(outcome["printed"]).replace(str(args.out.resolve()), "OUT")
        found[part.name] = outcome
        print(part.name, json.dumps({k: v for k, v in outcome.items() if k != "printed"}), flush=True)
        failed |= str(outcome.get("ended", "")).startswith("exit code")
        print(outcome.get("printed", ""), flush=True)
        record(f"gpu-check-{args.device}", found, folder=args.out)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
