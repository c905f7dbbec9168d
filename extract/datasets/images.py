"""`Images`: a finite, ordered set of images, whatever they are read from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Images:
    """A finite, ordered set of images.

    `source[row]` reads one: (image, label), or the image alone. `names` (n,) identify the samples inside the
    data set; `labels` int64 (n,), or None where reading an image is what tells its label; `classes` are the
    names of the labels, () if the data set has none. `sequential`: rows can only be read by passing over
    those before them, so that one process has to read them all.
    """

    source: Any
    spec: str
    names: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    sequential: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int) -> tuple[Any, int]:
        """(image, label): the image a PIL image in RGB or a tensor, as the source gives it."""
        item = self.source[row]
        image, label = (item[0], item[1]) if isinstance(item, tuple | list) and len(item) > 1 else (item, -1)
        if isinstance(image, tuple | list):
            image = image[0]
        return image, -1 if label is None else int(label)

    def close(self) -> None:
        """Close what reading in this process has opened; reading again opens it again."""
        close = getattr(self.source, "close_files", None)
        if close is not None:
            close()

    def order(self) -> str:
        """sha256 of names and labels in their order: the identity of the rows."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()

    def fingerprint(self) -> dict[str, Any]:
        return {"dataset": self.spec, "samples": len(self), "order": self.order()}

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
