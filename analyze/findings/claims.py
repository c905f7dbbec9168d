"""What results show, in plain sentences whose every number is computed here, beside what the paper claims.

The claims are those of Nanda et al. 2023; `agrees` says whether these results do, None where they cannot
tell.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr

from probecache.analyze.findings.chance_level import at_chance
from probecache.analyze.findings.classes import class_effects, hardest_hit
from probecache.analyze.findings.redundancy import redundancy
from probecache.analyze.findings.score import full_scores, score_of
from probecache.analyze.findings.summary import bounds_of, late_layer_last, pick_l2, seed_band, usual_task

# What "about as well" means for two ways of picking neurons: one point of accuracy.
CLOSE = 0.01
MOST_TOLD = 12  # values of one sentence


@dataclass(frozen=True)
class Finding:
    """One sentence. `topic` groups findings across studies; `claim` is the paper's, where the sentence
    tests one.
    """

    topic: str
    text: str
    claim: str = ""
    agrees: bool | None = None


def findings(results: xr.Dataset, *, delta: float = 0.9) -> list[Finding]:
    """Everything that one RESULTS can tell, most of it about the penultimate layer, or the last one."""
    whole = late_layer_last(results.load())
    results = pick_l2(usual_task(whole))
    layers = [str(v) for v in results["layer"].values]
    main = results.sel(layer=layers[-1])
    measured = score_of(main).notnull().any([d for d in score_of(main).dims if d != "selection"])
    selections = [str(v) for v in main["selection"].values[measured.to_numpy()]]
    out: list[Finding] = []
    if "random" in selections:
        out += _headline(main, layers[-1])
        parts = main.sizes["fraction"] > 1 and np.isfinite(_curve(main, "random")[1])
        if parts and not _guesses(main).any():  # of nothing, every part is as good as the whole
            out += _mass(main, layers[-1], delta)
            out += _pca(main, selections)
            out += _first(main, selections)
            out += _others(main, selections)
            out += _classes(main)
            out += _others_dr(whole, layers[-1], delta)
        out += _layers(results, layers, delta)
    out += _health(whole)
    return out


def _headline(main: xr.Dataset, layer: str) -> Iterator[Finding]:
    band, full = _curve(main, "random")
    if np.isnan(full):
        yield Finding(
            "headline", f"The full {layer} has no score{_on(main)}: nothing can be compared with it."
        )
        return
    if not full > 0:
        yield Finding(
            "headline",
            f"The full {layer} has {_score(main, full)}{_on(main)}: no better than the targets' mean, so "
            "that no share of it can be kept.",
        )
        return
    if _guesses(main).any():
        yield Finding(
            "headline",
            f"The full {layer} has {_score(main, full)}{_on(main)}, no better than guessing: there is "
            "nothing to keep, and no critical mass or DR means anything.",
        )
        return
    near = band.sel(fraction=0.2, method="nearest")
    fraction, mean = float(near["fraction"]), float(near["mean"])
    k = int(_sizes(main).sel(fraction=fraction))
    d = int(_sizes(main).max())
    share = mean / full
    span = "one seed"
    if _seeds(main) > 1:
        span = f"95% interval {_value(main, near['low'])} to {_value(main, near['high'])}"
    yield Finding(
        "headline",
        f"{k} of the {d:,} neurons of {layer} ({_share(fraction)}), picked at random, reach "
        f"{_score(main, mean)}{_on(main)} ({span}): {share:.1%} of the full layer's {_value(main, full)}.",
        "a fifth of the neurons, picked at random, is within 5% of the full layer (CIFAR-10)",
        bool(share >= 0.95) if 0.15 <= fraction <= 0.25 else None,
    )


def _mass(main: xr.Dataset, layer: str, delta: float) -> Iterator[Finding]:
    found = redundancy(main, delta).sel({"selection": "random"})
    mass, share = float(found["critical_mass"]), float(found["critical_fraction"])
    if not float(found["full_score"]) > 0:
        return  # said in the headline
    if not np.isfinite(mass):
        yield Finding(
            "critical mass", f"No measured subset of {layer} keeps {delta:.0%} of its {_noun(main)}."
        )
        return
    low, high = float(found["critical_mass_low"]), float(found["critical_mass_high"])
    span = f" (95% interval {low:.0f} to {high:.0f})" if np.isfinite(low) and low < high else ""
    at_grid = mass <= float(_sizes(main).min())  # of the sizes: a fraction's neurons are rounded
    bound = ", the smallest size measured, so the true one may be lower" if at_grid else ""
    yield Finding(
        "critical mass",
        f"Critical mass at delta {delta:g}: {mass:.0f} neurons{span}{bound}; DR {float(found['dr']):.2f}: "
        f"{1 - share:.0%} of {layer} can be dropped at random while {delta:.0%} of its {_noun(main)} "
        "stays.",
        "any random subset above a critical mass does about as well as the full layer",
        None if at_grid and share > 0.5 else bool(share <= 0.5),  # smaller ones may do
    )


def _pca(main: xr.Dataset, selections: list[str]) -> Iterator[Finding]:
    random, _ = _curve(main, "random")
    if "pca" in selections:
        pca, _ = _curve(main, "pca")
        gap = (pca["mean"] - random["mean"]).dropna("fraction")
        below = (gap <= CLOSE).to_numpy()
        # From here on, up to the full layer, random is never more than a point behind.
        tail = np.cumprod(below[::-1])[::-1].astype(bool)
        fractions = gap["fraction"].to_numpy()
        if tail[:-1].any():
            meet = float(fractions[int(tail.argmax())])
            text = f"From {_share(meet)} of the layer on, random neurons are at most a point behind"
            agrees = meet <= 0.5
        else:
            text = "Below the full layer, random neurons stay more than a point behind"
            agrees = False
        yield Finding(
            "pca",
            f"{text} as many principal components; the widest gap is {100 * float(gap.max()):.1f} points, "
            f"at {_share(gap.idxmax('fraction'))}.",
            "past a threshold, random neurons do about as well as the top principal components",
            agrees,
        )
    if "pca-least" in selections:
        least, _ = _curve(main, "pca-least")
        near = (random["mean"] - least["mean"]).sel(fraction=0.2, method="nearest")
        yield Finding(
            "pca-least",
            f"At {_share(near['fraction'])} of the layer the least principal components are "
            f"{100 * float(near):.1f} points below random neurons.",
            "the least principal components do much worse than random neurons",
            bool(near > CLOSE) if near["fraction"] <= 0.5 else None,
        )


def _first(main: xr.Dataset, selections: list[str]) -> Iterator[Finding]:
    if "first" not in selections:
        return
    first, random = _curve(main, "first")[0], _curve(main, "random")[0]
    gap = (first["mean"] - random["mean"]).isel(fraction=slice(0, -1))
    if gap.notnull().any():
        at = int(abs(gap).fillna(0).argmax("fraction"))
        yield Finding(
            "first",
            f"The layer's first neurons and random ones differ most at {_share(gap['fraction'][at])} of "
            f"the layer: "
            f"{100 * float(gap[at]):+.1f} points for the first ones.",
        )


# Ways of picking that the paper only shows or that it has not: told without a verdict.
_OTHERS = {
    "randproj": "as many random projections",
    "variance": "the neurons of highest variance",
    "variance-least": "the neurons of lowest variance",
    "greedy": "the neurons that lower ridge's error most, one after the other,",
    "greedy-worst": "the neurons that lower ridge's error least, one after the other,",
}


def _others(main: xr.Dataset, selections: list[str]) -> Iterator[Finding]:
    random = _curve(main, "random")[0]["mean"]
    for selection in [m for m in selections if m in _OTHERS]:
        gap = (_curve(main, selection)[0]["mean"] - random).dropna("fraction")
        near = gap.sel(fraction=0.2, method="nearest")
        widest = gap.isel(fraction=int(abs(gap).argmax("fraction")))
        yield Finding(
            selection,
            f"At {_share(near['fraction'])} of the layer {_OTHERS[selection]} are {100 * float(near):+.1f} "
            f"points from random neurons; the widest gap is {100 * float(widest):+.1f} points, at "
            f"{_share(widest['fraction'])}.",
        )


def _layers(results: xr.Dataset, layers: list[str], delta: float) -> Iterator[Finding]:
    if len(layers) < 2:
        return
    dr = redundancy(results, delta)["dr"].sel({"selection": "random"})
    guessing = _guesses(results)
    apart = [layer for layer in layers if guessing.sel(layer=layer).any()]
    known = dr.dropna("layer")
    known = known.isel(layer=[str(layer) not in apart for layer in known["layer"].values])
    if known.sizes["layer"] < 2:
        return
    if float(known.max()) == float(known.min()):
        yield Finding("layers", f"All layers have the same DR at delta {delta:g}: {float(known[0]):.2f}.")
        return
    most, least = (str(known["layer"][int(i)].item()) for i in (known.argmax("layer"), known.argmin("layer")))
    listed = ", ".join(f"{layer} {float(dr.sel(layer=layer)):.2f}" for layer in layers if layer not in apart)
    left = f" No better than guessing, and left out: {', '.join(apart)}." if apart else ""
    yield Finding(
        "layers",
        f"DR at delta {delta:g} by layer: {listed}. The most redundant is {most}, the least {least}.{left}",
        "earlier layers are redundant too",
        bool((known > 0).all()),
    )


def _others_dr(whole: xr.Dataset, layer: str, delta: float) -> Iterator[Finding]:
    """DR of the late layer by shots, target and l2, where there are several: rows crossed with columns."""
    for dim, words in (("shots", "training rows per class"), ("target", "target"), ("l2", "l2")):
        if dim not in whole.dims or whole.sizes[dim] < 2 or whole[dim].dtype.kind not in "OUTSf":
            continue
        if dim == "l2":
            rest = usual_task(whole)
        else:  # that dimension stays as it is
            rest = pick_l2(usual_task(whole.rename({dim: "kept"})).rename({"kept": dim}))
        found = redundancy(rest.sel(layer=layer), delta).sel({"selection": "random"})
        found = found.dropna(dim, subset=["dr"])
        if found.sizes[dim] < 2:
            continue
        told = [
            f"{v:g} {float(dr):.2f}" if isinstance(v, float) else f"{v} {float(dr):.2f}"
            for v, dr in zip(found[dim].values.tolist()[:MOST_TOLD], found["dr"].values, strict=False)
        ]
        more = f", and {found.sizes[dim] - MOST_TOLD} more" if found.sizes[dim] > MOST_TOLD else ""
        yield Finding(dim, f"DR of {layer} at delta {delta:g} by {words}: {', '.join(told)}{more}.")


def _classes(main: xr.Dataset) -> Iterator[Finding]:
    if "class_accuracy" not in main or main.sizes["class"] < 3:
        return
    effects = class_effects(main).sel({"selection": "random"})
    near = effects.sel(fraction=0.1, method="nearest")
    whole = effects.isel(fraction=-1)
    worst = hardest_hit(effects, 0.1, 1).isel({"class": 0})
    typical = float(near["loss"].median())
    yield Finding(
        "classes",
        f"The Gini index of the class accuracies is {float(whole['gini']):.3f} on the full layer and "
        f"{float(near['gini']):.3f} at {_share(near['fraction'])} of it. There the class "
        f"{str(worst['class'].item())!r} loses most, {100 * float(worst['loss']):.1f} points; the median "
        f"class "
        f"loses {100 * typical:.1f}.",
        "dropping neurons hurts some classes far more than others",
        bool(near["gini_low"] > whole["gini_high"]) if _seeds(main) > 1 else None,
    )


def _health(results: xr.Dataset) -> Iterator[Finding]:
    score = score_of(results)
    # A layer and selection without any score was not asked for; a gap within one was.
    rest = [d for d in score.dims if d not in ("layer", "selection")]
    missing = int((score.isnull() & score.notnull().any(rest)).sum())
    if missing:
        yield Finding(
            "health",
            f"{missing} of {score.size} probes have no score: run the same sweep again to fill them.",
        )
    if "converged" in results:
        short = score.notnull() & (results["converged"].astype(int) == 0)
        if short.any():
            yield Finding("health", _unfinished(short, score, results))


def _unfinished(short: xr.DataArray, score: xr.DataArray, results: xr.Dataset) -> str:
    """Which probes stopped early: layer, selection, sizes; so that a reader knows what to leave out."""
    sizes = results["n_neurons"]
    places = []
    for layer in short["layer"].values:
        for selection in short["selection"].values:
            cell = {"layer": layer, "selection": selection}
            here = short.sel(cell)
            if here.any():
                k = sizes.sel(cell).where(here)
                low, high = int(k.min()), int(k.max())
                span = f"{low}" if low == high else f"{low} to {high}"
                places.append(f"{layer}, {selection}: {int(here.sum())}, {span} neurons")
    return (
        f"{int(short.sum())} of {int(score.notnull().sum())} probes stopped before they met the solver's "
        f"tolerance ({'; '.join(places)}). Their accuracies are those of the last step."
    )


def _guesses(results: xr.Dataset) -> xr.DataArray:
    """bool: whether the full layer is at chance level, over what else there is but selections."""
    found = at_chance(results)
    return found.sel({"selection": "random"}) if "selection" in found.dims else found


def _curve(main: xr.Dataset, selection: str) -> tuple[xr.Dataset, float]:
    """Mean and band over seeds of one selection, and the full layer's score."""
    values = score_of(main)
    band = seed_band(values.sel({"selection": selection}), within=bounds_of(str(values.name)))
    return band, float(full_scores(values).mean())


def _seeds(main: xr.Dataset) -> int:
    """Seeds with a score: of one, an interval has no width and says nothing."""
    score = score_of(main)
    return int(score.notnull().any([d for d in score.dims if d != "seed"]).sum())


def _sizes(main: xr.Dataset) -> xr.DataArray:
    sizes = main["n_neurons"]
    return sizes.max([d for d in sizes.dims if d != "fraction"])


def _noun(main: xr.Dataset) -> str:
    return {"accuracy": "accuracy", "r2": "R2"}.get(str(score_of(main).name), str(score_of(main).name))


def _value(main: xr.Dataset, score: xr.DataArray | float) -> str:
    """A share of right answers as a percentage; R2, which is no such share, as a number."""
    return f"{float(score):.1%}" if _noun(main) == "accuracy" else f"{float(score):.3f}"


def _score(main: xr.Dataset, score: xr.DataArray | float) -> str:
    value = _value(main, score)
    return f"{value} accuracy" if _noun(main) == "accuracy" else f"an {_noun(main)} of {value}"


def _on(main: xr.Dataset) -> str:
    """Which target a sentence is about, where that is not the data's own label."""
    target = str(main["target"].values) if "target" in main.coords else "label"
    return "" if target == "label" else f" on {target}"


def _share(fraction: xr.DataArray | float) -> str:
    return f"{100 * float(fraction):.3g}%"
