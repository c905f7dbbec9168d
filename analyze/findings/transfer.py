"""Efficient transfer: the smallest subset of neurons that keeps a given share of the full layer's
accuracy.
"""

from pathlib import Path

import numpy as np
import xarray as xr

from probecache.analyze.findings.score import full_scores, neurons_of, score_of
from probecache.analyze.findings.summary import pick_l2
from probecache.store.errors import InputError
from probecache.store.storage.disk_errors import writing
from probecache.store.storage.replace_file import replaced_file


def efficient_subset(
    results: xr.Dataset,
    keep: float = 0.95,
    *,
    layer: str | None = None,
    selection: str = "random",
    bytes_per_value: int = 2,
) -> xr.Dataset:
    """The smallest (k, seed) with  T(m * g) >= keep * T(g),  the better seed where several reach it at that
    k.

    One subset, not a mean over subsets, so k is at most the critical mass. The seed is chosen by the score
    itself: where that is test accuracy, report the `mean_score` of that size beside it, or choose on a
    validation split.

    Returns a Dataset of scalars: `n_neurons`, `fraction`, `seed`, `score`, `mean_score`, `full_score`,
    `bytes_per_sample` and `full_bytes_per_sample` (at `bytes_per_value`, 2 for float16), `compute_share`
    (multiply-adds of a probe relative to the full layer, k/d), and `neuron`: the subset, int64 (k,), in the
    order drawn.

    Raises InputError where nothing reaches the share, or for a layer or selection that was not measured, or a
    selection that keeps no neurons (a projection), and where the full score is not above 0.
    """
    if not 0 < keep <= 1:
        raise InputError(f"keep {keep} is outside (0, 1]: it is the share of the full accuracy, e.g. 0.95")
    results = _one(_one(pick_l2(results), "layer", layer), "selection", selection)
    for dim in ("target", "shots"):
        results = _one(results, dim, None)
    if selection != "random":
        raise InputError(
            f"got selection {selection!r}: subsets can be exported for random, whose draws RESULTS holds"
        )
    full = float(full_scores(score_of(results)).mean())
    if not full > 0:
        raise InputError(f"got a full score of {full:.4f}; a share of it means something only above 0")
    score = score_of(results)
    score = score.squeeze([d for d in score.dims if d not in ("fraction", "seed")], drop=True)
    reached = (score >= keep * full - 1e-12).to_numpy()  # (fraction, seed)
    if not reached.any():
        raise InputError(f"no measured subset keeps {keep:g} of {full:.4f}: sweep larger fractions")
    at = int(reached.any(1).argmax())
    best = int(np.where(reached[at], score.to_numpy()[at], -np.inf).argmax())
    sizes = np.ravel(neurons_of(results, score_of(results)))  # (fraction,)
    k, d = int(sizes[at]), int(sizes[-1])
    order = results["permutation"].squeeze([d for d in results["permutation"].dims if d == "layer"])
    neurons = order.isel(seed=best).to_numpy()[:k].astype(np.int64)
    return xr.Dataset(
        {
            "n_neurons": ((), k, {"units": "neurons"}),
            "layer_size": ((), d, {"units": "neurons"}),
            "score": float(score[at, best]),
            "mean_score": float(score[at].mean()),
            "full_score": full,
            "bytes_per_sample": ((), k * bytes_per_value, {"units": "bytes"}),
            "full_bytes_per_sample": ((), d * bytes_per_value, {"units": "bytes"}),
            "compute_share": k / d,
        },
        coords={
            "fraction": float(score["fraction"][at]),
            "seed": int(score["seed"][best]),
            "neuron": ("neuron", neurons),
        },
        attrs={
            "keep": keep,
            "selection": selection,
            "layer": str(results["layer"].item()) if "layer" in results.coords else "",
        },
    )


def write_indices(subset: xr.Dataset, path: str | Path) -> Path:
    """The subset as a text file, a neuron a line, for `--selection index:FILE` and `probecache subset`.

    Whole or not at all, in place of a file that is there: half a list would read as a smaller subset.
    """
    path = Path(path).expanduser()
    about = (
        f"# {int(subset['n_neurons'])} of {int(subset['layer_size'])} neurons of {subset.attrs['layer']}, "
        f"seed {int(subset['seed'])}: {float(subset['score']):.4f} of {float(subset['full_score']):.4f}\n"
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as made:
        made.write_text(about + "".join(f"{n}\n" for n in subset["neuron"].to_numpy()), encoding="utf-8")
    return path


def _one(results: xr.Dataset, dim: str, wanted: str | None) -> xr.Dataset:
    """Results at one coordinate of `dim`, kept as a dimension of length one."""
    if dim not in results.dims:
        return results
    known = [str(v) for v in results[dim].values]
    if wanted is None:
        if len(known) > 1:
            raise InputError(f"the results hold {dim} {', '.join(known)}: name one, results.sel({dim}=[...])")
        wanted = known[0]
    if wanted not in known:
        raise InputError(f"got {dim} {wanted!r}; the results hold {', '.join(known)}")
    return results.sel({dim: [wanted]})
