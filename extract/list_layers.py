"""`probecache layers`: what a model offers, before anything is extracted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from probecache.extract.backbone.features import DTYPES, plan_features
from probecache.extract.backbone.layers import PENULTIMATE, block_names, describe_layers, resolve_layers
from probecache.extract.backbone.load import build_for_shapes
from probecache.extract.datasets.preprocess import Overrides, resolve_preprocess
from probecache.extract.surroundings import undisturbed
from probecache.store.errors import InputError


@dataclass(frozen=True)
class Row:
    """One layer under one pooling."""

    name: str
    layout: str
    output: tuple[int, ...]
    pool: str
    neurons: int
    bytes_per_image: int


@undisturbed
def list_layers(
    model: str | nn.Module,
    layers: Sequence[str] | None = None,
    pools: Sequence[str] = ("avg",),
    *,
    every: bool = False,
    img_size: int | None = None,
    dtype: str = "float16",
    model_kwargs: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Rows for `layers`; by default for the blocks and the penultimate layer, with `every` for all modules
    that run once. One blank image passes through the model with random weights; nothing is downloaded."""
    if dtype not in DTYPES:
        raise InputError(f"unknown --dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    module = build_for_shapes(model, model_kwargs=model_kwargs, img_size=img_size)
    preprocess = resolve_preprocess(
        module, Overrides(img_size=img_size, in_chans=(model_kwargs or {}).get("in_chans"))
    )
    if layers:
        names = resolve_layers(module, layers)
    elif every:
        names = [*(name for name, _ in module.named_modules() if name), PENULTIMATE]
    else:
        names = [*block_names(module), PENULTIMATE]
    found = describe_layers(module, names, preprocess.image, preprocess.input_size[0], strict=bool(layers))
    return [
        Row(
            feature.name,
            feature.layer.layout.kind,
            feature.layer.layout.shape,
            "" if feature.layer.layout.kind == "vector" else feature.pool,
            feature.neurons,
            feature.neurons * DTYPES[dtype].itemsize,
        )
        for feature in plan_features(found, pools)
    ]


def print_layers(model: str, rows: Sequence[Row]) -> None:
    """A table on stdout, aligned, one row per line."""
    cells = [("layer", "output", "pool", "neurons", "bytes/image")]
    cells += [
        (
            row.name,
            f"{row.layout} {'x'.join(map(str, row.output))}",
            row.pool,
            str(row.neurons),
            str(row.bytes_per_image),
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(5)]
    for line in cells:
        left = "  ".join(text.ljust(width) for text, width in zip(line[:3], widths, strict=False))
        right = "  ".join(text.rjust(width) for text, width in zip(line[3:], widths[3:], strict=True))
        print(f"{left}  {right}")
