"""One label from whatever a data set gives: a class's number, its name, or nothing. Nothing is rounded."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from probecache.extract.datasets.inventory import natural_order, printable
from probecache.store.errors import InputError

UNLABELLED = -1
_SEVERAL = re.compile(r"[-+.\d]+([ ,;]+[-+.\d]+)+")
_WHOLE = re.compile(r"[+-]?[0-9]+")


def to_label(value: Any, where: str, classes: Sequence[str] = ()) -> int:
    """int64 position of a class; -1 where there is none (None, -1).

    Whole numbers of any type are taken, a name is looked up in `classes`. InputError, which begins with
    `where`, for all else: 3.7 is not 3.
    """
    if value is None:
        return UNLABELLED
    if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim < 2 and np.prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode(errors="surrogateescape")
    if isinstance(value, str):
        if value not in classes:
            raise InputError(f"{where} is the text {printable(value)!r:.80}: {_text_help(classes)}")
        return classes.index(value)
    if isinstance(value, bool | int) or (isinstance(value, float) and value.is_integer()):
        number = int(value)
    else:
        raise InputError(f"{where} is {_described(value)}")
    if not UNLABELLED <= number < (len(classes) or 2**31):
        known = f", and the data set names {len(classes)} of them" if classes else ""
        raise InputError(f"{where} is {number}: classes are numbered from 0{known}; -1 is without a label")
    return number


def to_labels(values: Any, where: str, classes: Sequence[str] = ()) -> np.ndarray:
    """int64 (n,) of a sequence, array or tensor, each by `to_label`; arrays of whole numbers at once."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    if isinstance(array, np.ndarray) and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if isinstance(array, np.ndarray) and array.ndim > 1:
        raise InputError(f"{where}: {_described(array[0]) if len(array) else array.shape}")
    if isinstance(array, list) and array and all(type(v) is int for v in array):
        array = np.asarray(array)
    if isinstance(array, np.ndarray) and array.dtype.kind in "bui":
        found = array.astype(np.int64)
        for bad in np.flatnonzero((found < UNLABELLED) | (found >= (len(classes) or 2**31)))[:1]:
            to_label(int(found[bad]), f"{where}, item {bad}: its label", classes)
        return found
    return np.array(
        [to_label(v, f"{where}, item {i}: its label", classes) for i, v in enumerate(array)], np.int64
    )


def labels_from_text(texts: Sequence[str | None], where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels written as text, all numbers or all names; names become classes in natural order.

    A text is None where a sample has no label. InputError for a mixture, and for numbers that are not whole.
    """
    given = [text for text in texts if text is not None]
    if given and all(_SEVERAL.fullmatch(text) for text in given):
        raise InputError(f"{where}: label {printable(given[0])!r:.80} is {_described(given[0].split())}")
    whole = [bool(_WHOLE.fullmatch(text)) for text in given]
    if all(whole):
        return to_labels([None if t is None else int(t) for t in texts], where), ()
    for text in given:
        if any(whole) or _is_number(text):
            other = next((t for t in given if not _WHOLE.fullmatch(t)), text)
            raise InputError(
                f"{where}: label {printable(other)!r:.80} is not a whole number, but others are numbers"
            )
    classes = sorted({printable(text) for text in given}, key=natural_order)
    position = {name: i for i, name in enumerate(classes)}
    found = [UNLABELLED if text is None else position[printable(text)] for text in texts]
    return np.array(found, np.int64), tuple(classes)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text_help(classes: Sequence[str]) -> str:
    if classes:
        return f"the data set's classes are {', '.join(map(repr, classes[:5]))}" + (
            ", ..." if classes[5:] else ""
        )
    return "give the data set an attribute `classes`, the list of their names in order, or numbers for labels"


def _described(value: Any) -> str:
    """What a label is that is no class, and what to do."""
    if isinstance(value, float):
        return (
            f"{value!r}, no whole number: store scores with `probecache target`, and give -1 or no label here"
        )
    sizes = value if isinstance(value, Tensor | np.ndarray | list | tuple) else None
    if sizes is not None and np.ndim(sizes) == 1:
        numbers = np.asarray(sizes)
        if numbers.dtype.kind in "buif" and np.isin(numbers, (0, 1)).all() and numbers.sum() == 1:
            return f"one-hot, {len(numbers)} numbers: give the class's number, its argmax"
        return (
            f"a list of {len(numbers)}: for several labels per image give -1 or no label here, and add them "
            "with `probecache target`"
        )
    return f"of type {type(value).__name__}: give a whole number, or the image alone"
