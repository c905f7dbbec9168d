"""`Images`: a finite, ordered set of images, whatever they are read from, and what identifies it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probecache.extract.datasets.decoder import Decoder, Encoded
from probecache.extract.datasets.inventory import Inventory

# A data set up to these is digested whole, a larger one in rows spread evenly over it.
ALL_ROWS, ALL_BYTES = 4096, 256 << 20
SOME_ROWS, SOME_BYTES = 1024, 4 << 20  # and at most so many bytes of a file


@dataclass(frozen=True)
class Images:
    """A finite, ordered set of images.

    `source[row]` reads one: the image, or its file not decoded yet, or a tuple that begins with one of them;
    (image, label) where `labels` is None. `names` (n,) identify the samples inside the data set; `labels`
    int64 (n,), -1 where a sample has none, or None where reading an image is what tells its label; `classes`
    are the names of the labels, () if the data set has none.
    `content` is a digest of what the images show (`digest_rows`), `inventory` what was found beside them,
    `decoder` decodes what the source has not. `sequential`: rows can only be read by passing over those
    before them, so that one process has to read them all.
    """

    source: Any
    spec: str
    names: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    content: str = ""
    inventory: Inventory = field(default_factory=lambda: Inventory("data"))
    sequential: bool = False
    decoder: Decoder = field(default_factory=Decoder, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int) -> tuple[Any, int]:
        """(image, label): a PIL image of any mode, a tensor or an array, as the source gives it."""
        item = self.source[row]
        image = item[0] if isinstance(item, tuple) else item
        label = item[1] if self.labels is None else int(self.labels[row])
        return self.decoder(image) if isinstance(image, Encoded) else image, label

    def order(self) -> str:
        """sha256 of names and labels in their order: the identity of the rows."""
        digest = hashlib.sha256("\0".join(self.names).encode())
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()

    def fingerprint(self) -> dict[str, Any]:
        return {
            "dataset": self.spec,
            "samples": len(self),
            "order": self.order(),
            "content": self.content,
        }

    def class_names(self) -> list[str]:
        """Names of the labels, numbers where the data set names none."""
        if self.classes or self.labels is None:
            return list(self.classes)
        return [str(i) for i in range(int(self.labels.max(initial=-1)) + 1)]


def names_by_label(classes: Mapping[str, int] | None) -> tuple[str, ...]:
    """Class names by label number; a number that no name has is named by itself.

    >>> names_by_label({"eel": 2, "cat": 0})
    ('cat', '1', 'eel')
    """
    if not classes:
        return ()
    named = {number: name for name, number in classes.items()}
    return tuple(str(named.get(i, i)) for i in range(max(named) + 1))


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` rows, evenly spread, the first and the last among them.

    >>> spread(9, 3), spread(2, 5)
    ([0, 4, 8], [0, 1])
    """
    return sorted({int(row) for row in np.linspace(0, count - 1, min(count, most)).round()})


def digest_rows(
    count: int, read: Callable[[int, int], bytes], size: Callable[[int], int] | None = None
) -> str:
    """32 hex digits over the bytes of all rows of a small data set, or of 1,024 rows of a larger one.

    read(row, most) gives the first `most` bytes of a row's file, and size(row) their number. All rows are
    read up to 4,096 of them with 256 MiB together (up to 1,024 where sizes are not known beforehand). What
    cannot be read is digested as such.
    """
    rows: Sequence[int] = range(count)
    if size is None or count > ALL_ROWS or sum(_size(size, row) for row in rows) > ALL_BYTES:
        rows = spread(count, SOME_ROWS)
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        try:
            content = read(row, SOME_BYTES)
            length = len(content) if size is None else size(row)
        except (OSError, ValueError):
            content, length = b"", -1
        digest.update(f"{row}:{length}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def _size(size: Callable[[int], int], row: int) -> int:
    try:
        return size(row)
    except OSError:
        return 0
