"""Which library turns a file's bytes into a picture: Pillow, or torchcodec where its pixels are Pillow's.

Pillow reads every header, and says of what kind a picture is, how large, and whether it is a decompression
bomb. torchcodec takes the kinds whose pixels `tests/extract/datasets/test_decoder.py` finds equal. It turns
pictures by EXIF, rounds 16 bits and gives all frames: those stay Pillow's, as do files that do not end as
they should.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Any

from probecache.extract.datasets.decode import decode
from probecache.store.errors import InputError, first_line

DECODERS = ("pillow", "torchcodec")
# What torchcodec is asked for, by the format and the mode that Pillow reads in a file's header.
_SAME: dict[tuple[str | None, str], str] = {
    ("JPEG", "RGB"): "RGB",
    ("JPEG", "L"): "GRAY",
    ("PNG", "RGB"): "RGB",
    ("PNG", "RGBA"): "RGB",
    ("PNG", "L"): "GRAY",
    ("PNG", "LA"): "GRAY",
    ("WEBP", "RGB"): "RGB",
    ("WEBP", "RGBA"): "RGB",
}
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_EXIF = {"JPEG": b"Exif\0", "PNG": b"eXIf", "WEBP": b"EXIF"}
_ORIENTATION = 0x0112
_PNG_DEPTH = 24  # where its header says how many bits a sample has


@dataclass(frozen=True)
class Encoded:
    """A file that is not decoded yet: its bytes, or its path."""

    content: bytes | str

    def read(self) -> bytes:
        if isinstance(self.content, bytes):
            return self.content
        with open(self.content, "rb") as file:
            return file.read()


@dataclass
class Decoder:
    """`decoder(file)` is the PIL image of a file; whatever Pillow throws for one that cannot be read.

    `fallbacks` counts the files that Pillow decoded in this process although torchcodec was asked for.
    Raises InputError where `name` is unknown or its package is not there.
    """

    name: str = "pillow"
    fallbacks: int = 0

    def __post_init__(self) -> None:
        if self.name not in DECODERS:
            raise InputError(f"unknown --decoder {self.name!r}; allowed: {', '.join(DECODERS)}")
        if self.name == "torchcodec":
            require_torchcodec()

    def __call__(self, file: Encoded) -> Any:
        if self.name == "pillow":
            return decode(file.content)
        content = file.read()
        image = _by_torchcodec(content)
        if image is None:
            image = decode(file.content)
            self.fallbacks += 1
        return image


def require_torchcodec() -> None:
    """InputError where torchcodec is not installed, does not load, or has no decoders of images."""
    try:
        from torchcodec.decoders import decode_jpeg, decode_png, decode_webp  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        reason = first_line(error)
        raise InputError(
            f"--decoder torchcodec needs another package: {reason:.200}; pip install 'probecache[decoders]', "
            "or --decoder pillow"
        ) from error


def _by_torchcodec(content: bytes) -> Any:
    """The PIL image, 'RGB' or 'L', with the pixels that Pillow gives; None where it is Pillow's to decode."""
    from PIL import Image
    from torchcodec.decoders import decode_jpeg, decode_png, decode_webp

    decoders: dict[str, Any] = {"JPEG": decode_jpeg, "PNG": decode_png, "WEBP": decode_webp}
    try:
        with Image.open(BytesIO(content)) as image:
            mode = _SAME.get((image.format, image.mode))
            if mode is None or not _is_plain(image, content):
                return None
        pixels = decoders[str(image.format)](content, mode=mode)
    except Exception:  # what cannot be decoded so, Pillow may decode, or it says why not
        return None
    if pixels.shape[1:] != (image.height, image.width):
        return None
    return Image.fromarray((pixels[0] if mode == "GRAY" else pixels.permute(1, 2, 0)).numpy())


def _is_plain(image: Any, content: bytes) -> bool:
    """Whether an opened picture is whole, of 8 bits and one frame, opaque by its palette and not turned."""
    form = image.format
    if not content.endswith(_ENDS.get(form, b"")) or "transparency" in image.info:
        return False
    if form == "PNG" and content[_PNG_DEPTH] != 8:
        return False
    if getattr(image, "is_animated", False):
        return False
    if _EXIF[form] in content:
        return "exif" in image.info and image.getexif().get(_ORIENTATION, 1) == 1
    return True
