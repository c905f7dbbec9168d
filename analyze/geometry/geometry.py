"""The geometry of layers of a store: what their redundancy is to be compared with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from probecache.analyze.geometry.spectrum import (
    components_for,
    effective_rank,
    isoscore,
    participation_ratio,
    spectrum,
)
from probecache.analyze.geometry.two_nn import two_nn
from probecache.analyze.similarity.gram import centred_gram, good_rows
from probecache.store.errors import InputError
from probecache.store.progress import Progress, reporting
from probecache.store.reader import Store, open_store

MEASURES = {
    "participation_ratio": "(sum v)^2 / sum v^2 of the covariance's eigenvalues v",
    "effective_rank": "exp of the entropy of the eigenvalues' shares",
    "isoscore": "IsoScore: 0 where one direction varies, 1 where all do alike",
    "two_nn": "intrinsic dimension by the two nearest neighbours",
    "components_90": "principal components that hold 90% of the variance",
}
NEIGHBOURS = 5000  # rows at most, drawn with seed 0, for distances between all pairs


def geometry(
    store: Store | str | Path,
    layer: str | Sequence[str] | None = None,
    split: str = "train",
    *,
    standardize: bool = False,
    rows: int = NEIGHBOURS,
    progress: Progress = None,
) -> xr.Dataset:
    """Dimensions and isotropy of layers, over the samples of a split that did not fail.

    With v the eigenvalues of the covariance: participation ratio (sum v)^2 / sum v^2, effective rank exp H(v
    / sum v) (Roy and Vetterli 2007), IsoScore (Rudman et al. 2022), TwoNN (Facco et al. 2017), and the
    components that hold 90% of the variance.

    Parameters
    ----------
    store : Store, str or Path
    layer : str, list of str or None
        None: all of the split.
    split : str
    standardize : bool
        Columns divided by their standard deviation, as probes see them; False (default): as they are stored.
        Columns without variance stay in d.
    rows : int
        How many rows `two_nn` uses, 5,000 by default; the other measures use all.
    progress : bool, function or None
        True: a bar on stderr. A function: called with (done, total) layers. False or None: silent.

    Returns
    -------
    xarray.Dataset
        Along `layer`: `participation_ratio`, `effective_rank`, `isoscore`, `two_nn`, `components_90`, float64
        without unit; `neurons`, d; and `coding_neurons`, `coding_bound` of the split's classes with one of
        them present in a sample.

    Raises
    ------
    InputError
        For fewer than 4 samples, and NaN or infinite values.

    Examples
    --------
    >>> pc.geometry("features.zarr", split="train")["neurons"].values.tolist()
    [8, 8]
    """
    opened = open_store(store)
    names = opened.layers_of(split) if layer is None else [layer] if isinstance(layer, str) else list(layer)
    if not names:
        raise InputError(
            f"got no layer; split {split!r} of {opened.path} has {', '.join(opened.layers_of(split))}"
        )
    found: list[dict[str, float]] = []
    with reporting(progress, "layers") as told:
        for name in names:
            found.append(_measures(opened, split, name, standardize, rows))
            if told is not None:
                told(len(found), len(names))
    out = xr.Dataset(
        {
            name: ("layer", [one[name] for one in found], {"long_name": about, "units": "1"})
            for name, about in MEASURES.items()
        },
        coords={"layer": np.asarray(names, dtype=np.dtypes.StringDType())},
    )
    out["neurons"] = ("layer", [opened.shape(split, name)[1] for name in names], {"units": "neurons"})
    labels = np.asarray(opened.labels(split))
    classes = len(np.unique(labels[labels >= 0]))
    if classes > 1:
        about = "order of the neurons that suffice to read the classes linearly, without its constant"
        out["coding_neurons"] = ((), coding_bound(classes)[1], {"long_name": about, "units": "neurons"})
    return out.assign_attrs(store=str(opened.path), split=split, standardize=str(standardize))


def coding_bound(features: int, active: int = 1) -> tuple[float, float]:
    """Orders of the neurons that are needed, and that suffice, to read m features linearly, k of them active:

        needed   k^2 log(m / k) / log k   (k log(m / k) for k < 3)        sufficient   k^2 log m

    (Garg, Kleinberg, Peng, arXiv 2602.11246). Their constants depend on the error allowed and are left out:
    compare how it grows, not its size. Natural logarithms.

    >>> [round(v, 2) for v in coding_bound(102)], round(coding_bound(1000, 4)[1], 1)
    ([4.62, 4.62], 110.5)
    """
    if not 1 <= active <= features:
        raise InputError(f"got {active} active of {features} features; allowed: 1 to {features}")
    spread = np.log(features / active)
    needed = active**2 * spread / np.log(active) if active > 2 else active * spread
    return float(needed), float(active**2 * np.log(features))


def _measures(store: Store, split: str, layer: str, standardize: bool, rows: int) -> dict[str, float]:
    gram = centred_gram(store, split, layer)
    deviation = np.sqrt(np.diag(gram.products) / gram.n)
    scale = np.where(deviation > 0, deviation, 1.0) if standardize else np.ones(len(deviation))
    values = spectrum(gram.products / np.outer(scale, scale), gram.n)
    chosen = np.sort(np.random.default_rng(0).permutation(gram.n)[:rows])
    return {
        "participation_ratio": participation_ratio(values),
        "effective_rank": effective_rank(values),
        "isoscore": isoscore(values),
        "two_nn": two_nn(_take(store, split, layer, chosen) / scale),
        "components_90": float(components_for(values, 0.9)),
    }


def _take(store: Store, split: str, layer: str, chosen: np.ndarray) -> np.ndarray:
    """The chosen of the good rows (rising positions among them), float64."""
    parts, start = [], 0
    for block in good_rows(store, split, layer):
        here = chosen[(chosen >= start) & (chosen < start + len(block))] - start
        parts.append(block[here])
        start += len(block)
    return np.concatenate(parts)
