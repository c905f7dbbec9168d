"""Peak memory of an extraction of 10,000 and of 60,000 images: it must not grow with their number.

    python -m benchmarks.extract.memory

Each count runs in a process of its own, on images made when they are read, through a small network that
leaves decoding, queues and shards in charge of memory. Reported: peak resident MiB of the main process and of
the largest worker process.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from benchmarks.record import record

COUNTS = (10_000, 60_000)
ROOT = Path(__file__).parent.parent.parent


class Made(Dataset[Any]):
    """`count` images of one grey each, made on reading; random weights see a different one in every row."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.full((3, self.size, self.size), row % 256, dtype=torch.uint8), row % 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="test_resnet")
    parser.add_argument("--img-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", help="folder of the record (default: benchmarks/results)")
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count:
        print(json.dumps(peak(arguments)))
        return
    peaks = {}
    for count in COUNTS:
        again = [sys.executable, "-m", "benchmarks.extract.memory", *sys.argv[1:], "--count", str(count)]
        run = subprocess.run(again, cwd=ROOT, check=True, capture_output=True, text=True)
        peaks[str(count)] = json.loads(run.stdout.splitlines()[-1])
        print(count, peaks[str(count)], flush=True)
    first, last = (peaks[str(count)]["main_mib"] for count in COUNTS)
    growth = round(last / first - 1, 4)
    print(f"growth of the peak: {growth:.2%}; record: ", end="")
    print(record("extract-memory", {"peaks": peaks, "growth": growth}, folder=arguments.out))


def peak(arguments: argparse.Namespace) -> dict[str, float]:
    """Extract `arguments.count` images in this process; MiB."""
    from probecache.extract.run import extract_features

    with tempfile.TemporaryDirectory() as folder:
        extract_features(
            arguments.model,
            Made(arguments.count, arguments.img_size),
            out=Path(folder) / "features.zarr",
            pretrained=False,
            img_size=arguments.img_size,
            workers=arguments.workers,
            batch_size=128,
            layers=["layer4", "penultimate"],
        )
    who = {"main_mib": resource.RUSAGE_SELF, "worker_mib": resource.RUSAGE_CHILDREN}
    return {name: round(resource.getrusage(which).ru_maxrss / 1024, 1) for name, which in who.items()}


if __name__ == "__main__":
    main()
