"""The labelled grid that RESULTS lies on: coordinates, the variables over them, and their layout in Zarr."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.dtype import VariableLengthUTF8

from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.sweeps.plan import AUTO, DIMS, SweepPlan
from probecache.store.errors import FingerprintMismatch

# name -> (dtype, value where nothing was computed, what it is)
VARIABLES: dict[str, tuple[str, Any, str]] = {
    "accuracy": ("float64", np.nan, "share of test samples whose class is predicted, 0 to 1"),
    "objective": ("float64", np.nan, "the penalised training objective at the weights that were scored"),
    "grad_norm": ("float64", np.nan, "norm of the objective's gradient at those weights"),
    "n_iter": ("int32", -1, "what the solver counts: evaluations of the objective (logistic), steps (sgd)"),
    "converged": ("bool", False, "whether the solver met its tolerance"),
    "seconds": ("float64", np.nan, "the probe's share of its block's seconds in a worker, loading included"),
    "state": ("int8", 0, "0 missing, 1 done, 2 failed"),
}
CHOSEN = {"chosen_l2": ("float64", np.nan, "the l2 that the probe chose and was fitted with")}


@dataclass(frozen=True)
class Grid:
    """Coordinates of RESULTS, and what its other dimensions are.

    neurons: d of each layer; classes: names, the training split's, in label order.
    """

    target: tuple[str, ...]
    layer: tuple[str, ...]
    selection: tuple[str, ...]
    shots: tuple[str, ...]
    fraction: tuple[float, ...]
    seed: tuple[int, ...]
    l2: tuple[float, ...] | tuple[str]
    neurons: tuple[int, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, plan: SweepPlan, neurons: Mapping[str, int], classes: tuple[str, ...]) -> "Grid":
        widths = tuple(int(neurons[layer]) for layer in plan.layer)
        axes = (plan.target, plan.layer, plan.selection, plan.shots, plan.fractions, plan.seeds, plan.l2)
        return cls(*axes, widths, classes)

    @classmethod
    def read(cls, group: zarr.Group) -> "Grid":
        values = [np.asarray(group[name][:]).tolist() for name in (*DIMS, "neurons", "class")]  # type: ignore[index]
        return cls(*map(tuple, values))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(getattr(self, dim)) for dim in DIMS)

    def union(self, other: "Grid") -> "Grid":
        """The smallest grid that holds both: fractions and l2 sorted, the rest in order of appearance."""
        if self.classes != other.classes:
            raise FingerprintMismatch(
                f"RESULTS has {len(self.classes)} classes, this split {len(other.classes)} or others; "
                "give another --out"
            )
        widths = dict(zip(self.layer, self.neurons, strict=True)) | dict(
            zip(other.layer, other.neurons, strict=True)
        )
        merged: dict[str, tuple] = {}
        for dim in DIMS:
            mine, new = getattr(self, dim), getattr(other, dim)
            added = tuple(value for value in new if value not in mine)
            merged[dim] = tuple(sorted(mine + added)) if dim in ("fraction", "l2") else mine + added
        return dataclasses.replace(self, **merged, neurons=tuple(widths[layer] for layer in merged["layer"]))


def indices(inside: Grid, wanted: Grid) -> tuple[list[int], ...]:
    """Positions of `wanted`'s coordinates in `inside`, one list per dimension."""
    return tuple([getattr(inside, dim).index(v) for v in getattr(wanted, dim)] for dim in DIMS)


def create(path: Path, grid: Grid, attributes: Mapping[str, Any]) -> zarr.Group:
    """An empty RESULTS at `path`: coordinates and what follows from them written, the rest unfilled."""
    group = zarr.open_group(path, mode="w", zarr_format=3, attributes=dict(attributes))

    def write(name: str, values: Any, dims: tuple[str, ...], about: str = "") -> None:
        values = np.asarray(values)
        dtype: Any = VariableLengthUTF8() if values.dtype.kind in "UO" else values.dtype
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=tuple(max(1, n) for n in values.shape),
            dtype=dtype,
            dimension_names=dims,
            attributes={"long_name": about} if about else {},
        )
        array[...] = values.astype(object) if values.dtype.kind == "U" else values

    for dim in DIMS:
        write(dim, getattr(grid, dim), (dim,))
    write("class", grid.classes, ("class",))
    write("neurons", np.asarray(grid.neurons, np.int64), ("layer",), "neurons of the layer, d")
    ks = np.stack([sizes(grid.fraction, d) for d in grid.neurons])  # (layer, fraction)
    everywhere = np.broadcast_to(ks[None, :, None, None, :, None, None], grid.shape)
    write("n_neurons", everywhere, DIMS, "neurons in the subset, k = max(1, round(fraction * d))")
    orders = np.full((len(grid.layer), len(grid.seed), max(grid.neurons)), -1, np.int32)
    for i, d in enumerate(grid.neurons):
        for j, seed in enumerate(grid.seed):
            orders[i, j, :d] = permutation(d, seed)
    about = (
        "order of the neurons in selection random: a subset is the first n_neurons of it; -1 beyond the layer"
    )
    write("permutation", orders, ("layer", "seed", "neuron"), about)
    chunks = (1, 1, 1, 1, len(grid.fraction), 1, len(grid.l2))
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]]]
    variables = VARIABLES | (CHOSEN if grid.l2 == (AUTO,) else {})
    shapes = dict.fromkeys(variables, (grid.shape, chunks, DIMS))
    count = len(grid.classes)
    shapes["class_accuracy"] = ((*grid.shape, count), (*chunks, count), (*DIMS, "class"))
    for name, (shape, chunk, dims) in shapes.items():
        dtype, fill, about = variables.get(
            name, ("float32", np.nan, "accuracy on the test samples of each class")
        )
        group.create_array(
            name,
            shape=shape,
            chunks=chunk,
            dtype=dtype,
            fill_value=fill,
            dimension_names=dims,
            attributes={"long_name": about},
        )
    return group
