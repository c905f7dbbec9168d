"""What `probecache compare` chooses, prints and writes."""

import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from probecache.analyze.comparison.compare import compare
from probecache.analyze.out_file import require_new_table, write_table
from probecache.analyze.results.join import open_results
from probecache.analyze.results.saved import save_dataset
from probecache.store.errors import InputError, close_names
from probecache.store.storage.safe_read import require_readable


def compare_results(
    a: str,
    b: str,
    chosen: Mapping[str, str | None],
    *,
    pairs: str | None = None,
    groups: Path | None = None,
    bootstrap: int = 5000,
    out: Path | None = None,
) -> None:
    """Compare two RESULTS, print a line per coordinate, and write all of it where `out` says.

    chosen: per dimension a value of both, or "A,B", one of each; None: whatever both have.
    """
    table = out is not None and out.suffix in (".csv", ".parquet")
    if out is not None and table:
        require_new_table(out)
    elif out is not None and out.exists():
        raise InputError(f"{out} exists already: name another --out, or remove it")
    sides = [open_results(Path(a)), open_results(Path(b))]
    for dim, text in chosen.items():
        if text is not None:
            sides = [_select(side, dim, text, i) for i, side in enumerate(sides)]
    if Path(a).resolve() == Path(b).resolve() and pairs is None and _same(*sides):
        print(
            f"probecache: {a} is given twice, and nothing in which the two sides differ: --layer A,B or "
            "--pairs layer compares what is in it",
            file=sys.stderr,
        )
    given = None if groups is None else _groups(groups)
    found = compare(*sides, pairs=pairs, groups=given, bootstrap=bootstrap)
    tell_comparison(found)
    if out is not None:
        if table:
            write_table(found.to_dataframe().reset_index(), out)
        else:
            save_dataset(found, out)
        print(f"written: {out}")


def _same(one: xr.Dataset, other: xr.Dataset) -> bool:
    """Whether both have the same coordinates, and so the same probes."""
    return all(one[dim].equals(other[dim]) for dim in one.dims if dim in one.coords)


def _select(results: xr.Dataset, dim: str, text: str, side: int) -> xr.Dataset:
    """`results` at the side's value of "A,B" or of "A"; names may hold a comma themselves."""
    values = [str(v) for v in results[dim].values]
    parts = [part.strip() for part in text.split(",")]
    wanted = text if text in values or len(parts) != 2 else parts[side]
    for i, value in enumerate(results[dim].values):
        same = _number(wanted) == value if values and np.asarray(value).dtype.kind == "f" else False
        if same or str(value) == wanted:
            return results.isel({dim: [i]})
    if hits := [i for i, value in enumerate(values) if fnmatchcase(value, wanted)]:  # a glob
        return results.isel({dim: hits})
    raise InputError(f"got --{dim} {wanted!r}; {close_names(wanted, values)}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _groups(path: Path) -> dict[str, str]:
    require_readable(path, "--groups")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"got --groups {path}, which cannot be read: {' '.join(str(error).split())}"
        ) from None
    if not {"sample", "group"} <= set(table.columns):
        raise InputError(
            f"got --groups {path} with columns {', '.join(table.columns)}; needed: sample and group"
        )
    doubled = table["sample"][table["sample"].duplicated()]
    if len(doubled):
        raise InputError(f"got --groups {path} with sample {doubled.iloc[0]!r} twice; give one group each")
    return dict(zip(table["sample"], table["group"], strict=True))


def _span(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def tell_comparison(found: xr.Dataset) -> None:
    """What differs, then a line per coordinate: both accuracies, their difference, its interval and p."""
    known = ("samples_left_out", "confidence", "bootstrap", "seed")
    for name, text in found.attrs.items():
        if name not in known:
            print(f"{name}: {text}")
    left = found.attrs["samples_left_out"]
    n, g = (_span(found[name].values) for name in ("n_samples", "n_groups"))
    print(
        f"{n} test samples"
        + (f" in {g} groups" if g != n else "")
        + (f", {left:,} that only one has left out" if left else "")
    )
    print(f"{'a':>7} {'b':>7} {'a - b':>8}  {'95% interval':19} {'p':>7} {'Holm':>7}")
    dims = list(found["difference"].dims)
    cells = found.stack(cell=dims)["cell"].values if dims else [()]
    for cell in cells:
        at = found.sel(dict(zip(dims, cell, strict=True)))
        if np.isnan(at["difference"]):
            continue
        values = {name: float(at[name]) for name in found.data_vars if not at[name].dims}
        name = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in cell)
        interval = f"{values['difference_low']:+.4f} to {values['difference_high']:+.4f}"
        print(
            f"{values['accuracy_a']:7.4f} {values['accuracy_b']:7.4f} {values['difference']:+8.4f}  "
            f"{interval:19} {values['p']:7.4f} {values['p_holm']:7.4f}  {name}"
        )
