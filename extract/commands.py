"""The subcommands of `extract`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from probecache.store.choose import parse_rows, split_names

Model = Annotated[
    str,
    typer.Option("--model", "-m", help="timm name, hf-hub:org/name, local-dir:/path or transformers:name."),
]
ModelKwargs = Annotated[
    list[str] | None,
    typer.Option("--model-kwargs", help="NAME=VALUE ..., passed to timm.create_model."),
]
Layers = Annotated[
    list[str] | None,
    typer.Option("--layer", "--layers", help="Names, globs or block numbers: a,b or repeated  [penultimate]"),
]
ImgSize = Annotated[
    int | None, typer.Option("--img-size", help="Side of the square input. Default: the model's.")
]

_SEVERAL = ("--mean", "--std", "--model-kwargs")


def layers(
    model: Model,
    pool: Annotated[
        list[str] | None, typer.Option(help="Pooling: avg (default), max, cls, cls+avg, flatten or none.")
    ] = None,
    layer: Layers = None,
    every: Annotated[bool, typer.Option("--all", help="List every module, not only the blocks.")] = False,
    img_size: ImgSize = None,
    model_kwargs: ModelKwargs = None,
    dtype: Annotated[str, typer.Option(help="Type to store: float16, bfloat16 or float32.")] = "float16",
) -> None:
    """List a model's layers.

    With name, output, pooled shape and stored bytes per image.
    """
    from probecache.extract.list_layers import list_layers, print_layers

    rows = list_layers(
        model,
        split_names(layer) or None,
        split_names(pool) or ["avg"],
        every=every,
        img_size=img_size,
        dtype=dtype,
        model_kwargs=_pairs(model_kwargs),
    )
    print_layers(model, rows)


def extract(
    model: Model,
    out: Annotated[
        str, typer.Option(help="Store to write: a folder or fsspec URL. If it exists, it is continued.")
    ],
    dataset: Annotated[
        str,
        typer.Option(
            help="timm spec (torch/cifar10, wds/..., hfds/...); if empty, --data-dir is a folder or .tar."
        ),
    ] = "",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder or .tar of class folders; with --dataset, its root.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split to read, and its name in the store.")] = "train",
    layers: Layers = None,
    pool: Annotated[
        list[str] | None, typer.Option(help="Pooling: avg (default), max, cls, cls+avg, flatten or none.")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option(help="Pretrained weights, or random ones drawn by --seed.")
    ] = True,
    checkpoint: Annotated[str | None, typer.Option(help="File of weights: .safetensors or .pth.")] = None,
    model_kwargs: ModelKwargs = None,
    seed: Annotated[int, typer.Option(help="Draws random weights.")] = 0,
    batch_size: Annotated[
        str, typer.Option("--batch-size", "-b", help="Images per forward pass, or auto.")
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-j", help="Processes that decode images. Default: by the cores."),
    ] = None,
    decoder: Annotated[str, typer.Option(help="What decodes image files: pillow or torchcodec.")] = "pillow",
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda or cuda:N.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes on this machine, one device each.")] = 1,
    dtype: Annotated[str, typer.Option(help="Type to store: float16, bfloat16 or float32.")] = "float16",
    amp_dtype: Annotated[
        str, typer.Option(help="Type to compute in: auto, float32, bfloat16 or float16.")
    ] = "auto",
    channels_last: Annotated[
        bool | None,
        typer.Option("--channels-last/--no-channels-last", help="Memory format. Default: on for convnets."),
    ] = None,
    torchcompile: Annotated[
        str | None, typer.Option(help="Compile the model with this backend (inductor if none is named).")
    ] = None,
    img_size: ImgSize = None,
    in_chans: Annotated[
        int | None, typer.Option(help="Channels of the images. Default: the model's.")
    ] = None,
    crop_pct: Annotated[float | None, typer.Option(help="Share of the resized image that is kept.")] = None,
    crop_mode: Annotated[str | None, typer.Option(help="How to crop: center, squash or border.")] = None,
    interpolation: Annotated[str | None, typer.Option(help="How to resize: bilinear, bicubic, ...")] = None,
    mean: Annotated[list[float] | None, typer.Option(help="Mean per channel, for pixels in [0, 1].")] = None,
    std: Annotated[list[float] | None, typer.Option(help="Standard deviation per channel.")] = None,
    rows: Annotated[str | None, typer.Option(help="Extract only rows a:b, in whole shards.")] = None,
    limit: Annotated[int | None, typer.Option(help="Extract only the first N images.")] = None,
    shard_rows: Annotated[
        int | None,
        typer.Option(help="Rows per shard, the unit that is committed. Default: the store's, or 8192."),
    ] = None,
    compression: Annotated[str | None, typer.Option(help="zstd; default: none.")] = None,
    allow_failed: Annotated[
        bool, typer.Option("--allow-failed", help="Exit 0 even if images cannot be read.")
    ] = False,
    allow_saturated: Annotated[
        bool, typer.Option("--allow-saturated", help="Store float16 overflow instead of refusing it.")
    ] = False,
    download: Annotated[
        bool, typer.Option("--dataset-download", help="Let the data set download itself.")
    ] = False,
    split_folders: Annotated[
        bool | None,
        typer.Option(
            "--split-folders/--no-split-folders",
            help="Whether folders named like splits are splits or classes. Default: told from the folders.",
        ),
    ] = None,
    class_from: Annotated[
        str, typer.Option(help="Which folder names the class: leaf, top, path or auto.")
    ] = "auto",
    input_key: Annotated[str | None, typer.Option(help="Column of the image, if it is not obvious.")] = None,
    target_key: Annotated[
        str | None, typer.Option(help="Column of the label, if it is not obvious; or none.")
    ] = None,
    content: Annotated[
        str, typer.Option(help="What the digest of the images covers: auto (all bytes up to 1 GiB) or all.")
    ] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print sizes, time and room on disk; write nothing.")
    ] = False,
    max_hours: Annotated[
        float | None,
        typer.Option("--max-hours", help="Stop after so many hours; the same command continues."),
    ] = None,
) -> None:
    """Run a frozen backbone over images and store activations.

    The same command continues a killed run.
    """
    options: dict[str, Any] = {
        "model": model,
        "dataset": dataset,
        "data_dir": data_dir,
        "split": split,
        "layers": split_names(layers) or ["penultimate"],
        "pool": split_names(pool) or ["avg"],
        "pretrained": pretrained,
        "checkpoint": checkpoint,
        "model_kwargs": _pairs(model_kwargs),
        "seed": seed,
        "batch_size": _batch_size(batch_size),
        "workers": workers,
        "decoder": decoder,
        "device": device,
        "dtype": dtype,
        "amp_dtype": amp_dtype,
        "channels_last": channels_last,
        "torchcompile": torchcompile,
        "img_size": img_size,
        "in_chans": in_chans,
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
        "mean": mean or None,
        "std": std or None,
        "rows": None if rows is None else parse_rows(rows),
        "limit": limit,
        "shard_rows": shard_rows,
        "compression": compression,
        "allow_failed": allow_failed,
        "allow_saturated": allow_saturated,
        "download": download,
        "split_folders": split_folders,
        "class_from": class_from,
        "input_key": input_key,
        "target_key": target_key,
        "content": content,
    }
    if dry_run:
        from probecache.extract.dry_run import dry_run as plan
        from probecache.extract.dry_run import print_plan

        print_plan(plan(out=out, **options))
        return
    from probecache.extract.run import extract_features as run
    from probecache.store.layout import MISSING
    from probecache.store.stop import end_after

    end_after(max_hours)
    if devices > 1:
        from probecache.extract.distributed import spawn
        from probecache.store.reader import open_store

        spawn(devices, run, {**options, "out": out})
        store = open_store(out)
    else:
        store = run(out=out, progress=True, **options)
    print(f"{store.path}: split {split!r}, {', '.join(store.layers_of(split))}")
    missing = [row for row, state in enumerate(store.status(split)) if state == MISSING]
    if missing:
        print(
            f"probecache: {len(missing)} of {len(store.status(split))} rows are still to be written, from "
            f"row {missing[0]} on, by other processes or by the same command without --rows",
            file=sys.stderr,
        )


def as_timm(arguments: Sequence[str]) -> list[str]:
    """timm's habits in the form that typer reads: several values behind one flag, a flag without a value.

    >>> as_timm(["--mean", "0.5", "0.4", "--torchcompile", "-b", "8"])
    ['--mean', '0.5', '--mean', '0.4', '--torchcompile', 'inductor', '-b', '8']
    """
    out: list[str] = []
    flag, values = "", 0
    for word in [*arguments, "--"]:
        if not word.startswith("-"):
            out += [flag, word] if flag in _SEVERAL and values else [word]
            values += 1
            continue
        if flag == "--torchcompile" and not values:
            out.append("inductor")
        out.append(word)
        flag, values = word, 0
    return out[:-1]


def _pairs(items: list[str] | None) -> dict[str, Any]:
    """`name=value` pairs with Python literals for values."""
    import ast

    from probecache.store.errors import InputError

    pairs = {}
    for item in items or []:
        name, equals, text = item.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--model-kwargs takes NAME=VALUE, got {item!r}")
        try:
            pairs[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            pairs[name] = text
    return pairs


def _batch_size(text: str) -> int | None:
    from probecache.store.errors import InputError

    if text == "auto":
        return None
    if not text.isdecimal():
        raise InputError(f"--batch-size takes a whole number or auto, got {text!r}")
    return int(text)


COMMANDS: dict[str, Callable[..., object]] = {"layers": layers, "extract": extract}
