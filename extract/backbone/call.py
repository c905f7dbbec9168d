"""How a module is called with images, and what its outputs are named.

Most modules take images as their only argument. Models of the transformers library name the argument, and
those that also read text (CLIP, SigLIP) have a method for images alone.
"""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_REAL = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def run_model(model: nn.Module, images: Tensor) -> Any:
    """The model's output for normalised `images` (n, channels, height, width), in the type of its weights."""
    kind = next((p.dtype for p in model.parameters() if p.dtype in _REAL), images.dtype)
    images = images.to(kind)
    if not is_transformers(model):
        return model(images)
    resize = _other_size(model, images)
    if reads_text(model):
        return model.get_image_features(pixel_values=images, **resize)  # type: ignore[operator]
    return model(pixel_values=images, **resize)


def is_transformers(model: nn.Module) -> bool:
    """Whether `model` comes from the transformers library (which need not be installed to ask)."""
    return any(kind.__module__.startswith("transformers.") for kind in type(model).__mro__)


def reads_text(model: nn.Module) -> bool:
    """Whether a transformers model has a text tower beside the one for images."""
    return hasattr(model, "get_image_features")


def vision_config(model: nn.Module) -> Any:
    """The part of a transformers model's configuration that describes its image tower."""
    config: Any = model.config
    return getattr(config, "vision_config", None) or config


def output_tensors(output: object) -> dict[str, Tensor]:
    """The tensors of an output by name: '' where it is one tensor, else a key or a number, nested ones as
    `a.b`."""
    return dict(_named("", output))


def _named(name: str, output: object) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield name, output
    elif isinstance(output, Mapping):
        for key, part in output.items():
            yield from _named(_inside(name, key), part)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        for part in dataclasses.fields(output):
            yield from _named(_inside(name, part.name), getattr(output, part.name))
    elif isinstance(output, tuple) and hasattr(output, "_fields"):
        for key, part in zip(output._fields, output, strict=True):
            yield from _named(_inside(name, key), part)
    elif isinstance(output, list | tuple):
        for i, part in enumerate(output):
            yield from _named(_inside(name, i) if len(output) > 1 else name, part)


def _inside(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def only_tensor(module: nn.Module | None, output: object) -> Tensor | None:
    """The one tensor of a module's output; None where it has none, or several that could be meant.

    `nn.MultiheadAttention` gives its weights beside its output: the output is meant.
    """
    if isinstance(module, nn.MultiheadAttention) and isinstance(output, tuple):
        output = output[0]
    found = output_tensors(output)
    return next(iter(found.values())) if len(found) == 1 else None


def only_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The first tensor that a module is called with."""
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)


def _other_size(model: nn.Module, images: Tensor) -> dict[str, bool]:
    """What tells a transformers model to stretch its position embeddings, where the images need it."""
    size = getattr(vision_config(model), "image_size", None)
    height_width = (size, size) if isinstance(size, int) else tuple(size or images.shape[-2:])
    if tuple(images.shape[-2:]) == height_width:
        return {}
    method = model.get_image_features if reads_text(model) else model.forward
    known = inspect.signature(method).parameters  # type: ignore[arg-type]
    return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in known else {}
