"""A few items of a torch Dataset, read beforehand: do they hold still, and what is their digest?"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from probecache.extract.datasets.inventory import Inventory
from probecache.extract.datasets.processes import start
from probecache.extract.datasets.read_errors import machines_fault
from probecache.store.errors import InputError

VARIES = "varies"
LOOK_ROWS = 32  # items that are read beforehand: their digest is the content's
TWICE = 8  # of which these are read again, after all of them


def look_at(source: Any, rows: Sequence[int], inventory: Inventory, in_process: bool) -> str:
    """The digest of these items, 'varies' where one that is read again gives another image.

    InputError for labels that are no class, and for one that is another when its item is read again. The
    items are read in this process, or in one of its own.
    """
    found, again = _read(source, rows, in_process)
    first = found[: len(again)]
    if [item.label for item in again] != [item.label for item in first]:
        raise InputError(
            f"{inventory.where}: an item read twice had two labels, so that its rows have no fixed order; "
            "give a data set that does not shuffle as it is read"
        )
    floats = [item for item in found if item.high >= item.low]
    if floats:
        note_range(min(item.low for item in floats), max(item.high for item in floats), inventory)
    if [item.image for item in again] != [item.image for item in first]:
        inventory.note("an item read twice gave two images (a random transform?): contents are not compared")
        return VARIES
    return _digest("".join(item.both for item in found).encode())


@dataclass(frozen=True)
class _Seen:
    """What an item gave: digests, and the range of a floating point image; or why it is refused."""

    image: str = ""
    both: str = ""  # of image and label together
    label: str = ""
    low: float = 0.0
    high: float = -1.0
    refused: str = ""


class _Look(Dataset[_Seen]):
    """What each item gives."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __getitem__(self, row: int) -> _Seen:
        try:
            return self._see(row)
        except InputError as error:
            return _Seen(refused=str(error))
        except Exception as error:  # a row that fails, and will fail when it is its turn
            failed = f"failed {type(error).__name__}"
            return _Seen(failed, failed, refused=machines_fault(error, row))

    def _see(self, row: int) -> _Seen:
        image, label = self.source[row]
        pil = hasattr(image, "convert")
        kind = (image.mode, image.getpalette() if image.mode == "P" else None) if pil else None
        array = image.detach().cpu() if isinstance(image, Tensor) else image
        if isinstance(array, Tensor) and array.dtype == torch.bfloat16:
            array = array.float()
        values = np.ascontiguousarray(array)
        low, high = (float(values.min()), float(values.max())) if values.dtype.kind == "f" else (0.0, -1.0)
        described = f"{kind} {values.dtype} {values.shape}"
        content = values.tobytes()
        image, both = (_digest(text.encode() + content) for text in (described, f"{described} {label}"))
        return _Seen(image, both, str(label), low, high)


def _read(source: Any, rows: Sequence[int], in_process: bool) -> tuple[list[_Seen], list[_Seen]]:
    """What some items give, and some of them when they are read again; InputError for one whose label is no
    class."""
    look = _Look(source)
    ahead = [*rows, *rows[:TWICE]]
    if in_process:
        found = [look[row] for row in ahead]
    else:
        collate: Callable[[list[_Seen]], list[_Seen]] = list
        loader = DataLoader(look, batch_sampler=[ahead], num_workers=1, collate_fn=collate)
        found = [item for batch in start(loader) for item in batch]
    for item in found:
        if item.refused:
            raise InputError(item.refused)
    return found[: len(rows)], found[len(rows) :]


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def note_range(low: float, high: float, inventory: Inventory) -> None:
    """Floating point images count as normalised; ones that do not look so are said."""
    if low >= 0 and high > 0:
        inventory.note(
            f"its floating point images, from {low:.3g} to {high:.3g}, are taken as normalised, and go to "
            "the model as they are: where they are not, give uint8, or end its transform in Normalize"
        )
