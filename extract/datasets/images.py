"""`Images`: a finite, ordered set of images, whatever they are read from, and what identifies it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from probecache.extract.datasets.decoder import Decoder, Encoded
from probecache.extract.datasets.inventory import Inventory
from probecache.store.errors import InputError

Result = TypeVar("Result")
ALL = "all:"  # what the digest of every byte begins with
# A data set up to these is digested whole.
ALL_ROWS, ALL_BYTES = 200_000, 1 << 30
SOME_ROWS, SOME_BYTES = 1024, 4 << 20  # of a larger one, these rows and at most so many bytes of each
# As it was for splits that hold a digest without a word in front.
_OLD_ROWS, _OLD_BYTES = 4096, 256 << 20
_READERS, _RUN = 8, 256  # threads that read for the digest, and rows that one takes at a time


@dataclass(frozen=True)
class Images:
    """A finite, ordered set of images.

    `source[row]` reads one: the image, or its file not decoded yet, or a tuple that begins with one of them;
    (image, label) where `labels` is None. `names` (n,) identify the samples inside the data set; `labels`
    int64 (n,), -1 where a sample has none, or None where reading an image is what tells its label; `classes`
    are the names of the labels, () if the data set has none.
    `content` is a digest of what the images show (`digest_content`), `inventory` what was found beside them,
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


def digest_content(
    count: int,
    read: Callable[[int], bytes],
    size: Callable[[int], int] | None = None,
    *,
    how: str = "auto",
    total: int | None = None,
) -> str:
    """A digest of the bytes of all rows, or of the sizes of all and the bytes of some.

    read(row) gives the bytes of a row's file; size(row) their number, where it is cheap to know; `total`
    that of all rows, where `size` is not given. What cannot be read is digested as such.

    how  'auto': every byte up to 200,000 rows and 1 GiB; beyond that the sizes of all rows, where they are
         known, and the bytes of 1,024 rows spread evenly
         'all': every byte. 'some': as it was before there were these words (`_OLD_ROWS`)
    """
    if how == "some":
        return _digest_some(count, read, size, _OLD_ROWS, _OLD_BYTES)
    lengths: list[int] = []
    if size is not None and count <= ALL_ROWS:
        lengths = _each(lambda row: _size(size, row), count)
        total = sum(lengths)
    if how == "all" or (total is not None and count <= ALL_ROWS and total <= ALL_BYTES):
        threads = 1 if size is None else _READERS  # what is no file may not like several readers
        digests = _each(lambda row: _digest(read, row), count, threads)
        return ALL + hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()
    some = _digest_some(count, read, size, 0, 0)
    sizes = hashlib.blake2b(repr(lengths).encode(), digest_size=8).hexdigest() if lengths else ""
    return f"some:{some}{sizes}"


def content_asked(asked: str, stored: object) -> str:
    """How to digest the images of a split that holds the digest `stored` already (None: it holds none): as it
    was done, so that the two can be compared. InputError where 'all' is asked for too late."""
    if asked == "all" and isinstance(stored, str) and stored and not stored.startswith(ALL):
        raise InputError(
            "--content all: the split was begun with a digest of less than every byte; leave it out, or use "
            "another store"
        )
    if not isinstance(stored, str) or not stored:
        return asked
    if stored.startswith(ALL):
        return "all"
    return "auto" if stored.startswith("some:") else "some"


def _each(function: Callable[[int], Result], count: int, threads: int = _READERS) -> list[Result]:
    """`function` of each row in order, by several threads: disks and networks answer many at once."""
    runs = [range(start, min(start + _RUN, count)) for start in range(0, count, _RUN)]
    with ThreadPoolExecutor(threads) as pool:
        return [made for run in pool.map(lambda rows: [function(row) for row in rows], runs) for made in run]


def _digest(read: Callable[[int], bytes], row: int) -> bytes:
    try:
        return hashlib.blake2b(read(row), digest_size=16).digest()
    except (OSError, ValueError):
        return b"cannot be read: "


def _digest_some(
    count: int,
    read: Callable[[int], bytes],
    size: Callable[[int], int] | None,
    all_rows: int,
    all_bytes: int,
) -> str:
    """Over up to 4 MiB of each of 1,024 rows; of all up to these numbers of rows and bytes."""
    rows: Sequence[int] = range(count)
    if size is None or count > all_rows or sum(_size(size, row) for row in rows) > all_bytes:
        rows = spread(count, SOME_ROWS)
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        try:
            content = read(row)[:SOME_BYTES]
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
