"""CSV and TSV: a header, then rows of as many fields; a column's cells are whole numbers, numbers or text."""

import contextlib
import csv
import io
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError
from probecache.store.importing.tables.text import read_text

Array = np.ndarray[Any, Any]
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")  # 007 and 1_000 are text
_NUMBER = re.compile(
    r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|NaN|inf|Infinity)"
)
_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_ABSENT = {"NA", "N/A", "n/a", "na", "null", "NULL", "None", "none", "NaN", "nan", "?", "-"}


def read_csv(path: Path, encoding: str | None = None) -> dict[str, Array]:
    """Columns of a CSV (fields divided by commas, semicolons, tabs or bars), typed by all of their cells.

    An empty cell is missing. InputError for rows of other lengths, and for what could be read in two ways:
    "NA" among numbers.
    """
    text = read_text(path, encoding)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=_divider(text), strict=True))
    except csv.Error as error:
        raise InputError(f"{str(path)!r} is no CSV: {error}") from None
    rows = [row for row in rows if row]  # blank lines
    if len(rows) < 2:
        raise InputError(f"{str(path)!r} has {len(rows)} rows: needed are a header and at least one more")
    names = rows[0]
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise InputError(
                f"{str(path)!r}: row {i} has {len(row)} fields ({row[0]!r:.40}...), its header {len(names)}"
            )
    columns = zip(names, zip(*rows[1:], strict=True), strict=True)
    return dict_of(
        names, (typed(list(cells), f"{str(path)!r}, column {name!r:.60}") for name, cells in columns), path
    )


def _divider(text: str) -> str:
    """The first of comma, semicolon, tab and bar that cuts the first two rows into equally many fields."""
    for divider in (",", ";", "\t", "|"):
        with contextlib.suppress(csv.Error):
            rows = csv.reader(io.StringIO(text[: 1 << 20], newline=""), delimiter=divider)
            widths = [len(row) for row in islice((row for row in rows if row), 2)]
            if widths[:1] > [1] and len(set(widths)) == 1:
                return divider
    return ","


def dict_of(names: Any, columns: Any, path: Path) -> dict[str, Any]:
    """Columns by name; InputError where two share one."""
    out: dict[str, Any] = {}
    for name, column in zip(names, columns, strict=True):
        if name in out:
            raise InputError(f"{str(path)!r} has two columns {name!r:.60}: rename one")
        out[name] = column
    return out


def typed(cells: list[str], where: str) -> Array:
    """Texts as whole numbers (objects, None for missing), numbers (float64, NaN) or texts (objects, None)."""
    kinds = set(cells) - {""}
    whole = all(_WHOLE.fullmatch(c) for c in kinds)
    if kinds and whole:
        known: dict[str, Any] = {c: int(c) for c in kinds} | {"": None}
        return np.array([known[c] for c in cells], object)
    strange = {c for c in kinds if not _NUMBER.fullmatch(c)}
    if any("," in c for c in strange) and all(_COMMA.fullmatch(c) or c not in strange for c in kinds):
        raise InputError(
            f"{where}: {sorted(strange)[0]!r} has a comma: write numbers with a point, classes with a letter"
        )
    if not strange:
        known = {c: float(c) for c in kinds} | {"": np.nan}
        return np.array([known[c] for c in cells], np.float64)
    if len(strange) < len(kinds) and strange <= _ABSENT:
        raise InputError(
            f"{where}: {sorted(strange)[0]!r} among numbers: leave missing cells empty (or, if it is a "
            "class, write all classes as text)"
        )
    return np.array([c or None for c in cells], object)
