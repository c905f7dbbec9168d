"""Two things that are compared, as what each got right for the same test samples: matched, or refused."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probecache.store.errors import InputError

if TYPE_CHECKING:
    from probecache.analyze.probes.fitted import FittedProbe
    from probecache.store.reader import Store

Results = xr.Dataset | str | os.PathLike[str]
GROUP = "group"  # the coordinate of results that says what test samples belong together


@dataclass(frozen=True)
class Side:
    """What one of the two got right, (..., sample): 1 or 0, NaN where a probe was not measured.

    truth: (sample,), what is right, as text; samples: their names, or None where they have none.
    about: what made it, to be told where the two differ. groups: (sample,), what each sample belongs to,
    where results keep it.
    """

    right: xr.DataArray
    truth: np.ndarray
    samples: np.ndarray | None
    about: Mapping[str, str] = field(default_factory=dict)
    groups: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Side":
        samples, groups = (None if v is None else v[rows] for v in (self.samples, self.groups))
        right = self.right.isel(sample=rows)
        return replace(self, right=right, truth=self.truth[rows], samples=samples, groups=groups)


def sides(a: Any, b: Any, truth: Any, store: Any, split: str) -> list[tuple[Side, Side]]:
    """The two that are compared, of each target that results hold."""
    from probecache.analyze.probes.fitted import FittedProbe

    probes = [isinstance(x, FittedProbe) for x in (a, b)]
    if any(probes):
        if not all(probes) or store is None:
            raise InputError("got a fitted probe; give two, and the store that they predict")
        of = (store, store) if not isinstance(store, tuple) else store
        return [(_of_probe(a, of[0], split), _of_probe(b, of[1], split))]
    results = [isinstance(x, xr.Dataset | str | os.PathLike) for x in (a, b)]
    if any(results):
        if not all(results):
            raise InputError("got results beside something else; give two RESULTS, probes or arrays")
        return _of_targets(a, b)
    if truth is None:
        raise InputError(
            f"got {type(a).__name__} and {type(b).__name__}; give two RESULTS, two fitted probes and "
            "a store, or two arrays of predictions and their truth"
        )
    known = np.asarray(truth)
    arrays = [np.asarray(x) for x in (a, b)]
    for x in arrays:
        if x.ndim != 1 or x.shape != known.shape or not len(x):
            raise InputError(
                f"got predictions {x.shape} and truth {known.shape}; needed: (samples,) both, not empty"
            )
    first, second = (
        Side(xr.DataArray((x == known).astype(np.float64), dims="sample"), texts_of(known), None)
        for x in arrays
    )
    return [(first, second)]


def _of_probe(probe: "FittedProbe", store: "Store | str", split: str) -> Side:
    from probecache.analyze.probes.deploy import predict_split

    if probe.kind != "classes":
        raise InputError(f"got a probe of {probe.kind}; predictions of classes can be compared")
    table = predict_split(probe, store, split)
    if "label" not in table or not (table["label"] != "").any():
        raise InputError(
            f"got split {split!r} without class names for its labels; nothing says what is right"
        )
    table = table[table["label"] != ""]
    truth, samples = texts_of(table["label"]), texts_of(table["sample"])
    right = (texts_of(table["predicted"]) == truth).astype(np.float64)
    names = ("layer", "probe", "selection", "fraction", "shots", "seed", "l2", "target", "store")
    about = {name: probe.provenance[name] for name in names if name in probe.provenance}
    return Side(xr.DataArray(right, dims="sample"), truth, samples, about)


def _of_targets(a: Results, b: Results) -> list[tuple[Side, Side]]:
    """Both sides of each target that both hold and that is of classes; of the two where each holds one."""
    both = [_opened(a), _opened(b)]
    held = [[str(v) for v in one["target"].values] if "target" in one.dims else [] for one in both]
    if not all(held) or [len(names) for names in held] == [1, 1]:
        for one in both:
            if not (one["truth"] >= 0).any():
                raise InputError(
                    f"got target {', '.join(texts_of(np.ravel(one['target'].values)))}, which is not of "
                    "classes; only predictions of classes can be compared"
                )
        return [(_of_results(both[0]), _of_results(both[1]))]
    common = [name for name in held[0] if name in held[1]]
    if not common:
        raise InputError(
            f"got no target that both have ({', '.join(held[0])} and {', '.join(held[1])}); choose one of "
            "each, results.sel(target=[...])"
        )
    places = [(held[0].index(name), held[1].index(name)) for name in common]
    found = [
        (_of_results(both[0].isel(target=[i])), _of_results(both[1].isel(target=[j]))) for i, j in places
    ]
    of_classes = [(left, right) for left, right in found if len(left.truth) and len(right.truth)]
    if not of_classes:
        raise InputError(
            f"got target {', '.join(common)}, none of which is of classes; only predictions of classes can "
            "be compared"
        )
    return of_classes


def _opened(results: Results) -> xr.Dataset:
    from probecache.analyze.results.join import as_results

    opened = as_results(results)
    if "predictions" not in opened:
        raise InputError("got results without predictions; sweep with --save-predictions")
    if "truth" not in opened:
        raise InputError("got results without the variable truth: nothing says what is right")
    return opened


def _of_results(results: xr.Dataset) -> Side:
    """What the probes of one target got right."""
    found = results[["predictions", "truth"]].load()
    predicted, known = found["predictions"].transpose(..., "sample"), found["truth"]
    known = known.squeeze([d for d in known.dims if d != "sample"], drop=True)
    labelled = np.flatnonzero(known.values >= 0)
    predicted, known = predicted.isel(sample=labelled), known.isel(sample=labelled)
    texts = texts_of(known.values)
    names = _class_names(results)
    if len(names) and len(labelled):
        texts = names[known.values]
    measured = (predicted >= 0).all("sample")
    right = (predicted == known).astype(np.float64).where(measured).transpose(..., "sample")
    about = {name: str(results.attrs[name]) for name in ("probe", "store") if name in results.attrs}
    samples = texts_of(results["sample"].values[labelled])
    groups = texts_of(results[GROUP].values[labelled]) if GROUP in results.coords else None
    return Side(right.drop_vars(["sample", GROUP], errors="ignore"), texts, samples, about, groups)


def _class_names(results: xr.Dataset) -> np.ndarray:
    """Names of the one target's classes: its own, where the coordinate only counts those of several."""
    listed = json.loads(str(results.attrs.get("targets", "{}")))
    own = listed.get(str(results["target"].values.ravel()[0])) if "target" in results.coords else None
    if own is not None and own["names"]:
        return texts_of(own["names"])
    return texts_of(results["class"].values) if "class" in results.coords else np.array([])


def texts_of(values: Any) -> np.ndarray:
    """As numpy's texts of one width, whatever kind of text or number they were."""
    return np.array([str(v) for v in np.asarray(values).tolist()], dtype=str)


def paired(left: Side, right: Side) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """The rows of each side for the samples that both have, and how many samples only one has."""
    n, m = len(left.truth), len(right.truth)
    if left.samples is None or right.samples is None:
        return (np.arange(n), np.arange(n)), 0  # arrays, of one length
    for samples in (left.samples, right.samples):
        names, counts = np.unique(samples, return_counts=True)
        if (counts > 1).any():
            raise InputError(
                f"got sample {str(names[counts > 1][0])!r} more than once; samples are matched by name"
            )
    _, mine, theirs = np.intersect1d(left.samples, right.samples, return_indices=True)
    if not len(mine):
        raise InputError("got no test sample that both have; compare what was scored on the same split")
    differing = left.truth[mine] != right.truth[theirs]
    if differing.any():
        raise InputError(
            f"got other labels for {int(differing.sum())} of {len(mine)} samples, first "
            f"{str(left.samples[mine][differing][0])!r}; compare what was scored on the same target"
        )
    order = np.argsort(mine)
    return (mine[order], theirs[order]), n + m - 2 * len(mine)


def aligned(first: xr.DataArray, second: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, dict[str, str]]:
    """Both over the coordinates that they share; what differs, one value each, as attributes."""
    contrast: dict[str, str] = {}
    for name in [str(c) for c in first.coords if not first[c].dims and c in second.coords]:
        if first[name].item() != second[name].item():
            contrast[name] = f"{first[name].item()} against {second[name].item()}"
            first, second = first.drop_vars(name), second.drop_vars(name)
    for dim in [str(d) for d in first.dims if d != "sample"]:
        if dim not in second.dims:
            raise InputError(f"got results with {dim} and without; give two of like dimensions")
        mine, theirs = first[dim].values, second[dim].values
        common = [v for v in mine.tolist() if v in set(theirs.tolist())]
        if common:
            first, second = first.sel({dim: common}), second.sel({dim: common})
        elif len(mine) == len(theirs) == 1:
            contrast[dim] = f"{mine[0]} against {theirs[0]}"
            first, second = first.isel({dim: 0}, drop=True), second.isel({dim: 0}, drop=True)
        else:
            raise InputError(
                f"got no {dim} that both have ({mine.tolist()} and {theirs.tolist()}); choose one of each, "
                f"results.sel({dim}=[...])"
            )
    return first, second.transpose(*first.dims), contrast


def group_numbers(groups: Any, left: Side, right: Side) -> np.ndarray:
    """A group number for each sample of both sides, which are paired, from 0; its own where there are no
    groups. groups: those of the caller, which come before what results keep."""
    n = len(left.truth)
    if groups is None:
        kept = [side.groups for side in (left, right) if side.groups is not None]
        if not kept:
            return np.arange(n)
        if (differing := np.flatnonzero(kept[0] != kept[-1])).size:
            name = "" if left.samples is None else f", first {str(left.samples[differing[0]])!r}"
            raise InputError(
                f"got results with other groups for {differing.size} of {n} samples{name}; give the groups"
            )
        groups = kept[0]
    if isinstance(groups, Mapping):
        if left.samples is None:
            raise InputError("got groups by sample name for samples without names; give one group per sample")
        missing = [name for name in left.samples if name not in groups]
        if missing:
            raise InputError(f"got no group for {len(missing)} of {n} samples, first {str(missing[0])!r}")
        groups = [groups[name] for name in left.samples]
    gone = [i for i, group in enumerate(groups) if group is None or group != group]
    if gone:
        raise InputError(
            f"got no group for {len(gone)} of {n} samples, first number {gone[0]}; give each one, of its own "
            "where it belongs to none"
        )
    return np.unique(texts_of(groups), return_inverse=True)[1]


def given_groups(groups: Any, side: Side, store: Any, split: str) -> Any:
    """The caller's groups, as {sample name: group}, or one for each sample where these have no names."""
    if isinstance(groups, str):
        return _groups_of_store(groups, store, split)
    if hasattr(groups, "to_dict"):  # a pandas Series
        groups = groups.to_dict()
    if groups is None or isinstance(groups, Mapping):
        return groups
    if len(groups) != len(side.truth):
        raise InputError(f"got {len(groups)} groups for {len(side.truth)} samples; needed: one each")
    return groups if side.samples is None else dict(zip(side.samples.tolist(), groups, strict=True))


def _groups_of_store(target: str, store: Any, split: str) -> dict[str, str]:
    if store is None:
        raise InputError(
            f"got groups {target!r} without a store; give one, {{sample name: group}}, or results of a sweep "
            "with groups"
        )
    from probecache.analyze.tasks.groups import load_groups
    from probecache.store.reader import open_store

    opened = open_store(store[0] if isinstance(store, tuple) else store)
    names = [str(name) for name in opened.samples(split)]
    return {
        name: group for name, group in zip(names, load_groups(opened, split, target), strict=True) if group
    }
