"""Preprocessing as timm's model config says, each part overridable: the geometry in worker processes, the
normalisation on the device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probecache.extract.backbone.from_transformers import (
    Processor,
    normalisation,
    processed_size,
    processor_settings,
)
from probecache.store.errors import InputError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")


@dataclass(frozen=True)
class Preprocess:
    """timm's evaluation transform: resize to input_size / crop_pct, crop, then (x / 255 - mean) / std.

    input_size is (channels, height, width). Where there is a `processor` (settings of one of
    transformers'), that one resizes and crops.
    """

    input_size: tuple[int, int, int]
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    processor: Mapping[str, Any] | None = None

    @property
    def image(self) -> tuple[int, int]:
        return self.input_size[1], self.input_size[2]

    def fingerprint(self) -> dict[str, Any]:
        found = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return {name: value for name, value in found.items() if value is not None}

    def transform(self) -> Callable[[Any], Tensor]:
        """PIL image -> uint8 tensor (channels, height, width), without the normalisation."""
        if self.processor is not None:
            return Processor(self.processor)
        from timm.data import create_transform

        geometry = create_transform(
            input_size=self.input_size,
            is_training=False,
            use_prefetcher=True,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
        )
        return _ToUint8(geometry)


@dataclass(frozen=True)
class _ToUint8:
    """A transform that gives a tensor whatever timm's version gives; picklable, for spawned processes."""

    geometry: Callable[[Any], Any]

    def __call__(self, image: Any) -> Tensor:
        out = self.geometry(image)
        return out if isinstance(out, Tensor) else torch.from_numpy(np.ascontiguousarray(out))


@dataclass(frozen=True)
class Overrides:
    """What the caller wants of preprocessing in place of what the model's configuration says; None: that."""

    img_size: int | None = None
    in_chans: int | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for option, value in (("img-size", self.img_size), ("in-chans", self.in_chans)):
            if value is not None and value < 1:
                raise InputError(f"--{option} must be at least 1, got {value}")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 4:
            raise InputError(f"--crop-pct must lie in (0, 4], got {self.crop_pct}")
        for option, word, allowed in (
            ("--interpolation", self.interpolation, INTERPOLATIONS),
            ("--crop-mode", self.crop_mode, CROP_MODES),
        ):
            if word is not None and word not in allowed:
                raise InputError(f"unknown {option} {word!r}; allowed: {', '.join(allowed)}")
        if self.std is not None and not all(v > 0 for v in self.std):
            raise InputError(f"--std must be positive, got {list(self.std)}")


def resolve_preprocess(
    model: nn.Module, overrides: Overrides = Overrides(), processor: Mapping[str, Any] | None = None
) -> Preprocess:
    """timm's `resolve_model_data_config(model)`, or what a transformers model's `processor` does, with
    `overrides` in its place.

    For a model of one channel the mean over the model's three channels is that of its grey images; for any
    other number than three, mean and std have to be given.
    """
    from timm.data import resolve_model_data_config

    said = getattr(model, "pretrained_cfg", {}) or {}
    channels = overrides.in_chans or _channels(model, said)
    for name, values in (("mean", overrides.mean), ("std", overrides.std)):
        if values is not None and len(values) not in (1, channels):
            raise InputError(f"--{name} takes one number or one per channel ({channels}), got {list(values)}")
    if processor is not None:
        return _as_processor(processor, overrides, channels)
    mean, std = _mean_and_std(overrides, said, channels)
    asked = {
        "input_size": (channels, *_height_and_width(model, said, overrides.img_size)),
        "crop_pct": overrides.crop_pct,
        "crop_mode": overrides.crop_mode,
        "interpolation": overrides.interpolation,
        "mean": mean,
        "std": std,
    }
    config = resolve_model_data_config(model, args={k: v for k, v in asked.items() if v is not None})
    return Preprocess(
        input_size=tuple(config["input_size"]),
        interpolation=config["interpolation"],
        crop_pct=float(config["crop_pct"]),
        crop_mode=config["crop_mode"],
        mean=tuple(float(v) for v in config["mean"]),
        std=tuple(float(v) for v in config["std"]),
    )


def unsaid(preprocess: Preprocess, model: nn.Module, overrides: Overrides) -> str:
    """What neither the model's configuration nor the caller said; '' where all is."""
    if preprocess.processor is not None or getattr(model, "pretrained_cfg", None):
        return ""
    guessed = []
    if overrides.img_size is None and getattr(model, "config", None) is None:
        guessed.append(f"made {preprocess.input_size[1]} x {preprocess.input_size[2]}")
    if overrides.mean is None or overrides.std is None:
        guessed.append("normalised as ImageNet's are")
    asked = "img_size, mean and std (--img-size, --mean, --std)"
    return f"pixels are {' and '.join(guessed)}, since the model does not say; {asked} do" if guessed else ""


def _mean_and_std(
    overrides: Overrides, said: Mapping[str, Any], channels: int
) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Of the caller, or of grey images as the model's configuration has those of three channels; None: timm's
    own choice, which is for three channels."""
    mean, std = overrides.mean, overrides.std
    if channels == 3:
        return mean, std
    if channels == 1:
        mean, std = mean or _average(said.get("mean")), std or _average(said.get("std"))
    if mean is None or std is None:
        raise InputError(f"a model of {channels} channels: give --mean and --std, one number or {channels}")
    return mean, std


def _average(values: Sequence[float] | None) -> list[float] | None:
    return [sum(values) / len(values)] if values else None


def _height_and_width(model: nn.Module, said: Mapping[str, Any], img_size: int | None) -> Sequence[int]:
    """What the caller asks for, else what the model was built for."""
    if img_size is not None:
        return img_size, img_size
    built, config = getattr(getattr(model, "patch_embed", None), "img_size", None), said.get("input_size")
    # A ViT built for another size (--model-kwargs img_size=...) takes images of that size.
    if built and config and said.get("fixed_input_size"):
        return tuple(built)
    return tuple(config[1:]) if config else _configured_size(model)


def _channels(model: nn.Module, said: Mapping[str, Any]) -> int:
    """What the model was built for: as its configuration says, else three."""
    configured = getattr(getattr(model, "config", None), "num_channels", None)
    return int(configured or (said.get("input_size") or (3,))[0])


def _configured_size(model: nn.Module) -> tuple[int, int]:
    """(height, width) in a transformers configuration, else 224 x 224, which is timm's default."""
    config = getattr(model, "config", None)
    side = getattr(getattr(config, "vision_config", None) or config, "image_size", None) or 224
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return int(height), int(width)


def _as_processor(processor: Mapping[str, Any], overrides: Overrides, channels: int) -> Preprocess:
    for name in ("crop_pct", "crop_mode", "interpolation"):
        if getattr(overrides, name) is not None:
            option = name.replace("_", "-")
            raise InputError(f"--{option} is for timm's transform; a transformers model's processor decides")
    settings = processor_settings(processor, overrides.img_size)
    mean, std = normalisation(settings)
    size = processed_size(settings, channels)
    return Preprocess(
        input_size=size,
        interpolation="processor",
        crop_pct=1.0,
        crop_mode="processor",
        mean=_per_channel(overrides.mean or mean, size[0]),
        std=_per_channel(overrides.std or std, size[0]),
        processor=settings,
    )


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    return tuple(map(float, values)) if len(values) == channels else (float(values[0]),) * channels
