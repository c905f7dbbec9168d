"""The report's figures for print beside accuracy: DR, frontier, classes, layers, CKA. Each writes one
file.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from probecache.analyze.findings.classes import class_effects
from probecache.analyze.findings.pareto import line_names
from probecache.analyze.findings.redundancy import full_scores, redundancy, score_of
from probecache.analyze.findings.summary import pick_l2, seed_band
from probecache.analyze.report.figures import (
    CHANCE,
    COLOURS,
    MARKERS,
    columns_of,
    draw_band,
    log_fractions,
    panels,
    save,
    styled,
)


def dr_figure(results: xr.Dataset, deltas: Sequence[float], path: str | Path) -> Path:
    """DR against delta with bootstrap intervals: a panel per layer, a line per selection."""
    found = redundancy(pick_l2(results), deltas)
    layers = found["layer"].values
    with styled():
        figure, axes = panels(len(layers))
        for i, (layer, axis) in enumerate(zip(layers, axes, strict=True)):
            for j, selection in enumerate(found["selection"].values):
                cell = found.sel({"layer": layer, "selection": selection})
                band = xr.Dataset({"mean": cell["dr"], "low": cell["dr_low"], "high": cell["dr_high"]})
                draw_band(axis, band.rename(delta="fraction"), j, str(selection))
            axis.set_ylim(-0.02, 1.02)
            axis.set_xlabel("delta")
            axis.set_title(str(layer), loc="left", fontweight="bold")
            if i % columns_of(len(layers)) == 0:
                axis.set_ylabel("diffused redundancy")
        _legend(figure, axes[0])
    return save(figure, path)


def pareto_figure(points: xr.Dataset, path: str | Path) -> Path:
    """Accuracy at the critical mass against DR, a panel per task; filled markers lie on its frontier.

    Layers at chance are grey, dotted and hollow, and named so in the legend.
    """
    tasks = list(dict.fromkeys(str(t) for t in points["task"].values))
    lines = {name: j for j, name in enumerate(dict.fromkeys(line_names(points)))}
    with styled():
        figure, axes = panels(len(tasks), height=3.2)
        for i, (task, axis) in enumerate(zip(tasks, axes, strict=True)):
            here = points.isel(point=np.flatnonzero(points["task"].values == task))
            names = line_names(here)
            for name in dict.fromkeys(names):
                j = lines[name]
                own = here.isel(point=[k for k, n in enumerate(names) if n == name])
                colour, marker = COLOURS[j % len(COLOURS)], MARKERS[j % len(MARKERS)]
                guesses = bool(own["at_chance"].any())
                look = {"color": CHANCE if guesses else colour, "marker": marker}
                style = ":" if guesses else "-"
                axis.plot(own["dr"], own["score"], style, **look, linewidth=0.8, mfc="white", label=name)
                best = own.isel(point=np.flatnonzero(own["frontier"]))
                axis.plot(best["dr"], best["score"], **look, linewidth=0)
            axis.set_xlabel("diffused redundancy")
            axis.set_title(task, loc="left", fontweight="bold")
            if i % columns_of(len(tasks)) == 0:
                axis.set_ylabel("accuracy at the critical mass")
        _legend(figure, *axes, columns=4)
    return save(figure, path)


def spread_figure(results: xr.Dataset, path: str | Path) -> Path:
    """Gini index and coefficient of variation of the class accuracies against fraction, a panel per layer."""
    effects = class_effects(pick_l2(results)).sel({"selection": "random"})
    labels = {
        "gini": "Gini index",
        "coefficient_of_variation": "coefficient of variation",
    }
    layers = effects["layer"].values
    with styled():
        figure, axes = panels(len(layers))
        for layer, axis in zip(layers, axes, strict=True):
            for j, (name, label) in enumerate(labels.items()):
                cell = effects.sel(layer=layer)
                band = xr.Dataset(
                    {"mean": cell[name], "low": cell[name + "_low"], "high": cell[name + "_high"]}
                )
                draw_band(axis, band, j, label)
            log_fractions(axis, effects["fraction"].to_numpy())
            axis.set_ylim(bottom=0)
            axis.set_title(str(layer), loc="left", fontweight="bold")
        axes[0].set_ylabel("spread over classes")
        _legend(figure, axes[0])
    return save(figure, path)


def layers_figure(results: xr.Dataset, path: str | Path) -> Path:
    """Heat map: share of each layer's own full accuracy that random subsets keep, layers by fractions."""
    values = score_of(pick_l2(results))
    full = full_scores(values).mean("seed")
    selection = "random" if "random" in values["selection"] else values["selection"].values[0]
    curve = values.sel({"selection": selection}).mean("seed")
    kept = (curve / (full if "selection" not in full.dims else full.sel({"selection": selection}))).transpose(
        "layer", "fraction"
    )
    with styled():
        figure, (axis,) = panels(1, width=6.5, height=0.9 + 0.35 * kept.sizes["layer"])
        image = axis.imshow(kept, cmap="cividis", vmax=1, aspect="auto")
        axis.grid(False)
        axis.set_yticks(range(kept.sizes["layer"]), [str(v) for v in kept["layer"].values])
        percent = [f"{100 * f:.3g}%" for f in kept["fraction"].values]
        axis.set_xticks(range(len(percent)), percent, fontsize=7, rotation=60)
        axis.set_xlabel("neurons kept")
        figure.colorbar(image, ax=axis, label="share of full accuracy", format="{x:.0%}")
    return save(figure, path)


def cka_figure(similarity: xr.Dataset, path: str | Path) -> Path:
    """Linear CKA of random subsets with the full layer, plain and debiased, and of pairs of subsets."""
    curves = {
        "with the full layer": similarity["cka"],
        "with the full layer, debiased": similarity["cka_debiased"],
        "two subsets of one size": similarity["cka_pair"].rename(pair="seed"),
    }
    with styled():
        figure, (axis,) = panels(1, width=4.5)
        for j, (label, values) in enumerate(curves.items()):
            draw_band(axis, seed_band(values), j, label)
        log_fractions(axis, similarity["fraction"].to_numpy())
        axis.set_ylim(0, 1.03)
        axis.set_ylabel("linear CKA")
        axis.set_title(similarity.attrs.get("layer", ""), loc="left", fontweight="bold")
        _legend(figure, axis, columns=2)
    return save(figure, path)


def _legend(figure, *axes, columns: int = 5) -> None:  # type: ignore[no-untyped-def]
    """One legend below the figure, of the lines of all `axes`, each name once."""
    found = {
        name: line for axis in axes for line, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=min(len(found), columns),
        handlelength=2.2,
    )
