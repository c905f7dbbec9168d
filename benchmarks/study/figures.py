"""The figures of docs/study.md.

    python -m benchmarks.study.figures STUDY        docs/figures/study-*.svg

Those of many stores come from the latest record; the accuracy, the classes and the layers of one store from
its RESULTS in the folder STUDY that `benchmarks.study.paper` filled.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import probecache as pc
from benchmarks.study.tables import cases
from probecache.analyze.findings.summary import late_layer_last
from probecache.analyze.plot.style import COLOURS, MARKERS, legend_below, panels, save, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent.parent.parent / "docs" / "figures"
SHOWN = "lite0__flowers102.zarr"


def critical(found: dict[str, dict[str, Any]]) -> "Figure":
    """DR of each store at both tolerances, with its interval over seeds."""
    figure, (ax,) = panels(1, width=6.4, height=0.26 * len(found) + 0.9)
    names = list(found)[::-1]
    with styled():
        for i, delta in enumerate(("0.9", "0.95")):
            for y, name in enumerate(names):
                at = found[name]["critical"][delta]
                low, high = at["dr_interval"]
                shape = {"color": COLOURS[i], "marker": MARKERS[i]}
                ax.plot([low, high], [y + 0.16 * (1 - 2 * i)] * 2, color=COLOURS[i], linewidth=1.4)
                ax.plot(
                    at["dr"], y + 0.16 * (1 - 2 * i), **shape, ls="", label=None if y else f"delta {delta}"
                )
        ax.set_yticks(range(len(names)), names)
        ax.set_xlim(0, 1.02)
        ax.set_xlabel("DR of the late layer: share of neurons that can go")
        legend_below(figure, [ax])
    return figure


def cuts(found: dict[str, dict[str, Any]]) -> "Figure":
    """The share of the full accuracy that random neurons keep at the successors' cuts and at a fifth."""
    figure, (ax,) = panels(1, width=5.2, height=3.2)
    with styled():
        for i, (name, r) in enumerate(named(found)):
            kept = {float(cut): share for cut, share in r["kept_at"].items()}
            kept |= {0.2: r["accuracy_at_20%"] / r["full_accuracy"], 1.0: 1.0}
            xs = sorted(kept)
            shape = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            ax.plot(xs, [kept[x] for x in xs], **shape, ls="-" if i < len(COLOURS) else "--", label=name)
        ax.set_xscale("log")
        ax.set_xticks([0.005, 0.05, 0.2, 0.5, 1], ["0.5%", "5%", "20%", "50%", "100%"])
        ax.minorticks_off()
        ax.set_xlabel("neurons kept, at random")
        ax.set_ylabel("share of the full accuracy")
        legend_below(figure, [ax])
    return figure


def shots(found: dict[str, dict[str, Any]]) -> "Figure":
    """DR at delta 0.9 against training rows per class, with its interval over seeds."""
    figure, (ax,) = panels(1, width=4.6, height=3.0)
    some = {name: r["shots"] for name, r in found.items() if "shots" in r}
    with styled():
        for i, (name, by) in enumerate(some.items()):
            shape = {"color": COLOURS[i], "marker": MARKERS[i], "capsize": 2, "linewidth": 1.4}
            drs = [r["dr"] for r in by.values()]
            ends = [r["dr_interval"] for r in by.values()]
            spans = [
                [max(0, d - e[0]) for d, e in zip(drs, ends, strict=True)],
                [max(0, e[1] - d) for d, e in zip(drs, ends, strict=True)],
            ]
            ax.errorbar(range(len(by)), drs, yerr=spans, label=f"{name}: {', '.join(by)}", **shape)
        ax.set_ylim(0, 1.02)
        ax.set_xticks(range(4), ["fewest", "", "", "most"])
        ax.set_xlabel("training rows per class (in the legend)")
        ax.set_ylabel("DR at delta 0.9")
        legend_below(figure, [ax])
    return figure


def geometry(found: dict[str, dict[str, Any]], measures: tuple[str, ...]) -> "Figure":
    """DR of every layer of every store against measures of its geometry, as shares of its neurons."""
    figure, axes = panels(len(measures), width=2.9, height=2.6)
    tasks = list(dict.fromkeys(name.partition(" / ")[2] for name in found))
    with styled():
        for measure, ax in zip(measures, axes, strict=True):
            for i, task in enumerate(tasks):
                own = [r for name, r in found.items() if name.endswith(f"/ {task}")]
                rows = [
                    (shape[measure] / (1 if measure == "isoscore" else shape["neurons"]), dr)
                    for r in own
                    for layer, shape in r["geometry"].items()
                    if (dr := r["dr_of_layers"].get(layer)) is not None
                ]
                ax.plot(*zip(*rows, strict=True), color=COLOURS[i], marker=MARKERS[i], ls="", label=task)
            ax.set_xlabel(measure.replace("_", " ") + ("" if measure == "isoscore" else " / neurons"))
        axes[0].set_ylabel("DR at delta 0.9")
        legend_below(figure, axes)
    return figure


def named(found: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The pretrained ones: what a control keeps says nothing."""
    return [(name, r) for name, r in found.items() if "random" not in name]


def one_store(results: Path) -> dict[str, "Figure"]:
    """Accuracy by selection, spread over classes, and share kept by layer, of one store's RESULTS."""
    found = late_layer_last(pc.open_results(results))
    axes = {"accuracy": pc.plot.curves(found, layer="penultimate"), "layers": pc.plot.layers(found)}
    axes["classes"] = pc.plot.class_spread(found, layer="penultimate")
    with styled():
        for name in ("accuracy", "classes"):
            legend_below(axes[name].figure, [axes[name]])
    return {name: ax.figure for name, ax in axes.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path, help="what `benchmarks.study.paper --out` filled")
    found = cases()
    drawn = one_store(parser.parse_args().study / "results" / SHOWN) | {
        "critical": critical(found),
        "cuts": cuts(found),
        "shots": shots(found),
        "geometry": geometry(found, ("participation_ratio", "two_nn", "isoscore")),
    }
    for name, figure in drawn.items():
        print(save(figure, FOLDER / f"study-{name}.svg"))


if __name__ == "__main__":
    main()
