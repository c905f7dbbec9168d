"""Extraction from JPEG files: each decoder alone, and in a whole extraction, with a profile of the waits.

    python -m benchmarks.extract.decoded --device cuda
    python -m benchmarks.extract.decoded --device cpu --limit 64 --models test_resnet

The files are pictures of 500 x 375 pixels made here, smooth with some grain, quality 90, so that the machine
needs no data set; at most 256 are different. A share is the part of the wall clock that the run
stood waiting for a stage; worked seconds are what each stage took in the background. Beside them the loop
that people write by hand, with as many processes.
"""

import argparse
import os
import tempfile
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.extract.speed import hand
from benchmarks.record import record
from probecache.extract.datasets.decoder import DECODERS, require_torchcodec
from probecache.extract.pipeline.loader import batch_ranges, default_workers, open_batches
from probecache.extract.prepare import prepare
from probecache.extract.run import extract_features
from probecache.extract.settings import Settings
from probecache.store.errors import InputError

SIZE, DIFFERENT = (500, 375), 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", default=["resnet50"])
    parser.add_argument("--limit", type=int, default=16384, help="images")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", help="folder of the record (default: benchmarks/results)")
    args = parser.parse_args()
    args.workers = default_workers(args.device) if args.workers is None else args.workers
    results: dict[str, Any] = {"images": args.limit, "workers": args.workers}
    with tempfile.TemporaryDirectory() as folder:
        args.data_dir = pictures(Path(folder) / "pictures", args.limit)
        results["bytes_per_file"] = sum(f.stat().st_size for f in args.data_dir.rglob("*.jpg")) // args.limit
        for model in args.models:
            results[model] = measure(model, args, Path(folder))
            print(model, results[model], flush=True)
    print(f"record: {record(f'extract-decoded-{args.device}', results, folder=args.out)}")


def pictures(root: Path, count: int) -> Path:
    """A folder of `count` JPEG files in two classes; those beyond DIFFERENT are links to the first."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = root / str(i % 2) / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i >= DIFFERENT:
            os.link(root / str(i % DIFFERENT % 2) / f"{i % DIFFERENT:06d}.jpg", path)
            continue
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), np.int16)
        grain = rng.integers(-12, 13, (*smooth.shape[:2], 1), dtype=np.int16)
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path, quality=90)
    return root


def measure(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    out: dict[str, Any] = {}
    options: dict[str, Any] = {
        "split": "train",
        "data_dir": str(args.data_dir),
        "pretrained": False,
        "device": args.device,
        "workers": args.workers,
    }
    for decoder in DECODERS:
        try:
            if decoder == "torchcodec":
                require_torchcodec()
        except InputError as error:
            out[decoder] = {"left out": str(error)}
            continue
        setup = prepare(name, "", Settings.of(**options, decoder=decoder))
        start = perf_counter()
        ranges = batch_ranges([(0, setup.n_samples)], 256)
        decoded = sum(
            len(batch.labels)
            for batch in open_batches(setup.images, setup.preprocess, ranges, workers=args.workers)
        )
        alone = perf_counter() - start
        store = extract_features(name, out=folder / f"{name}-{decoder}.zarr", **options, decoder=decoder)
        summary = store.report("train", "penultimate")["summary"]
        out[decoder] = {
            "decoding_alone_images_per_second": decoded / alone,
            **{key: summary[key] for key in ("images_per_second", "seconds", "share", "worked_seconds")},
        }
    by_hand = SimpleNamespace(data_dir=str(args.data_dir), batch_size=256, workers=args.workers)
    spent = hand(setup, by_hand, setup.n_samples, folder / "hand.npy")
    out["hand"] = {"images_per_second": setup.n_samples / spent}
    return out


if __name__ == "__main__":
    main()
