"""Everything that a GPU can tell, in one run under eight minutes; each part under a time limit of its own.

    make gpu-check                                           on a machine with a GPU and the environment
    python -m benchmarks.gpu_check --out DIR                 the same
    python -m benchmarks.gpu_check --device cpu --quick      a rehearsal: the same parts on small work

A part's record is written as soon as it ends, so that what ran before a limit is kept.
`benchmarks/gpu_check.sh FOLDER` installs wheels from a folder first, for a machine without a network: zarr,
numcodecs, google-crc32c, donfig, typer, rich, distributed, dask, msgpack, tblib, sortedcontainers, zict,
cloudpickle, locket, partd, toolz, psutil and ml-dtypes, and pytest for the tests. Without cuml, torchcodec or
pytest the parts that need them say so and the others run.

Branches that only a CUDA device enters, and no fake stands for: pinned rings and their events
(extract/pipeline/device.py), channels-last autocast, `torch.cuda.mem_get_info` in `--dry-run`, cuML's fits.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.record import RESULTS, record

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Part:
    """A command, its limit in seconds, and the package that it needs beside the core."""

    name: str
    command: tuple[str, ...]
    seconds: int
    needs: str = ""


def parts(device: str, quick: bool, out: Path) -> list[Part]:
    """In the order of what is worth most, should time run out."""
    python, there = sys.executable, ("--device", device)
    module = lambda name, *more: (python, "-m", f"benchmarks.{name}", *more, "--out", str(out))  # noqa: E731
    small = (
        "--models",
        "test_resnet",
        "--limit",
        "48",
        "--img-size",
        "64",
        "--batch-size",
        "16",
        "--runs",
        "1",
    )
    large = ("--models", "resnet50", "vit_small_patch16_224", "--limit", str(12 * 8192), "--runs", "1")
    tests = ("-m", "gpu", "-q", "-x", "-p", "no:cacheprovider", "tests/extract", "tests/analyze")
    only = ("-k", "gpu") if quick else ()
    return [
        Part("tests", (python, "-m", "pytest", *tests, *only), 90, "pytest"),
        Part("probes", module("probes_device", *there, *(("--quick",) if quick else ())), 150),
        Part("extract", module("extract", *there, *(small if quick else large)), 150),
        Part("sweep", module("sweep_device", *there, *(("--quick",) if quick else ())), 60),
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
    return {"seconds": round(took, 1), "ended": ended, "printed": text[-1500:]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small work: a rehearsal")
    parser.add_argument("--only", default="", help="names of parts, with commas")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the records")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"PYTHONPATH": str(ROOT), "SCIPY_ARRAY_API": "1", "PYTHONUNBUFFERED": "1"}
    found: dict[str, object] = {"device": args.device, "quick": args.quick}
    chosen = set(args.only.split(",")) if args.only else None
    failed = False
    for part in parts(args.device, args.quick, args.out.resolve()):
        if chosen is not None and part.name not in chosen:
            continue
        found[part.name] = outcome = run(part, env, 4 * part.seconds if args.quick else part.seconds)
        print(part.name, json.dumps({k: v for k, v in outcome.items() if k != "printed"}), flush=True)
        if str(outcome.get("ended", "")).startswith("exit code"):
            failed = True
            print(outcome["printed"], file=sys.stderr)
        record(f"gpu-check-{args.device}", found, folder=args.out)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
