"""What the axes of an output mean: known from the pass and from the model's own record, or not at all.

| axes per image | read as | where |
|---|---|---|
| c | vector | always |
| N x c | tokens | what joined in front of the patches is known; layers act on axis c |
| c x h x w, h x w x c | nchw, nhwc | h x w is the size of a map in this pass, or a halving of one |

Whatever else there is (attention maps, windows, channels before positions, sequences joined of several parts)
gets the layout `other`, which only the pooling `none` takes.
"""

from typing import Any

import torch
from torch import nn

from probecache.extract.backbone.call import is_transformers, vision_config
from probecache.extract.backbone.pooling import Kind, Layout
from probecache.extract.backbone.survey import Seen, Survey, grid_of, same_ratio

# transformers: tokens before the patches and whether the first is a class token, by `model_type`.
_CLASS_FIRST = (
    "beit",
    "clip_vision_model",
    "clipseg_vision_model",
    "data2vec-vision",
    "dinov2",
    "vit",
    "vit_msn",
    "metaclip_2_vision_model",
    "mlcd_vision_model",
    "chinese_clip_vision_model",
    "altclip_vision_model",
)
_WITH_REGISTERS = ("dinov2_with_registers", "dinov3_vit")
_NO_CLASS = ("siglip_vision_model", "ijepa")
_CLASS_AND_DISTILLATION = ("deit",)


def layout_of(seen: Seen, module: nn.Module | None, model: nn.Module, found: Survey) -> Layout:
    """Layout of an output that `survey` has seen with a row per image; `module` made it, if one did."""
    shape = seen.shape
    assert shape is not None
    if len(shape) <= 1:
        return Layout("vector", shape or (1,))
    if len(shape) == 2:
        return _tokens(shape, seen, model, found)
    if len(shape) == 3:
        kind = _spatial(shape, module, model, found)
        why = "" if kind != "other" else f"which of the axes {_x(shape)} are positions is not known"
        return Layout(kind, shape, why=why)
    return Layout("other", shape, why=f"what the {len(shape)} axes {_x(shape)} mean is not known")


def declared_prefix(model: nn.Module) -> tuple[int, bool] | None:
    """(tokens before the patches, whether the first is a class token) as the model's own record says: timm's
    attributes, transformers' configuration; None where neither is there."""
    if is_transformers(model):
        config = vision_config(model)
        kind = getattr(config, "model_type", "")
        if kind in _WITH_REGISTERS:
            return 1 + int(config.num_register_tokens), True
        if kind in _CLASS_FIRST:
            return 1, True
        if kind in _CLASS_AND_DISTILLATION:
            return 2, True
        return (0, False) if kind in _NO_CLASS else None
    count = getattr(model, "num_prefix_tokens", None)
    if isinstance(count, int):
        return count, _has_class(model)
    return None


def _has_class(model: nn.Module) -> bool:
    known = getattr(model, "has_class_token", None)
    if known is not None:
        return bool(known)
    names = [name.split(".")[-1].lower() for name, _ in model.named_parameters()]
    return any(n.startswith(("cls_token", "class_token", "class_embed", "cls_embed")) for n in names)


def _tokens(shape: tuple[int, ...], seen: Seen, model: nn.Module, found: Survey) -> Layout:
    count, channels = shape
    if count == 1:
        return Layout("vector", (channels,))
    if shape not in found.channels_last and (channels == 1 or grid_of(channels, found.image)):
        why = f"which of the axes {_x(shape)} are channels is not known"
        return Layout("other", shape, why=why)
    declared = declared_prefix(model)
    prefix = _joined(count, seen, found, declared)
    if prefix is None:
        why = f"which of the {count} tokens are class or register tokens is not known"
        return Layout("other", shape, why=why)
    has_class = prefix > 0 and (declared[1] if declared is not None and declared[0] else _has_class(model))
    return Layout("tokens", shape, prefix, has_class)


def _joined(count: int, seen: Seen, found: Survey, declared: tuple[int, bool] | None) -> int | None:
    """Prefix tokens of a sequence of `count`: those seen to join, in accord with what the model declares."""
    before = found.joins[: seen.joins]
    last = next((join for join in reversed(before) if join.tokens == count), None)
    if last is not None:
        if last.prefix is None or declared is None or last.prefix in (0, declared[0]):
            return last.prefix
        return None
    ends = {join.tokens - join.prefix for join in before if join.prefix}
    if count in ends or (not before and _is_grid(count, found)):
        return 0
    if declared is not None and declared[0] and _is_grid(count - declared[0], found):
        return None if _is_grid(count, found) else declared[0]
    return 0 if _is_grid(count, found) and (declared is None or not declared[0]) else None


def _is_grid(positions: int, found: Survey) -> bool:
    grid = grid_of(positions, found.image)
    return grid is not None and (not found.maps or grid in _sizes(found))


def _sizes(found: Survey) -> set[tuple[int, int]]:
    """The sizes of maps in the pass, and their halvings."""
    sizes = set(found.maps)
    for height, width in found.maps:
        while max(height, width) > 1:
            height, width = -(-height // 2), -(-width // 2)
            sizes.add((height, width))
    return sizes


def _spatial(shape: tuple[int, ...], module: nn.Module | None, model: nn.Module, found: Survey) -> Kind:
    if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm | nn.AdaptiveAvgPool2d | nn.MaxPool2d):
        return "nchw"
    sizes = _sizes(found)
    known = [not found.maps or size in sizes for size in (shape[1:], shape[:2])]
    first = known[0] and same_ratio(shape[1], shape[2], found.image)
    last = known[1] and same_ratio(shape[0], shape[1], found.image)
    if first != last:
        return "nchw" if first else "nhwc"
    if not first:
        return "other"
    if isinstance(module, nn.LayerNorm | nn.Linear) and not type(module).__name__.endswith("2d"):
        return "nhwc"
    form: Any = getattr(model, "output_fmt", None)
    if form is None and type(model).__module__.startswith("timm."):
        form = "NCHW"
    forms: dict[str, Kind] = {"NHWC": "nhwc", "NCHW": "nchw"}
    return forms.get(str(getattr(form, "value", form)).upper(), "other")


def _x(shape: tuple[int, ...] | torch.Size) -> str:
    return "x".join(map(str, shape))
