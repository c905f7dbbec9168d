"""The figures of a report for print: each drawn once, written as SVG, PNG and PDF."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probecache.analyze import plot
from probecache.analyze.findings.confusion import confusion_matrix, has_predictions
from probecache.analyze.findings.redundancy import redundancy
from probecache.analyze.findings.reliability import has_probabilities
from probecache.analyze.findings.score import score_of
from probecache.analyze.findings.summary import one_cell, pick_l2, usual_task
from probecache.analyze.plot.style import FORMATS, legend_below, panels, plain, save, styled
from probecache.analyze.report.data import CONFUSED, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = 12  # layers of one figure: the last ones, where there are more
LINES = 16  # values of one dimension of one figure


def study_figures(study: Study, delta: float) -> Iterator[tuple[str, "Figure"]]:
    """(name, figure) of everything that these results can show."""
    results = study.results
    main = pick_l2(usual_task(results)).expand_dims(["target", "shots", "l2"])
    late = {"layer": str(results["layer"].values[-1])}
    layers = [str(v) for v in results["layer"].values[-PANELS:]]
    name = str(score_of(main).name)
    yield name, _by_layer(layers, lambda ax, layer: plot.curves(main, ax=ax, layer=layer))
    yield "dr", _by_layer(layers, lambda ax, layer: plot.dr(main, ax=ax, layer=layer))
    if len(results["layer"]) > 1:
        yield "layers", _alone(plot.layers(main))
        yield "profile", _alone(plot.profile(main))
    for dim in ("target", "shots", "l2"):
        if results.sizes[dim] > 1:
            yield from _crossed(results, dim, late, delta)
    if _has_classes(main):
        yield "classes", _by_layer(layers, lambda ax, layer: plot.class_spread(main, ax=ax, layer=layer))
    if has_predictions(results) and results.sizes["class"] <= CONFUSED:
        yield "confusion", _alone(plot.confusion(confusion_matrix(results, **late)))
    if has_probabilities(results):
        yield "calibration", _alone(plot.calibration(results, layer=late["layer"]), named=True)
    if study.similarity is not None:
        yield "cka", _alone(plot.similarity(study.similarity))
    if study.attribution is not None:
        yield "neurons", _alone(plot.attribution(study.attribution), named=True)


def frontier_figure(points: xr.Dataset) -> "Figure":
    """The frontier of every task, a panel each."""
    tasks = list(dict.fromkeys(str(t) for t in points["task"].values))[:PANELS] or [""]
    figure, axes = panels(len(tasks), height=3.2, share=False)
    for task, ax in zip(tasks, axes, strict=True):
        plot.frontier(points, task, ax=ax)
    with styled():
        legend_below(figure, axes)
    return figure


def write_figure(figure: "Figure", stem: Path) -> list[Path]:
    """Write the figure under `stem` with every suffix; where things stand is worked out once."""
    with styled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", category=UserWarning)
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # "none" leaves one that has each file drawn twice
    return [save(figure, stem.with_name(stem.name + end)) for end in FORMATS]


def _crossed(
    results: xr.Dataset, dim: str, late: dict[str, str], delta: float
) -> Iterator[tuple[str, "Figure"]]:
    """Of the late layer: the curves by target, shots or l2, the score along it, and DR along it."""
    rest = one_cell(results, (dim, "fraction", "seed", *(["l2"] if dim != "l2" else [])), **late)
    rest = rest if dim == "l2" else pick_l2(rest).expand_dims("l2")
    some = {dim: rest[dim].values.tolist()[:LINES]}
    yield f"{dim}-curves", _alone(plot.curves(rest, **some))
    if dim == "target":
        return
    yield f"{dim}-scores", _alone(plot.scores(rest, dim))
    if np.isclose(float(rest["fraction"].max()), 1):
        yield f"{dim}-dr", _alone(plot.critical(redundancy(rest, delta), dim))


def _by_layer(layers: Sequence[str], draw: Callable[[Any, str], Any]) -> "Figure":
    figure, axes = panels(len(layers))
    for i, (layer, ax) in enumerate(zip(layers, axes, strict=True)):
        draw(ax, layer)
        with styled():
            ax.set_title(plain(layer, 40), loc="left", fontweight="bold")
            if i % 3:
                ax.set_ylabel("")
    with styled():
        legend_below(figure, axes)
    return figure


def _alone(ax: Any, *, named: bool = False) -> "Figure":
    """The figure of one axes, with its legend below unless it has one."""
    with styled():
        legend_below(ax.figure, [] if named else [ax])
    return ax.figure


def _has_classes(results: xr.Dataset) -> bool:
    if "class_accuracy" not in results or results.sizes["class"] < 3:
        return False
    whole = np.isclose(float(results["fraction"].max()), 1)
    return bool(whole and "random" in results["selection"] and results["class_accuracy"].notnull().any())
