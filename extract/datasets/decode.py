"""Bytes to pictures, and any picture to the channels that a model takes: one way for all readers.

As timm has it: the first frame, no rotation by EXIF, transparency dropped. Other than Pillow's `convert`, 16
bits are scaled and not clipped: the high byte, which is what Pillow keeps of 16-bit colour.
"""

import io
import os
from typing import Any, BinaryIO

import numpy as np

MODES = {1: "L", 3: "RGB"}
# Pillow opens 16-bit grey of these formats as 32-bit integers.
_SIXTEEN_IN_INTEGERS = ("PNG", "PPM")


def decode(content: "bytes | str | os.PathLike[str] | BinaryIO") -> Any:
    """The decoded PIL image of a file's bytes, of a path or of a stream; else whatever the decoder throws."""
    from PIL import Image

    if content == b"":
        raise ValueError("the file is empty, or missing")
    stream = io.BytesIO(content) if isinstance(content, bytes) else content
    with Image.open(stream) as image:
        image.load()
        return image


def to_mode(image: Any, mode: str) -> Any:
    """A PIL image of any mode as 8-bit 'RGB' or 'L'; ValueError for values without a known range.

    Floating point in [0, 1] is scaled by 255, in [0, 255] taken as it is; 16-bit grey loses its low byte.
    """
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16"):
        image = _grey(np.asarray(image) >> 8)
    elif image.mode == "I" and image.format in _SIXTEEN_IN_INTEGERS:
        image = _grey(np.asarray(image).clip(0, 65535) >> 8)
    elif image.mode in ("I", "F"):
        image = _grey(_known_range(np.asarray(image), image.mode))
    elif image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA").convert("RGB")
    elif image.mode in ("La", "RGBa"):  # colours that were multiplied by their opacity
        image = image.convert(image.mode.upper())
    elif image.mode == "LAB":
        raise ValueError("a picture in LAB colours; convert it to RGB")
    return image.convert(mode)


def _known_range(values: np.ndarray, mode: str) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1 and mode == "F":
        return np.rint(values * 255)
    if low >= 0 and high <= 255:
        return np.rint(values)
    kind = "floating point" if mode == "F" else "32-bit integers"
    raise ValueError(
        f"a picture of {kind} from {low:g} to {high:g} has no known range; convert it to 8 or 16 bits"
    )


def _grey(values: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(values.astype(np.uint8))


def from_array(values: np.ndarray) -> Any:
    """A PIL image of integers (h, w), (c, h, w) or (h, w, c) with 1, 3 or 4 channels: uint8, or uint16 by its
    high byte. ValueError for other shapes, and for shapes that could be either."""
    from PIL import Image

    if values.dtype == np.uint16:
        values = (values >> 8).astype(np.uint8)
    if values.ndim == 3:
        first, last = values.shape[0] in (1, 3, 4), values.shape[2] in (1, 3, 4)
        if first == last:
            raise ValueError(f"an image of shape {values.shape}: give (channels, h, w) of 1, 3 or 4 channels")
        values = values.transpose(1, 2, 0) if first else values
        values = values[..., 0] if values.shape[2] == 1 else values
    if values.dtype != np.uint8 or values.ndim != 2 + (values.ndim == 3):
        raise ValueError(f"an image of {values.dtype} {values.shape}: give uint8 or uint16 (channels, h, w)")
    return Image.fromarray(np.ascontiguousarray(values))
