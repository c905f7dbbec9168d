"""Paired comparison of two probes, or of two sweeps', by what each predicts for the same test samples."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probecache.analyze.comparison.intervals import (
    bootstrap_means,
    effective_samples,
    holm,
    mcnemar,
    wilson,
)
from probecache.analyze.comparison.sides import (
    Results,
    Side,
    aligned,
    given_groups,
    group_numbers,
    paired,
    sides,
)
from probecache.store.errors import InputError

if TYPE_CHECKING:
    from probecache.analyze.probes.fitted import FittedProbe
    from probecache.store.reader import Store


def compare(
    a: "Results | FittedProbe | np.ndarray",
    b: "Results | FittedProbe | np.ndarray",
    truth: Any = None,
    *,
    groups: Any = None,
    store: "Store | str | tuple[Store | str, Store | str] | None" = None,
    split: str = "test",
    pairs: str | None = None,
    bootstrap: int = 5000,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """accuracy(a) - accuracy(b) on the same samples, with an interval and tests that are paired.

    Samples are matched by name; those that only one side has are left out and counted in the attribute
    `samples_left_out`.

    Parameters
    ----------
    a, b : Dataset or path, FittedProbe, or array (samples,)
        Two RESULTS of sweeps that kept predictions; two fitted probes, with `store`; or two arrays of
        predictions, with `truth`. Results are matched by the values of each coordinate; along one where the
        two have one value each they may differ, and that is what is compared: two layers, say, as
        results.sel(layer=["layer3"]) and results.sel(layer=["layer4"]). Each target that both hold is
        compared on its own samples; those that are not of classes are left out.
    truth : array (samples,) or None
        For arrays.
    groups : (samples,), {sample name: group}, str or None
        Which samples belong together (a subject, a video); whole groups are then resampled. A text names a
        target of `store`. None: those that the results keep (`sweep(groups=...)`), else each by itself.
    store : Store, path, two of them, or None
        For fitted probes, the store that they predict; two stores if their backbones differ.
    split : str
        Of `store`, "test" by default.
    pairs : str or None
        A dimension of results, "layer" say: each of its values in `a` against each later one in `b`, which
        may be the same results.
    bootstrap : int
        Resamples, 5000 by default.
    confidence : float
        Of the intervals.
    seed : int
        Of the resampling.

    Returns
    -------
    xarray.Dataset
        Over the coordinates that both have, without `seed`, over which accuracies are averaged: `accuracy_a`,
        `accuracy_b` with Wilson bounds `_low` and `_high`; `difference` with bounds (percentiles of the
        bootstrap over samples) and `p`, two-sided, of the same; `p_holm`, corrected for all comparisons in
        the Dataset. With `seed`: `only_a`, `only_b`, samples that only one got right, `p_mcnemar` (exact) and
        `p_mcnemar_holm`; it takes samples as independent, whatever their groups. `n_samples`, `n_groups`, of
        several targets one each. With `pairs` a dimension `pair`, "A - B". NaN where either was not measured.

    Raises
    ------
    InputError
        If nothing can be paired: no predictions, no sample or no coordinate in common, or other labels for
        the same samples.

    Examples
    --------
    >>> truth = np.arange(100) % 2
    >>> found = pc.compare(truth, np.zeros(100, int), truth)
    >>> float(found["difference"])
    0.5
    """
    if not 0 < confidence < 1 or bootstrap < 100:
        raise InputError(f"got confidence {confidence}, bootstrap {bootstrap}; allowed: (0, 1), 100 or more")
    how = (bootstrap, confidence, seed)
    if pairs is not None:
        parts = {
            name: compare(*two, groups=groups, **_how(*how)) for name, two in _pairs(a, b, pairs).items()
        }
        return _joined(list(parts.values()), "pair", list(parts))
    found, targets = [], []
    for left, right in sides(a, b, truth, store, split):
        given = given_groups(groups, left, store, split)
        rows, left_out = paired(left, right)
        left, right = left.take(rows[0]), right.take(rows[1])
        part = _compared(left, right, group_numbers(given, left, right), how)
        found.append(part.assign_attrs(samples_left_out=left_out))
        targets.append(str(left.right["target"].values.ravel()[0]) if "target" in left.right.coords else "")
    return found[0] if len(found) == 1 else _joined(found, "target", targets)


def _how(bootstrap: int, confidence: float, seed: int) -> dict[str, Any]:
    return {"bootstrap": bootstrap, "confidence": confidence, "seed": seed}


def _compared(left: Side, right: Side, groups: np.ndarray, how: tuple[int, float, int]) -> xr.Dataset:
    """Of two sides whose samples are paired, with their group numbers (samples,)."""
    first, second, contrast = aligned(left.right, right.right)
    for name in sorted(left.about.keys() & right.about.keys()):
        if left.about[name] != right.about[name]:
            contrast[name] = f"{left.about[name]} against {right.about[name]}"
    known = first.notnull() & second.notnull()
    first, second = first.where(known), second.where(known)
    out = _mcnemar(first, second)
    over = [d for d in ("seed",) if d in first.dims]
    out = out.merge(_bootstrap(first.mean(over), second.mean(over), groups, *how))
    out["n_samples"] = (), first.sizes["sample"]
    out["n_groups"] = (), len(np.unique(groups))
    return out.assign_attrs(contrast | _how(*how))


def _pairs(a: Any, b: Any, dim: str) -> dict[str, tuple[xr.Dataset, xr.Dataset]]:
    """Each value of `dim` in `a` with each that comes later in `b`, or is there alone."""
    from probecache.analyze.results.join import as_results

    if not all(isinstance(x, xr.Dataset | str | os.PathLike) for x in (a, b)):
        raise InputError(f"got pairs {dim!r} for {type(a).__name__}; give two RESULTS, which may be the same")
    one, other = as_results(a), as_results(b)
    if dim not in one.dims or dim not in other.dims or dim == "seed":
        known = [str(d) for d in one["accuracy" if "accuracy" in one else "predictions"].dims]
        raise InputError(
            f"got pairs {dim!r}; allowed: {', '.join(d for d in known if d not in ('seed', 'sample'))}"
        )
    mine, theirs = one[dim].values.tolist(), other[dim].values.tolist()
    found = {}
    for i, left in enumerate(mine):
        for j, right in enumerate(theirs):
            if right != left and not (right in mine[:i] and left in theirs):
                two = (one.isel({dim: [i]}), other.isel({dim: [j]}))
                found[f"{_text(left)} - {_text(right)}"] = two
    if not found:
        raise InputError(f"got one {dim} only, {_text(mine[0])!r}; pairs need two")
    return found


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _joined(parts: list[xr.Dataset], dim: str, names: list[str]) -> xr.Dataset:
    """Several comparisons along `dim`, their p corrected for all of them."""
    if len(parts) > 1:
        counts = ["n_samples", "n_groups"]
        wide = [
            part.expand_dims({dim: [name]})
            if dim not in part.dims
            else part.assign({c: part[c].expand_dims({dim: [name]}) for c in counts})
            for part, name in zip(parts, names, strict=True)
        ]
        joined = xr.concat(wide, dim, data_vars="all", join="outer", combine_attrs="drop_conflicts")
    else:
        joined = parts[0].expand_dims({dim: names})
    for name in ("p", "p_mcnemar"):
        joined[f"{name}_holm"] = joined[name].copy(data=holm(joined[name].values))
    left_out = sum(part.attrs["samples_left_out"] for part in parts)
    return joined.assign_attrs(samples_left_out=left_out)


def _mcnemar(first: xr.DataArray, second: xr.DataArray) -> xr.Dataset:
    known = first.notnull().any("sample")
    only_a, only_b = ((x > y).sum("sample") for x, y in ((first, second), (second, first)))
    p = only_a.copy(data=mcnemar(only_a.values, only_b.values)).where(known)
    return xr.Dataset(
        {
            "only_a": only_a.where(known).assign_attrs(long_name="samples that only a got right"),
            "only_b": only_b.where(known).assign_attrs(long_name="samples that only b got right"),
            "p_mcnemar": p,
            "p_mcnemar_holm": p.copy(data=holm(p.values)),
        }
    )


def _bootstrap(
    first: xr.DataArray,
    second: xr.DataArray,
    groups: np.ndarray,
    draws: int,
    confidence: float,
    seed: int,
) -> xr.Dataset:
    """Accuracies, their difference and its p, over the dimensions but `sample`."""
    dims = [str(d) for d in first.dims if d != "sample"]
    shape = tuple(first.sizes[d] for d in dims)
    tables = [x.transpose("sample", *dims).values.reshape(len(groups), -1) for x in (first, second)]
    sizes = np.bincount(groups).astype(np.float64)
    sums = []
    for table in tables:
        total = np.zeros((len(sizes), table.shape[1]))
        np.add.at(total, groups, table)
        sums.append(total)
    found: dict[str, np.ndarray] = {}
    n = sizes.sum()
    for name, total in zip(("accuracy_a", "accuracy_b"), sums, strict=True):
        found[name] = total.sum(axis=0) / n
        bounds = wilson(found[name], effective_samples(total, sizes), confidence)
        found |= dict(zip((f"{name}_low", f"{name}_high"), bounds, strict=True))
    found["difference"] = found["accuracy_a"] - found["accuracy_b"]
    measured = np.isfinite(found["difference"])
    drawn = np.full((draws, len(measured)), np.nan)
    if measured.any():
        gap = (sums[0] - sums[1])[:, measured]
        drawn[:, measured] = bootstrap_means(gap, sizes, draws, seed)
    tail = (1 - confidence) / 2
    found["difference_low"], found["difference_high"] = np.quantile(drawn, [tail, 1 - tail], axis=0)
    # around no difference, the draws are as far from zero as these are from the difference itself
    beyond = np.abs(drawn - found["difference"]) >= np.abs(found["difference"]) - 1e-12
    found["p"] = np.where(measured, (1 + beyond.sum(axis=0)) / (1 + draws), np.nan)
    found["p_holm"] = holm(found["p"])
    coords = {d: first[d] for d in dims if d in first.coords}
    return xr.Dataset({name: (dims, values.reshape(shape)) for name, values in found.items()}, coords)
