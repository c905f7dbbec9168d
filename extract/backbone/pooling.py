"""From a layer's output to one vector per image.

| layout | shape | where |
|---|---|---|
| vector | (n, c) | heads, penultimate layers |
| nchw | (n, c, h, w) | convnets |
| nhwc | (n, h, w, c) | hierarchical transformers (Swin) |
| tokens | (n, prefix + positions, c) | ViTs, MLP-mixers; prefix = class token and registers |
| other | (n, ...) | what the axes mean is not known: `none` alone |

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
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from probecache.store.errors import InputError

POOLS = ("avg", "max", "cls", "cls+avg", "flatten", "none")
Kind = Literal["vector", "nchw", "nhwc", "tokens", "other"]


@dataclass(frozen=True)
class Layout:
    """What the axes of one layer's output mean; `shape` leaves out the batch axis. `why` says what is not
    known of the kind `other`."""

    kind: Kind
    shape: tuple[int, ...]
    prefix: int = 0
    has_class: bool = False
    why: str = ""

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
        if self.kind == "other" and pool != "none":
            raise InputError(
                f"layer {layer!r} cannot be pooled by {pool}: {self.why}; use --pool none or another layer"
            )
        if "cls" in pool and self.kind != "vector" and not self.has_class:
            raise InputError(
                f"layer {layer!r} has no class token that is known (output {self.kind} {self.shape}); "
                "use --pool avg, max or flatten"
            )


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
