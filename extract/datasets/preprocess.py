"""Preprocessing as timm's model config says, each part overridable: the geometry in worker processes, the
normalisation on the device."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probecache.store.errors import InputError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True)
class Preprocess:
    """timm's evaluation transform: resize to input_size / crop_pct, crop, then (x / 255 - mean) / std.

    input_size is (channels, height, width).
    """

    input_size: tuple[int, int, int]
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image(self) -> tuple[int, int]:
        return self.input_size[1], self.input_size[2]

    def fingerprint(self) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def transform(self) -> Callable[[Any], Tensor]:
        """PIL image -> uint8 tensor (channels, height, width), without the normalisation."""
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


def resolve_preprocess(
    model: nn.Module,
    *,
    img_size: int | None = None,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    interpolation: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Preprocess:
    """timm's `resolve_model_data_config(model)` with what is given here in its place."""
    from timm.data import resolve_model_data_config

    if img_size is not None and img_size < 1:
        raise InputError(f"--img-size must be at least 1, got {img_size}")
    if crop_pct is not None and not 0 < crop_pct <= 4:
        raise InputError(f"--crop-pct must lie in (0, 4], got {crop_pct}")
    if interpolation is not None and interpolation not in INTERPOLATIONS:
        raise InputError(f"unknown interpolation {interpolation!r}; allowed: {', '.join(INTERPOLATIONS)}")
    if crop_mode is not None and crop_mode not in ("center", "squash", "border"):
        raise InputError(f"unknown crop mode {crop_mode!r}; allowed: center, squash, border")
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (1, 3):
            raise InputError(f"--{name} takes one number or one per channel, got {list(values)}")
    if std is not None and not all(v > 0 for v in std):
        raise InputError(f"--std must be positive, got {list(std)}")
    size = getattr(model, "pretrained_cfg", {}) or {}
    if img_size is not None:
        channels = (size.get("input_size") or (3,))[0]
        given: dict[str, Any] = {"input_size": (channels, img_size, img_size)}
    else:
        built = getattr(getattr(model, "patch_embed", None), "img_size", None)
        config = size.get("input_size")
        # A ViT built for another size (--model-kwargs img_size=...) takes images of that size.
        given = (
            {"input_size": (config[0], *built)} if built and config and size.get("fixed_input_size") else {}
        )
    given |= {
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
        "mean": mean,
        "std": std,
    }
    config = resolve_model_data_config(model, args={k: v for k, v in given.items() if v is not None})
    return Preprocess(
        input_size=tuple(config["input_size"]),
        interpolation=config["interpolation"],
        crop_pct=float(config["crop_pct"]),
        crop_mode=config["crop_mode"],
        mean=tuple(float(v) for v in config["mean"]),
        std=tuple(float(v) for v in config["std"]),
    )
