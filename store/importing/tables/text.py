"""Text of a file in the encoding that it says or is told to have; never a replacement character."""

import codecs
from pathlib import Path

from probecache.store.errors import InputError
from probecache.store.storage.safe_read import OddFile, read_bounded

_MOST = 1 << 30  # it is held as a whole
# The longer mark first: UTF-32's begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path, encoding: str | None = None) -> str:
    """The text of a file: UTF-8, what its byte order mark says, or `encoding`. InputError where it is not."""
    try:
        raw = read_bounded(path, _MOST)
    except OddFile as error:
        raise InputError(f"{str(path)!r} {error}: name a text file") from None
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    marked = next((name for mark, name in _MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding or marked)
    except LookupError:
        raise InputError(f"no encoding {encoding!r:.40}: use a name such as utf-8, latin-1, cp1252") from None
    except UnicodeDecodeError as error:
        found = (
            f"byte {raw[error.start]:#04x} at {error.start}" if error.start < len(raw) else "it ends early"
        )
        raise InputError(
            f"{str(path)!r} is not {error.encoding} text ({found}): save it as UTF-8, or name what it is in "
            "(--encoding latin-1)"
        ) from None
    if "\0" in text:
        raise InputError(
            f"{str(path)!r} holds zero bytes: it is no text, or UTF-16 without a byte order mark"
        )
    return text


def read_lines(path: Path, encoding: str | None = None) -> list[str]:
    r"""Lines that end in \n, \r\n or \r and nothing else (a form feed or U+2028 belongs to its line)."""
    lines = read_text(path, encoding).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
