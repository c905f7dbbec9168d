"""Layers by name: `penultimate`, dotted module names, globs, block numbers; and what each puts out.

`penultimate` is what feeds the classifier: timm's `forward_head(pre_logits=True)`; for a module without that
method the input of the last linear layer that it runs, or, having none, its own output.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from probecache.extract.backbone.pooling import Layout, describe, first_tensor
from probecache.store.errors import InputError, close_names

PENULTIMATE = "penultimate"
_CONTAINERS = ("blocks", "stages", "layers", "transformers", "levels", "network", "features")


@dataclass(frozen=True)
class Layer:
    """One named activation: the output of `module` (its input where `of_input`).

    `module` None is what timm's `forward_head(forward_features(images), pre_logits=True)` gives.
    """

    name: str
    layout: Layout
    module: str | None
    of_input: bool = False


def block_names(model: nn.Module) -> list[str]:
    """The model's blocks in order, as module names: what a bare number or `-1` counts.

    The numbered children of `blocks`, `stages`, `layers`, ...; else ResNet's `layer1`.., else timm's feature
    stages.
    """
    for container in _CONTAINERS:
        child = getattr(model, container, None)
        if isinstance(child, nn.Sequential | nn.ModuleList):
            numbered = [name for name, _ in child.named_children() if name.isdigit()]
            if numbered:
                return [f"{container}.{name}" for name in numbered]
    stages = [name for name, _ in model.named_children() if re.fullmatch(r"(layer|stage|s)\d+", name)]
    if stages:
        return stages
    modules = dict(model.named_modules())
    info = getattr(model, "feature_info", None) or []
    return [entry["module"] for entry in info if isinstance(entry, dict) and entry.get("module") in modules]


def resolve_layers(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Layer names for `patterns`, in their order, each once.

    A pattern is `penultimate`; a module's dotted name; a glob, matched piece by piece (`blocks.*` gives the
    blocks and not what is inside them); a block number (`5`, `-1`); a negative number inside a name
    (`blocks.-1`). Raises InputError with close names for a pattern that matches nothing.
    """
    modules = [name for name, _ in model.named_modules() if name]
    names: list[str] = []
    for pattern in patterns:
        found = list(_matches(model, modules, pattern.strip()))
        if not found:
            raise InputError(
                f"unknown layer {pattern!r}; {close_names(pattern, [PENULTIMATE, *modules])} "
                "(probecache layers --model ... lists them)"
            )
        names += [name for name in found if name not in names]
    if not names:
        raise InputError("no layer was asked for; give at least one, for example penultimate")
    return names


def _matches(model: nn.Module, modules: Sequence[str], pattern: str) -> Iterator[str]:
    if pattern == PENULTIMATE or pattern in modules:
        yield pattern
        return
    if re.fullmatch(r"-?\d+", pattern):
        blocks = block_names(model)
        if not -len(blocks) <= int(pattern) < len(blocks):
            raise InputError(
                f"block {pattern} is out of range: the model has {len(blocks)} blocks, {_span(blocks)}"
            )
        yield blocks[int(pattern)]
        return
    pieces = _positive(pattern.split("."), modules)
    for name in modules:
        parts = name.split(".")
        if len(parts) == len(pieces) and all(fnmatchcase(a, b) for a, b in zip(parts, pieces, strict=True)):
            yield name


def _positive(pieces: list[str], modules: Sequence[str]) -> list[str]:
    """`blocks.-1` -> `blocks.11`: negative pieces count from the end of their parent's numbered children."""
    for i, piece in enumerate(pieces):
        if re.fullmatch(r"-\d+", piece):
            parent = ".".join(pieces[:i]) + "."
            rest = [m.removeprefix(parent) for m in modules if m.startswith(parent)]
            count = len([r for r in rest if r.isdigit()])
            if count + int(piece) >= 0:
                pieces[i] = str(count + int(piece))
    return pieces


def _span(names: Sequence[str]) -> str:
    return f"{names[0]} to {names[-1]}" if names else "none that is numbered"


def trace(
    model: nn.Module, names: Sequence[str], image: tuple[int, int], channels: int = 3, *, strict: bool = True
) -> list[Layer]:
    """Run one blank image through `model` and describe each layer in `names`.

    Raises InputError for a module that does not run, runs more than once, or puts out no tensor with a row
    per image: its features would be ambiguous. With `strict=False` such modules are left out.
    """
    modules = dict(model.named_modules())
    outputs: dict[str, list[object]] = {name: [] for name in names if name != PENULTIMATE}
    linear: list[tuple[str, Tensor]] = []
    handles = [modules[n].register_forward_hook(_keep(found)) for n, found in outputs.items()]
    if PENULTIMATE in names and not has_head(model):
        for name, module in modules.items():
            if isinstance(module, nn.Linear):
                handles.append(module.register_forward_pre_hook(_keep_input(name, linear)))
    head, output = None, None
    try:
        with torch.inference_mode():
            blank = torch.zeros(1, channels, *image, device=_device(model))
            if has_head(model):
                features = model.forward_features(blank)  # type: ignore[operator]
                if PENULTIMATE in names:
                    head = first_tensor(model.forward_head(features, pre_logits=True))  # type: ignore[operator]
                if any(not found for found in outputs.values()):
                    # Parts of the head may run a second time here: what they gave the first time counts.
                    seen = {name: len(found) for name, found in outputs.items()}
                    model.forward_head(features)  # type: ignore[operator]
                    for name, count in seen.items():
                        if count:
                            del outputs[name][count:]
            else:
                output = first_tensor(model(blank))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        line = str(error).strip().split("\n")[0]
        raise InputError(
            f"the model does not run on {image[0]}x{image[1]} images: {line}; see --img-size"
        ) from error
    finally:
        for handle in handles:
            handle.remove()

    def layer(name: str) -> Layer:
        if name != PENULTIMATE:
            return Layer(name, describe(modules[name], _once(name, outputs[name]), model, image), name)
        if head is not None:
            return Layer(name, describe(None, head.flatten(1), model, image), None)
        if linear:
            last, tensor = linear[-1]
            return Layer(name, describe(None, tensor.flatten(1), model, image), last, of_input=True)
        return Layer(name, describe(None, _once(name, [output]), model, image), "")

    layers = []
    for name in names:
        try:
            layers.append(layer(name))
        except InputError:
            if strict:
                raise
    return layers


def has_head(model: nn.Module) -> bool:
    """Whether timm's two halves of a forward pass are there."""
    return hasattr(model, "forward_features") and hasattr(model, "forward_head")


def _once(name: str, outputs: Sequence[object]) -> Tensor:
    if len(outputs) != 1:
        often = f"runs {len(outputs)} times" if outputs else "does not run"
        raise InputError(f"layer {name!r} {often} in one forward pass; pick a module that runs once")
    tensor = first_tensor(outputs[0])
    if tensor is None or tensor.dim() < 2 or tensor.shape[0] != 1:
        raise InputError(f"layer {name!r} puts out no tensor with one row per image; pick another")
    return tensor


def _keep(found: list[object]) -> Any:
    def hook(module: nn.Module, inputs: object, output: object) -> None:
        found.append(output)

    return hook


def _keep_input(name: str, found: list[tuple[str, Tensor]]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append((name, inputs[0]))

    return hook


def _device(model: nn.Module) -> torch.device:
    return next((t.device for t in model.parameters()), torch.device("cpu"))
