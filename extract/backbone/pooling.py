"""From a layer's output to one vector per image.

| layout | shape | where |
|---|---|---|
| vector | (n, c) | heads, penultimate layers |
| nchw | (n, c, h, w) | convnets |
| nhwc | (n, h, w, c) | hierarchical transformers (Swin) |
| tokens | (n, prefix + positions, c) | ViTs, MLP-mixers; prefix = class token and registers |

| pool | vector per image |
|---|---|
| avg | mean over positions; prefix tokens left out |
| max | maximum over positions; prefix tokens left out |
| cls | the class token |
| cls+avg | both, class token first |
| flatten | every position, row-major; prefix tokens left out |
| none | the output as it is, row-major; prefix tokens included |
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from probecache.store.errors import InputError

POOLS = ("avg", "max", "cls", "cls+avg", "flatten", "none")
Kind = Literal["vector", "nchw", "nhwc", "tokens"]


@dataclass(frozen=True)
class Layout:
    """What the axes of one layer's output mean; `shape` leaves out the batch axis."""

    kind: Kind
    shape: tuple[int, ...]
    prefix: int = 0
    has_class: bool = False

    def neurons(self, pool: str) -> int:
        """Length of the vector that `pool` gives."""
        if self.kind == "vector" or pool == "none":
            return math.prod(self.shape)
        if pool == "flatten":
            return math.prod(self.shape) - self.prefix * self.shape[-1]
        channels = self.shape[0] if self.kind == "nchw" else self.shape[-1]
        return 2 * channels if pool == "cls+avg" else channels

    def kept_shape(self, pool: str) -> tuple[int, ...]:
        """Shape to which one stored vector folds back: that of the output for `flatten` and `none`."""
        if pool == "flatten" and self.prefix:
            return (self.shape[0] - self.prefix, self.shape[1])
        return self.shape if pool in ("flatten", "none") else (self.neurons(pool),)

    def check(self, pool: str, layer: str) -> None:
        """Raise InputError where this layout has nothing that `pool` could take."""
        if pool not in POOLS:
            raise InputError(f"unknown pooling {pool!r}; allowed: {', '.join(POOLS)}")
        if "cls" in pool and self.kind != "vector" and not self.has_class:
            raise InputError(
                f"layer {layer!r} has no class token (output {self.kind} {self.shape}); "
                "use --pool avg, max or flatten"
            )


def first_tensor(output: object) -> Tensor | None:
    """The first tensor of a module's output: itself, or in a tuple, list or mapping (transformers with
    extras)."""
    if isinstance(output, Tensor):
        return output
    parts: Any = output.values() if isinstance(output, Mapping) else output
    if isinstance(parts, list | tuple) or isinstance(output, Mapping):
        for part in parts:
            found = first_tensor(part)
            if found is not None:
                return found
    return None


def describe(module: nn.Module | None, output: Tensor, model: nn.Module, image: tuple[int, int]) -> Layout:
    """Layout of `output` (batch first), made by `module` of `model` from images of (height, width) `image`.

    Of a 4-d output the two neighbouring axes in the image's proportions are the positions; where both
    readings fit, the module's type decides, then timm's `output_fmt`. Of tokens, the model's prefix tokens
    are left out if what remains fills a grid of the image's proportions; stages that run without them (CaiT's
    first blocks) fill the grid as they are.
    """
    shape = tuple(output.shape[1:])
    if len(shape) <= 1:
        return Layout("vector", shape or (1,))
    if len(shape) == 3:
        return Layout(_spatial(shape, module, model, image), shape)
    if len(shape) == 2:
        prefix = _prefix(model)
        if prefix and not _grid(shape[0] - prefix, image) and _grid(shape[0], image):
            prefix = 0
        return Layout("tokens", shape, prefix, bool(prefix) and _has_class(model))
    raise InputError(f"an output of shape {shape} per image is not supported; pick another layer")


def pool_output(x: Tensor, layout: Layout, pool: str) -> Tensor:
    """(n, *layout.shape) -> (n, layout.neurons(pool)); means are taken in float32."""
    if layout.kind == "vector":
        return x.reshape(x.shape[0], -1)
    if pool == "none":
        return x.flatten(1)
    positions = x[:, layout.prefix :] if layout.prefix else x
    if pool == "flatten":
        return positions.flatten(1)
    axes = {"nchw": (2, 3), "nhwc": (1, 2), "tokens": (1,)}[layout.kind]
    if pool == "avg":
        return positions.mean(axes, dtype=torch.float32)
    if pool == "max":
        return positions.amax(axes)
    token = x[:, 0]
    if pool == "cls":
        return token
    return torch.cat([token.float(), positions.mean(axes, dtype=torch.float32)], 1)


def _prefix(model: nn.Module) -> int:
    count = getattr(model, "num_prefix_tokens", None)
    return int(count) if count is not None else int(_has_class(model))


def _has_class(model: nn.Module) -> bool:
    if getattr(model, "has_class_token", None) is not None:
        return bool(model.has_class_token)
    return isinstance(getattr(model, "cls_token", None), Tensor)


def _grid(positions: int, image: tuple[int, int]) -> bool:
    """Whether `positions` cells fill a grid of the image's proportions."""
    if positions <= 0:
        return False
    rows = round(math.sqrt(positions * image[0] / image[1]))
    return rows > 0 and positions % rows == 0 and _same_ratio(rows, positions // rows, image)


def _same_ratio(height: int, width: int, image: tuple[int, int]) -> bool:
    # Strides round up, so each side may be off by one cell.
    return abs(height * image[1] - width * image[0]) < max(image) if image[0] != image[1] else height == width


def _spatial(
    shape: tuple[int, ...], module: nn.Module | None, model: nn.Module, image: tuple[int, int]
) -> Kind:
    first, last = _same_ratio(shape[1], shape[2], image), _same_ratio(shape[0], shape[1], image)
    if first != last:
        return "nchw" if first else "nhwc"
    if isinstance(module, nn.LayerNorm | nn.Linear):
        return "nhwc"
    if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.AdaptiveAvgPool2d | nn.MaxPool2d):
        return "nchw"
    return "nhwc" if getattr(model, "output_fmt", "NCHW") == "NHWC" else "nchw"
