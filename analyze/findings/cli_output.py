"""What `probecache cka` and `probecache redundancy` print, and write."""

import textwrap
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from probecache.analyze.findings.chance_level import at_chance
from probecache.analyze.findings.claims import findings
from probecache.analyze.findings.probe_time import probe_time
from probecache.analyze.findings.redundancy import redundancy
from probecache.analyze.findings.score import score_of
from probecache.analyze.findings.summary import late_layer_last
from probecache.analyze.findings.transfer import efficient_subset, write_indices
from probecache.analyze.probes.registry import get_kind
from probecache.analyze.results.join import open_results
from probecache.store.choose import choose_known
from probecache.store.errors import InputError
from probecache.store.reader import open_store


def tell_cka(found: xr.Dataset, out: Path | None) -> None:
    """A line per fraction: mean over seeds and pairs."""
    print(
        f"linear CKA of {found.attrs['layer']}, {found.attrs['samples']} samples of {found.attrs['split']}:"
    )
    print(f"{'neurons':>8} {'fraction':>9} {'with full':>10} {'debiased':>10} {'two subsets':>12}")
    for i, k in enumerate(found["n_neurons"].to_numpy()):
        at = found.isel(fraction=i)
        pair = f"{float(at['cka_pair'].mean()):12.4f}" if found.sizes["pair"] else f"{'-':>12}"
        values = f"{float(at['cka'].mean()):10.4f} {float(at['cka_debiased'].mean()):10.4f} {pair}"
        print(f"{k:8d} {float(at['fraction']):9.4g} {values}")
    if out is not None:
        print(f"written: {out}")


def tell_redundancy(
    path: str,
    deltas: Sequence[float],
    layers: Sequence[str] | None = None,
    score: str | None = None,
    targets: Sequence[str] | None = None,
) -> None:
    """The findings in words, then a line per layer, selection, l2 and delta. layers: names and globs.

    score: of the lines; with one, no words are told, which are about accuracy, and R2 of numbers.
    """
    data = late_layer_last(
        _only(_only(open_results(path).load(), "layer", layers, path), "target", targets, path)
    )
    deltas = list(dict.fromkeys(deltas))
    found, values = redundancy(data, deltas, score=score), score_of(data, score)
    if score is None and values.name != "cka":
        for finding in findings(data, delta=deltas[0]):
            print(textwrap.fill(finding.text, 100, initial_indent="- ", subsequent_indent="  "))
        print()
    elif score is not None:
        print(f"{score}, mean over seeds")
    guessing = at_chance(data)  # False where it cannot be told
    fifth = values.sel({"fraction": 0.2}, method="nearest").mean("seed")
    share = f"at {float(fifth['fraction']):.0%}"
    print(f"{'delta':>6} {'full':>7} {share:>7} {'critical mass':>14} {'DR':>6}  {'95% interval':16}")
    dims = [d for d in found["dr"].dims if d != "delta"]
    for cell in found.stack(cell=dims).transpose("cell", "delta")["cell"] if dims else [None]:
        where = {} if cell is None else dict(zip(dims, cell.item(), strict=True))
        scores = f"{float(_at(found['full_score'], where)):7.4f} {float(_at(fifth, where)):7.4f}"
        alone = [dim for dim in ("target", "shots") if found.sizes.get(dim, 1) == 1]
        name = ", ".join(str(v) for dim, v in where.items() if dim not in alone)
        name += " (no better than guessing)" if bool(_at(guessing, where).any()) else ""
        for delta in deltas:
            at = found.sel({**where, "delta": delta})
            mass = float(at["critical_mass"])
            if np.isnan(mass):  # no measured size reaches delta, or there is nothing to reach
                whole = float(_at(found["full_score"], where))
                reason = "not reached" if whole > 0 else "not above 0" if whole <= 0 else "not measured"
                print(f"{delta:6g} {scores} {reason:>14} {'':6}  {'':16} {name}")
                continue
            low, high = float(at["dr_low"]), float(at["dr_high"])
            interval = "one seed" if np.isnan(low) else f"{low:.3f} to {high:.3f}"
            print(f"{delta:6g} {scores} {mass:14.0f} {float(at['dr']):6.3f}  {interval:16} {name}")


def _only(data: xr.Dataset, dim: str, wanted: Sequence[str] | None, path: str) -> xr.Dataset:
    if not wanted:
        return data
    if dim not in data.dims:
        raise InputError(f"got --{dim} {', '.join(wanted)}, and {path} has no {dim}s: leave it out")
    known = [str(name) for name in data[dim].values]
    names = choose_known(dim, wanted, known, path)
    return data.isel({dim: [known.index(name) for name in names]})


def _at(values: xr.DataArray, where: Mapping[Hashable, object]) -> xr.DataArray:
    """The cell of `values`: a full score has no selection of its own where `random` gave it for all."""
    return values.sel({d: v for d, v in where.items() if d in values.dims})


def find_subset(
    path: str, keep: float, layers: Sequence[str] | None, targets: Sequence[str] | None = None
) -> tuple[xr.Dataset, xr.Dataset, float]:
    """Results, and of them the smallest subset that keeps a share, with that share."""
    results = open_results(path).load()
    for dim, wanted in (("layer", layers), ("target", targets)):
        results = _only(results, dim, wanted, path)
        if (wanted or dim == "target") and results.sizes.get(dim, 1) > 1:
            held = ", ".join(map(str, results[dim].values))
            raise InputError(
                f"got {results.sizes[dim]} {dim}s for --keep ({held}); it takes one: --{dim} NAME"
            )
    layer = str(results["layer"].values[0]) if layers else None
    return results, efficient_subset(results, keep, layer=layer), keep


def tell_subset(
    results: xr.Dataset, found: xr.Dataset, keep: float, indices: Path | None, store: str | None
) -> None:
    """The smallest subset that keeps a share, and what it saves; in time as well, where a store is given."""
    opened = None if store is None else open_store(store)  # what is no store is refused before any work
    k, d = int(found["n_neurons"]), int(found["layer_size"])
    print(
        f"smallest subset that keeps {keep:g}: {k} of {d} neurons, seed {int(found['seed'])}, accuracy "
        f"{float(found['score']):.4f} of {float(found['full_score']):.4f} (mean over seeds at that size "
        f"{float(found['mean_score']):.4f}); {int(found['bytes_per_sample'])} instead of "
        f"{int(found['full_bytes_per_sample'])} bytes a sample in float16, {k / d:.1%} of the multiply-adds"
    )
    if indices is not None:
        print(f"written: {write_indices(found, indices)}")
    if opened is not None:
        took = probe_time(results, found, opened)
        full, part = took["median_seconds"].to_numpy()
        about, fits = took.attrs, took["n_iter"].to_numpy()
        counts = get_kind(about["probe"]).counts
        evaluations = f", {fits[1]} {counts} against {fits[0]}" if counts == "evaluations" else ""
        print(
            f"a probe alone: {part:.3g} s on those, {full:.3g} s on all {d} neurons, "
            f"{float(took['time_share']):.1%} of the time in the median pair of runs{evaluations} "
            f"(timed: {about['measured']}; median of {took.sizes['run']} runs on {about['device']}, "
            f"threads: {about['threads']})"
        )
