"""A sweep's plan: which probes on which layers, validated when made, expanded to the grid of RESULTS.

fractions = [0.05, 0.2, 1.0]          # sweep.toml, for `probecache sweep STORE --config sweep.toml`
layer = ["blocks.5", "penultimate"]
train = "train"
test = "test"
seeds = 5
l2 = [1e-4, 1e-2]
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probecache.analyze.metrics import get_metric
from probecache.analyze.probes.kind import MOST_L2, TOL, Kind, check_standardize
from probecache.analyze.probes.l2_choice.select_l2 import FOLDED, L2_PATH, describe_choice
from probecache.analyze.probes.registry import get_kind
from probecache.analyze.selections.projections import check_selection
from probecache.analyze.selections.subsets import check_seeds
from probecache.analyze.tasks.class_weights import ClassWeight, check_class_weight
from probecache.analyze.tasks.control import check_control
from probecache.analyze.tasks.labels import splits_of
from probecache.analyze.tasks.shots import ALL, check_shots
from probecache.store.errors import InputError, close_names
from probecache.store.storage.safe_read import read_text

SOLVERS = ("auto", "torch", "sklearn", "cuml")
DIMS = ("target", "layer", "selection", "shots", "fraction", "seed", "l2")
REFITS = ("train", "train+val")
_EXAMPLES = {"layer": "one or more names or globs", "fractions": "one or more in (0, 1], such as 0.1,0.5,1"}
RENAMED = {"method": "selection", "metrics": "metric", "targets": "target", "layers": "layer"}
AUTO = "auto"  # the one coordinate along l2 where each probe has chosen its own


@dataclass(frozen=True)
class SweepPlan:
    """Every probe of  target x layer x selection x shots x fraction x seed x l2,  and how each is fitted.

    Scalars are taken as lists of one. `seeds=5` means 0 to 4. Fractions are kept sorted, each in (0, 1], and
    rounded to 12 digits, so that 0.15 and np.linspace's 0.15000000000000002 are one fraction. l2 is lambda in
    (1/n) sum CE + (lambda/2) ||W||^2; for ridge in (1/n) ||Y - XW||^2 + lambda ||W||^2.
    l2="auto": each probe takes the best of `l2_path` by training rows that its fit does not see
    (analyze/probes/l2_choice); with `val` by that split, and is then fitted on train, or on both where refit
    is "train+val". class_weight: as in `weigh_classes`.
    train and test may be unions, "train+val". target and layer may be globs. shots: training rows of each
    class, or shares of them, drawn by the seed. metric: computed beside accuracy. control: labels that say
    nothing (`analyze.tasks.control`). save_predictions: "classes", or "scores" too. groups: a target that
    says which test samples belong together; kept beside the predictions, to be resampled as wholes.
    Raises InputError, one line that says what was got and what is allowed.
    """

    layer: tuple[str, ...]
    fractions: tuple[float, ...]
    train: str = "train"
    test: str = "test"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    selection: tuple[str, ...] = ("random",)
    probe: str = "logistic"
    l2: tuple[float, ...] | tuple[str] = (1e-4,)
    solver: str = "auto"
    standardize: bool = True
    l2_path: tuple[float, ...] | None = None
    class_weight: ClassWeight | tuple[tuple[str, float], ...] = None
    tol: float = TOL
    target: tuple[str, ...] = ("label",)
    shots: tuple[str, ...] = (ALL,)
    metric: tuple[str, ...] = ()
    val: str | None = None
    refit: str = "train"
    control: str | None = None
    save_predictions: str | bool | None = None
    groups: str | None = None

    def __post_init__(self) -> None:
        fix = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        fix("layer", _names("layer", self.layer))
        fix("selection", _names("selection", self.selection))
        fix(
            "fractions", tuple(sorted(_numbers("fraction", self.fractions, "above 0, up to 1", _is_fraction)))
        )
        fix("seeds", check_seeds(self.seeds))
        for selection in self.selection:
            check_selection(selection)
        _one_of("solver", self.solver, SOLVERS)
        if self.solver not in ("auto", *self.kind.solvers):
            raise InputError(f"got solver {self.solver!r} for a {self.probe} probe; only torch has it")
        check_standardize(self.standardize)
        fix("tol", _numbers("tol", self.tol, "above 0, below 1", lambda v: 0 < v < 1)[0])
        self._check_penalties(fix)
        fix("class_weight", check_class_weight(self.class_weight))  # type: ignore[arg-type]
        alone = self.solver in ("sklearn", "cuml")
        if self.class_weight is not None and (alone or not self.kind.takes_weights):
            raise InputError(
                f"got class_weight for probe {self.probe!r}, solver {self.solver!r}; "
                "knn, kinds of your own, and the solvers sklearn and cuml take none"
            )
        fix("target", _names("target", self.target))
        fix("shots", check_shots(self.shots))
        fix("metric", tuple(get_metric(name).name for name in _names("metric", self.metric or "accuracy")))
        fix("metric", tuple(name for name in self.metric if name != "accuracy"))
        for name in ("train", "test"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise InputError(f"got {name} split {getattr(self, name)!r}; it must be a split's name")
            splits_of(getattr(self, name))
        self._check_protocol(fix)

    def _check_protocol(self, fix: Any) -> None:
        """Validation split, control task, what is kept of each probe."""
        if self.val is not None and self.l2 != (AUTO,):
            raise InputError(
                f"got val {self.val!r}, which chooses among penalties, and numbers for l2; "
                "give --l2 auto, or leave --val out"
            )
        _one_of("refit", self.refit, REFITS)
        if self.refit != "train" and self.val is None:
            raise InputError(
                f"got refit {self.refit!r} without a validation split; give --val, or leave it out"
            )
        if self.val is not None and self.val in (*splits_of(self.train), *splits_of(self.test)):
            raise InputError(f"got val {self.val!r}, which is train or test too; give a split of its own")
        if self.control is not None:
            check_control(self.control)
        kept = self.save_predictions
        if isinstance(kept, bool):
            kept = "classes" if kept else None
        if kept not in (None, "classes", "scores"):
            raise InputError(f"got save_predictions {kept!r}; allowed: classes, scores")
        fix("save_predictions", kept)
        if self.groups is not None and (not isinstance(self.groups, str) or not self.groups):
            raise InputError(f"got groups {self.groups!r}; needed: the name of a target of the test split")
        if self.groups is not None and kept is None:
            raise InputError(
                f"got groups {self.groups!r} without --save-predictions; groups are kept beside predictions: "
                "give both"
            )

    def _check_penalties(self, fix: Any) -> None:
        allowed: tuple[str, Any] = (f"0 to {MOST_L2:g}", lambda v: 0 <= v <= MOST_L2)
        if self.l2 not in (AUTO, (AUTO,), [AUTO]):
            fix("l2", tuple(sorted(_numbers("l2", self.l2, *allowed))))
            if self.l2_path is not None:
                raise InputError(
                    "got --l2-path and numbers for l2; give --l2 auto, which chooses from that path"
                )
            return
        fix("l2", (AUTO,))
        path = L2_PATH if self.l2_path is None else self.l2_path
        fix("l2_path", tuple(sorted(_numbers("l2_path", path, *allowed))))
        if not self.kind.l2_choice:
            lacks = "chooses none; give numbers" if self.kind.has_l2 else "has no l2; leave --l2 out"
            raise InputError(f"got l2 'auto' for a {self.probe} probe, which {lacks}")
        if self.kind.l2_choice == FOLDED and self.solver in ("sklearn", "cuml"):
            raise InputError(f"got l2 'auto' for ridge with solver {self.solver!r}; only torch has its folds")

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths along (target, layer, selection, shots, fraction, seed, l2)."""
        axes = (self.target, self.layer, self.selection, self.shots, self.fractions, self.seeds, self.l2)
        return tuple(map(len, axes))

    @property
    def kind(self) -> Kind:
        return get_kind(self.probe)

    @property
    def n_probes(self) -> int:
        return math.prod(self.shape)

    def settings(self) -> dict[str, Any]:
        """What must agree for two runs to share one RESULTS: everything but the grid's coordinates."""
        names = ("train", "test", "probe", "solver", "standardize", "class_weight", "tol", "control")
        choice = None if self.l2_path is None else [self._choice(), *self.l2_path]
        kept = {"predictions": self.save_predictions, "metric": list(self.metric), "groups": self.groups}
        return {name: getattr(self, name) for name in names} | {"l2_choice": choice} | kept

    def _choice(self) -> str:
        """How l2 "auto" chooses, in words."""
        if self.val is None:
            return describe_choice(self.kind)
        return f"accuracy on split {self.val}, refitted on {self.refit}"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "the plan") -> "SweepPlan":
        """A plan from names and values, as a file holds them; unknown names are refused."""
        known = [field.name for field in dataclasses.fields(cls)]
        check_names(values, known, where)
        for name in ("layer", "fractions"):
            if values.get(name) is None:
                raise InputError(f"got no {name} in {where}; give {_EXAMPLES[name]}")
        return cls(**values)


def check_names(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """InputError for the first of `names` that is none of `known`, with the name that it may stand for."""
    for name in names:
        if name in RENAMED:
            raise InputError(f"got {name!r} in {where}; it is called {RENAMED[name]!r} now")
        if name not in known:
            raise InputError(f"got {name!r} in {where}; {close_names(name, known)}")


def read_config(path: str | Path) -> dict[str, Any]:
    """The names and values of a TOML or YAML file, by its suffix (.toml, .yaml, .yml)."""
    path = Path(path).expanduser()
    text = read_text(path, "--config", most=1 << 20)
    if path.suffix == ".toml":
        import tomllib

        try:
            values: Any = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"got --config {path}, which is not TOML: {error}") from None
    elif path.suffix in (".yaml", ".yml"):
        import yaml  # comes with dask

        try:
            values = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise InputError(
                f"got --config {path}, which is not YAML: {' '.join(str(error).split())}"
            ) from None
    else:
        raise InputError(f"got --config {path}; allowed: a file ending in .toml, .yaml or .yml")
    if not isinstance(values, dict):
        raise InputError(f"got --config {path} with {type(values).__name__} on top; needed: names and values")
    return values


def _is_fraction(value: float) -> bool:
    return 0 < value <= 1


def _names(what: str, value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        todo = "; pc.register_metric gives a function a name" if what == "metric" and callable(value) else ""
        raise InputError(f"got {what} {value!r}; needed: one name, or a list of names{todo}")
    return tuple(dict.fromkeys(names))


def _numbers(what: str, value: Any, allowed: str, good: Any) -> tuple[float, ...]:
    values = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    numbers = []
    for item in values:
        try:
            # bool is an int: `true` in a config file is a slip, not the number 1
            number = math.nan if isinstance(item, bool) else float(f"{float(item):.12g}")
        except (TypeError, ValueError):
            number = math.nan
        if not good(number):
            listed = "; a list is written [0.1, 1]" if isinstance(item, str) and "," in item else ""
            raise InputError(f"got {what} {item!r}; allowed: {allowed}{listed}")
        numbers.append(number)
    if not numbers:
        raise InputError(f"got an empty list for {what}; give at least one, {allowed}")
    return tuple(dict.fromkeys(numbers))


def _one_of(what: str, got: Any, allowed: tuple[str, ...]) -> None:
    if got not in allowed:
        raise InputError(f"got {what} {got!r}; {close_names(str(got), allowed)}")
