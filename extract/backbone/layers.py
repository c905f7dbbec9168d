"""Layers by name, and what each puts out.

| name | the layer |
|---|---|
| `penultimate` | what the classifier receives, the model's output where it has none: see penultimate.py |
| `blocks.5`, `blocks.*`, `-1`, `blocks.-2` | what a module puts out; by name, glob, number of the block |
| `head.input` | what module `head` is called with |
| `output`, `output.KEY` | the model's own output; of several tensors, the one of that key or number |
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from probecache.extract.backbone.call import is_transformers
from probecache.extract.backbone.layout import layout_of
from probecache.extract.backbone.penultimate import OUTPUT, classifiers, find_penultimate
from probecache.extract.backbone.pooling import Layout
from probecache.extract.backbone.survey import Seen, Survey, survey
from probecache.store.errors import InputError, close_names

PENULTIMATE = "penultimate"
_KEYS = ("last_hidden_state", "pooler_output")  # of transformers' outputs: short for output.KEY
_CONTAINERS = ("blocks", "stages", "layers", "transformers", "levels", "network", "features")


@dataclass(frozen=True)
class Layer:
    """One named activation: what `module` puts out ("after"), what it is called with ("before"), or, of kind
    "output", the tensor `key` of the model's own output ('' where it is one)."""

    name: str
    layout: Layout
    kind: Literal["after", "before", "output"]
    module: str = ""
    key: str = ""


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
                return [n for name in numbered for n in _runnable(child[int(name)], f"{container}.{name}")]
    if is_transformers(model):
        lists = [
            (name, child)
            for name, child in model.named_modules()
            if name.split(".")[-1] in ("layer", "layers")
            and isinstance(child, nn.ModuleList)
            and "text" not in name
        ]
        return [f"{name}.{number}" for name, child in lists[:1] for number, _ in child.named_children()]
    stages = [name for name, _ in model.named_children() if re.fullmatch(r"(layer|stage|s)\d+", name)]
    if stages:
        return stages
    modules = dict(model.named_modules())
    info = getattr(model, "feature_info", None) or []
    named = [entry["module"] for entry in info if isinstance(entry, dict) and entry.get("module") in modules]
    return [inner for name in named if name for inner in _runnable(modules[name], name)]


def _runnable(module: nn.Module, name: str) -> list[str]:
    """`name`, or, of a list of modules, which never runs itself, what is in it."""
    if not isinstance(module, nn.ModuleList):
        return [name]
    return [inner for key, child in module.named_children() for inner in _runnable(child, f"{name}.{key}")]


def resolve_layers(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Layer names for `patterns`, in their order, each once.

    A pattern is `penultimate`; a module's dotted name; a glob, matched piece by piece (`blocks.*` gives the
    blocks and not what is inside them); a block number (`5`, `-1`); a negative number inside a name
    (`blocks.-1`); a name and `.input`; `output` or `output.KEY`. Raises InputError with close names for a
    pattern that matches nothing.
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
    if pattern in (PENULTIMATE, OUTPUT) or pattern in modules or pattern.startswith(f"{OUTPUT}."):
        yield pattern
        return
    if pattern in _KEYS and is_transformers(model):
        yield pattern
        return
    if pattern.endswith(".input"):
        yield from (f"{n}.input" for n in _matches(model, modules, pattern.removesuffix(".input")))
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


def describe_layers(
    model: nn.Module, names: Sequence[str], image: tuple[int, int], channels: int = 3, *, strict: bool = True
) -> list[Layer]:
    """Watch `model` on random images and describe each layer in `names`.

    Raises InputError for a layer whose features would be ambiguous or worthless: a module that does not run,
    runs more than once, puts out several tensors or none with a row per image, gives two images the same, or
    gives an image other values in other company; and for a `penultimate` that is not sure. With
    `strict=False` such layers are left out.
    """
    modules = dict(model.named_modules())
    inside = [
        n for n in names if n in modules or (n.endswith(".input") and n.removesuffix(".input") in modules)
    ]
    found = survey(model, inside, image, channels, classifiers(model))
    if PENULTIMATE in names:
        # What the penultimate layer is shows in the pass; what it holds is looked at in another.
        try:
            place = find_penultimate(model, found)
        except InputError:
            if strict:
                raise
            names = [name for name in names if name != PENULTIMATE]
        else:
            if not _is_output(place, modules) and place not in inside:
                found = survey(model, [*inside, place], image, channels, ())
    layers = []
    for name in names:
        try:
            layers.append(_layer(model, modules, name, place if name == PENULTIMATE else name, found))
        except InputError:
            if strict:
                raise
    return layers


def _layer(model: nn.Module, modules: Mapping[str, nn.Module], name: str, place: str, found: Survey) -> Layer:
    if _is_output(place, modules):
        key = place if place in _KEYS else place.partition(".")[2]
        if not key and len(found.outputs) == 1:
            key = next(iter(found.outputs))
        if key not in found.outputs:
            keys = ", ".join(f"{OUTPUT}.{k}" for k in found.outputs) or "no tensor"
            raise InputError(f"layer {name!r}: the model's output holds {keys}")
        layout = layout_of(_sound(name, found.outputs[key]), None, model, found)
        return Layer(name, layout, "output", key=key)
    seen = _sound(name, found.seen[place])
    if place in modules:
        return Layer(name, layout_of(seen, modules[place], model, found), "after", place)
    return Layer(name, layout_of(seen, None, model, found), "before", place.removesuffix(".input"))


def _is_output(place: str, modules: Mapping[str, nn.Module]) -> bool:
    return place not in modules and (place in (OUTPUT, *_KEYS) or place.startswith(f"{OUTPUT}."))


def _sound(name: str, seen: Seen) -> Seen:
    """`seen`, if its features are one vector per image that says something about it."""
    if seen.calls != 1:
        often = f"runs {seen.calls} times" if seen.calls else "does not run"
        raise InputError(f"layer {name!r} {often} in one forward pass; pick a module that runs once")
    if seen.problem:
        raise InputError(f"layer {name!r} {seen.problem}; pick another layer")
    return seen
