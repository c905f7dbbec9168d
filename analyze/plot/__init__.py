"""Figures of one look: each function draws on one matplotlib axes, and returns it.

    ax = pc.plot.curves(results, layer="penultimate")
    ax.figure.savefig("curves.pdf")

`ax=` draws into a figure of your own; pc.plot.save writes one as the report does.
"""

from probecache.analyze.plot.classes import calibration, class_spread
from probecache.analyze.plot.heatmaps import confusion, layers
from probecache.analyze.plot.lines import curves, learning_curve, profile, scores
from probecache.analyze.plot.neurons import attribution
from probecache.analyze.plot.redundancy import critical, dr, frontier
from probecache.analyze.plot.similarity import similarity
from probecache.analyze.plot.style import save

__all__ = [
    "attribution",
    "calibration",
    "class_spread",
    "confusion",
    "critical",
    "curves",
    "dr",
    "frontier",
    "layers",
    "learning_curve",
    "profile",
    "save",
    "scores",
    "similarity",
]
