"""The forward pass: uint8 images in, one pooled matrix per feature out, and nothing run after the last
layer."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probecache.extract.backbone.call import only_input, only_tensor, output_tensors, run_model
from probecache.extract.backbone.layers import Layer
from probecache.extract.backbone.losses import count_losses
from probecache.extract.backbone.pooling import pool_output
from probecache.store.errors import InputError, ProbecacheError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Feature:
    """One stored matrix: `layer` pooled by `pool`, written as the group `name`."""

    name: str
    layer: Layer
    pool: str

    @property
    def neurons(self) -> int:
        return self.layer.layout.neurons(self.pool)


def plan_features(layers: Sequence[Layer], pools: Sequence[str]) -> list[Feature]:
    """Every layer by every pooling. The first pooling keeps the layer's plain name, others are `layer+pool`.

    A layer whose output is already one vector per image has nothing to pool and is written once.
    """
    if not pools or len(set(pools)) != len(pools):
        raise InputError(f"poolings must be given once each, got {list(pools)}")
    features = []
    for layer in layers:
        for i, pool in enumerate(pools):
            layer.layout.check(pool, layer.name)
            if layer.layout.kind == "vector" and i:
                continue
            features.append(Feature(layer.name if i == 0 else f"{layer.name}+{pool}", layer, pool))
    return features


class _Enough(Exception):
    """Raised by the hook of the last layer needed: the rest of the network has nothing to add."""


class Features(nn.Module):
    """images -> tuple of (n, neurons) matrices in `dtype`, in the order of `features`.

    images: uint8 (n, c, h, w), normalised here as (x / 255 - mean) / std in float32; floating point images
    are taken as already normalised. Outputs are pooled inside the hooks, before a following in-place
    operation can change them, and large activations are freed as the pass goes on.

    `stop_early` ends the pass by an exception after the last layer. A compiled module must do without: there
    the compiler drops what feeds no output, and the matrices are for `cast` to cast, outside of it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        features: Sequence[Feature],
        mean: Sequence[float],
        std: Sequence[float],
        dtype: torch.dtype,
        *,
        stop_early: bool = True,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.features = tuple(features)
        self.dtype = dtype
        self.stop_early = stop_early
        self.channels_last = channels_last
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format
        self.register_buffer(
            "mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False
        )
        self._seen: dict[str, Tensor] = {}
        self._inside = False  # of a pass of our own: the caller may run the model beside it
        self.counted: Tensor | None = None  # the rows of a pass that are images, where not all are
        self._lost: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        modules = dict(model.named_modules())
        for layer in {f.layer.name: f.layer for f in features}.values():
            if layer.kind == "before":
                hook = modules[layer.module].register_forward_pre_hook(self._before(layer), with_kwargs=True)
                self._hooks.append(hook)
            elif layer.kind == "after":
                self._hooks.append(modules[layer.module].register_forward_hook(self._after(layer)))

    def close(self) -> None:
        """Take the hooks off the model again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self._seen.clear()
        self._lost.clear()
        self._inside = True
        with suppress(_Enough):
            self._run(self._normalise(images))
        self._inside = False
        missing = [f.layer.name for f in self.features if f.name not in self._seen]
        if missing:
            raise ProbecacheError(
                f"layer {missing[0]!r} did not run for some images: pick one that always runs"
            )
        short = [f for f in self.features if len(self._seen[f.name]) != len(images)]
        if short:
            rows, name = len(self._seen[short[0].name]), short[0].layer.name
            raise ProbecacheError(
                f"layer {name!r} gives {rows} rows for {len(images)} images: pick another layer"
            )
        found = tuple(self._seen[f.name] for f in self.features)
        self._seen.clear()
        return found

    def _normalise(self, images: Tensor) -> Tensor:
        if images.is_floating_point():
            return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images
        return (
            images.to(torch.float32, memory_format=self.memory_format)
            .div_(255.0)
            .sub_(self.mean)
            .div_(self.std)
        )

    def _run(self, x: Tensor) -> None:
        output = run_model(self.model, x)
        for layer in {f.layer.name: f.layer for f in self.features}.values():
            if layer.kind == "output":
                self._take(layer, output_tensors(output)[layer.key])

    def _take(self, layer: Layer, output: Tensor) -> None:
        for feature in self.features:
            if feature.layer.name == layer.name:
                again = self._inside and feature.name in self._seen
                if again or tuple(output.shape[1:]) != layer.layout.shape:
                    raise ProbecacheError(self._unlike(layer, output, again))
                pooled = pool_output(output, layer.layout, feature.pool)
                self._seen[feature.name] = (
                    self._cast(feature.name, pooled) if self.stop_early else pooled.clone()
                )
        if self.stop_early and len(self._seen) == len(self.features):
            raise _Enough

    @staticmethod
    def _unlike(layer: Layer, output: Tensor, again: bool) -> str:
        """Why a layer that was watched beforehand cannot go on."""
        if again:
            return f"layer {layer.name!r} ran twice for some images: pick one that runs once"
        now, then = ("x".join(map(str, shape)) for shape in (output.shape[1:], layer.layout.shape))
        return (
            f"layer {layer.name!r} puts out {now} for some images and {then} for others: pick another layer"
        )

    def cast(self, pooled: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Matrices of a pass that has not cast them, in `dtype`, with what that loses."""
        return tuple(self._cast(f.name, matrix) for f, matrix in zip(self.features, pooled, strict=True))

    def _cast(self, name: str, pooled: Tensor) -> Tensor:
        # A copy: the network may go on to overwrite the storage that a view would share.
        cast = pooled.to(self.dtype, copy=True)
        if cast.dtype != pooled.dtype:
            rows = slice(None) if self.counted is None else self.counted
            self._lost[name] = count_losses(pooled[rows], cast[rows])
        return cast

    def keep_losses(self) -> None:
        """Count what the last pass lost; one that was broken off is not counted."""
        for name, found in self._lost.items():
            self._kept[name] = found + self._kept[name] if name in self._kept else found
        self._lost.clear()

    def take_losses(self) -> dict[str, Tensor]:
        """By layer, what was lost (`count_losses`) since they were taken last; a layer that is stored in the
        dtype that it is computed in has none."""
        taken, self._kept = self._kept, {}
        return taken

    def _after(self, layer: Layer) -> Any:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            tensor = only_tensor(module, output)
            assert tensor is not None
            self._take(layer, tensor)

        return hook

    def _before(self, layer: Layer) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensor = only_input(args, kwargs)
            assert tensor is not None
            self._take(layer, tensor)

        return hook
