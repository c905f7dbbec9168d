"""The labelled grid that RESULTS lie on: coordinates, the variables over them, and how these are chunked."""

import base64
import dataclasses
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

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
SEAL = "_seal"  # behind the name of a wide variable: a hash of its row, which the probe's own seal covers
CHUNK_PROBES = 4096  # of a variable's chunk at most: a block rewrites the chunks that it lies in
CHUNK_SEEDS = 64
CHUNK_BYTES = 2**20  # of a wide variable's chunk at most, unless one seed's rows are larger
MOST_SPANS = 16  # chunks that fractions and l2 may lie in by growing, before all are written as one again


@dataclass(frozen=True)
class Variable:
    """An array over the seven dimensions, and over more where each probe has a row of values."""

    name: str
    dtype: str
    fill: Any
    about: str
    dims: tuple[str, ...] = DIMS


@dataclass(frozen=True)
class Grid:
    """Coordinates of RESULTS, and what its other dimensions are.

    neurons: d of each layer; names: of each target's classes or labels, the training split's, in label order,
    or of the columns of numbers. metrics: names of further scores, each a float64 variable. samples: names of
    all test samples, and truth: what is right for them under each target (`packed`), where predictions are
    kept; scores: whether the test scores are kept too; groups: what each of the samples belongs to, by name.
    span: how many fractions and l2 a chunk holds, where RESULTS have grown by either, new ones behind those
    that were there; () all of them.
    """

    target: tuple[str, ...]
    layer: tuple[str, ...]
    selection: tuple[str, ...]
    shots: tuple[str, ...]
    fraction: tuple[float, ...]
    seed: tuple[int, ...]
    l2: tuple[float, ...] | tuple[str]
    neurons: tuple[int, ...]
    names: tuple[tuple[str, ...], ...]
    metrics: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    truth: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    span: tuple[int, ...] = ()

    @classmethod
    def of(cls, plan: SweepPlan, neurons: Mapping[str, int], names: Mapping[str, tuple[str, ...]]) -> "Grid":
        widths = tuple(int(neurons[layer]) for layer in plan.layer)
        axes = (plan.target, plan.layer, plan.selection, plan.shots, plan.fractions, plan.seeds, plan.l2)
        return cls(*axes, widths, tuple(tuple(names[target]) for target in plan.target), plan.metric)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Grid":
        listed = {name: tuple(value) for name, value in values.items()}
        return cls(**listed | {"names": tuple(map(tuple, values["names"]))})

    def as_json(self) -> dict[str, list[Any]]:
        found = {field.name: list(getattr(self, field.name)) for field in dataclasses.fields(self)}
        if not self.span:
            del found["span"]
        return found | {"names": [list(names) for names in self.names]}

    @property
    def classes(self) -> tuple[str, ...]:
        """The coordinate `class`: names where all targets have the same, else positions in a target's own."""
        distinct = {names for names in self.names if names}
        if len(distinct) == 1:
            return next(iter(distinct))
        return tuple(str(i) for i in range(max(map(len, distinct), default=0)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(getattr(self, dim)) for dim in DIMS)

    @property
    def lengths(self) -> dict[str, int]:
        """Length of every dimension that a variable may have."""
        more = {"class": len(self.classes), "sample": len(self.samples), "neuron": max(self.neurons)}
        return dict(zip(DIMS, self.shape, strict=True)) | more

    @property
    def scalars(self) -> tuple[Variable, ...]:
        """One value per probe; `state` and the seals are last, in the order in which they are written."""
        named = {name: about for name, about in VARIABLES.items() if name != "state"}
        named |= {name: ("float64", np.nan, f"{name} on the test samples") for name in self.metrics}
        if self.l2 == (AUTO,):
            named |= CHOSEN
        seals = {
            f"{wide.name}{SEAL}": ("uint64", 0, f"hash of the probe's row of {wide.name}")
            for wide in self.wide
        }
        seals["seal"] = ("uint64", 0, "hash of the probe's values and coordinates; 0 where there are none")
        return (*(Variable(name, *rest) for name, rest in (named | seals).items()), STATE)

    @property
    def wide(self) -> tuple[Variable, ...]:
        """A row of values per probe."""
        found = []
        if self.classes:
            about = "accuracy on the test samples of each class"
            found.append(Variable("class_accuracy", "float32", np.nan, about, (*DIMS, "class")))
        if self.samples:
            about = "predicted class of each test sample, a position in `class`"
            found.append(Variable("predictions", "int32", -1, about, (*DIMS, "sample")))
        if self.scores:
            about = "score of each class for each test sample; of two classes 0 and the second one's log-odds"
            found.append(Variable("scores", "float32", np.nan, about, (*DIMS, "class", "sample")))
        return tuple(found)

    @property
    def variables(self) -> tuple[Variable, ...]:
        return (*self.wide, *self.scalars)

    def shape_of(self, variable: Variable) -> tuple[int, ...]:
        return tuple(self.lengths[dim] for dim in variable.dims)

    def chunk_of(self, variable: Variable) -> tuple[int, ...]:
        """Shape of a chunk: one target, layer, selection and shots, `span` fractions and l2, some seeds.

        It does not depend on how many of those or of seeds there are, nor on what RESULTS have grown by, so
        that they grow without any chunk being changed.
        """
        if variable.dims == ORDERS.dims:
            return (1, CHUNK_SEEDS, max(self.neurons))
        f, p = self.span or (len(self.fraction), len(self.l2))
        extra = tuple(self.lengths[dim] for dim in variable.dims[len(DIMS) :])
        one = f * p
        seeds = min(CHUNK_SEEDS, CHUNK_PROBES // one)
        if extra:
            seeds = min(seeds, CHUNK_BYTES // (one * math.prod(extra) * np.dtype(variable.dtype).itemsize))
        return (1, 1, 1, 1, f, max(1, seeds), p, *extra)

    def union(self, other: "Grid") -> "Grid":
        """The smallest grid that holds both, in order of appearance, so that what is there keeps its place.

        Where growth by fractions and l2 would have spread them over more than MOST_SPANS chunks they are
        sorted, and lie in one again: so often as to double what was ever written, at most.
        """
        for name in ("metrics", "samples", "scores", "groups"):
            mine, new = getattr(self, name), getattr(other, name)
            if mine != new:
                raise FingerprintMismatch(
                    f"RESULTS has {len(mine)} {name}, this sweep {len(new)} or others; give another --out"
                )
        widths = dict(zip(self.layer, self.neurons, strict=True)) | dict(
            zip(other.layer, other.neurons, strict=True)
        )
        merged: dict[str, tuple] = {}
        for dim in DIMS:
            mine, new = getattr(self, dim), getattr(other, dim)
            added = tuple(value for value in new if value not in mine)
            merged[dim] = mine + added
        span = self.span
        if len(merged["fraction"]) > len(self.fraction) or len(merged["l2"]) > len(self.l2):
            span = self.span or (len(self.fraction), len(self.l2))
            if -(-len(merged["fraction"]) // span[0]) * -(-len(merged["l2"]) // span[1]) > MOST_SPANS:
                span = ()
                merged |= {dim: tuple(sorted(merged[dim])) for dim in ("fraction", "l2")}
        whole = dataclasses.replace(
            self,
            **merged,
            span=span,
            neurons=tuple(widths[layer] for layer in merged["layer"]),
            names=self._of_targets(other, "names", merged["target"]),
            truth=self._of_targets(other, "truth", merged["target"]),
        )
        if len(whole.classes) != len(self.classes):
            raise FingerprintMismatch(
                f"RESULTS has {len(self.classes)} classes, this sweep {len(other.classes)}; "
                "give another --out"
            )
        return whole

    def _of_targets(self, other: "Grid", what: str, targets: tuple[str, ...]) -> tuple[Any, ...]:
        """What belongs to each target of both grids; FingerprintMismatch where they differ in one."""
        mine, new = (dict(zip(grid.target, getattr(grid, what), strict=False)) for grid in (self, other))
        for target in mine.keys() & new.keys():
            if mine[target] != new[target]:
                raise FingerprintMismatch(
                    f"RESULTS has other {what} of target {target!r} than this sweep; give another --out"
                )
        known = mine | new
        return tuple(known[target] for target in targets if target in known)


STATE = Variable("state", *VARIABLES["state"])
ORDERS = Variable(
    "permutation",
    "int32",
    -1,
    "order of the neurons in selection random: a subset is the first n_neurons of it; -1 beyond the layer",
    ("layer", "seed", "neuron"),
)


def indices(inside: Grid, wanted: Grid) -> tuple[list[int], ...]:
    """Positions of `wanted`'s coordinates in `inside`, one list per dimension."""
    places = ({value: i for i, value in enumerate(getattr(inside, dim))} for dim in DIMS)
    return tuple(
        [place[value] for value in getattr(wanted, dim)] for place, dim in zip(places, DIMS, strict=True)
    )


def packed(values: np.ndarray) -> str:
    """Positions of classes, int (n,), as text: zlib of little-endian int32 in base64."""
    return base64.b64encode(zlib.compress(values.astype("<i4").tobytes(), 9)).decode()


def unpacked(text: str) -> np.ndarray:
    """int32 (n,) of what `packed` gave."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i4").astype(np.int32)
