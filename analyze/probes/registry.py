"""Kinds of probes by name: ours, those that a program registered, those of installed packages.

A package offers a kind by an entry point of the group `probecache.probes`: a name, and a `Kind`.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from probecache.analyze.probes.kind import Kind, claims
from probecache.store.errors import InputError, close_names

GROUP = "probecache.probes"
_OURS = ("logistic", "ridge", "knn", "sgd")
NEEDED = tuple(name for name in vars(Kind) if not name.startswith("_"))
_registered: dict[str, Kind] = {}


def kind_names() -> tuple[str, ...]:
    """Every kind that can be asked for by name here."""
    return tuple(dict.fromkeys([*_OURS, *_registered, *(point.name for point in entry_points(group=GROUP))]))


def get_kind(kind: "str | Kind") -> Kind:
    """The kind of a name; InputError where there is none. A kind itself is given back."""
    if isinstance(kind, Kind):
        return kind
    if not isinstance(kind, str):
        raise InputError(
            f"got a {type(kind).__name__} for a probe; give a name: pc.register_probe(name, make) takes a "
            "function make(l2, seed) that gives estimators"
        )
    if kind in _registered:
        return _registered[kind]
    if kind in _OURS:
        return import_module(f"probecache.analyze.probes.kinds.{kind}").KIND
    for point in entry_points(group=GROUP):
        if point.name == kind:
            return point.load()
    raise InputError(f"got probe {kind!r}; {close_names(kind, kind_names())}")


def known_claims(name: str, what: str) -> bool:
    """`claims` of the kind of a name; False where this process does not know it."""
    try:
        return claims(get_kind(name), what)
    except InputError:
        return False


def register_probe(kind: "str | Kind", make: Callable[..., Any] | None = None, **about: Any) -> Kind:
    """Register a kind of probe under a name, for this process and the Dask workers of its sweeps.

    Parameters
    ----------
    kind
        A name, or an object with all that `Kind` asks for.
    make
        With a name: `make(l2, seed)` returns an unfitted scikit-learn estimator, which is fitted on the
        standardised columns of one subset at a time. cloudpickle must be able to pickle it.
    **about
        `has_l2` (default True) and `targets` (default ("classes",)) of such a kind.

    Returns
    -------
    Kind
        What was registered.

    Raises
    ------
    InputError
        If the name is one of probecache's own, or the object lacks something.

    Examples
    --------
    >>> from sklearn.neighbors import NearestCentroid
    >>> register_probe("centroid", lambda l2, seed: NearestCentroid(), has_l2=False).name
    'centroid'
    """
    if isinstance(kind, str):
        if make is None:
            raise InputError(f"got probe {kind!r} without `make`; needed: make(l2, seed) -> estimator")
        from probecache.analyze.probes.kinds.estimator import EstimatorKind

        made: Kind = EstimatorKind(kind, make, **about)
    else:
        made = kind
    lacking = [name for name in NEEDED if not hasattr(made, name)]
    if lacking:
        raise InputError(f"got a probe without {', '.join(lacking)}; see analyze/probes/kind.py: Kind")
    if made.name in _OURS:
        raise InputError(f"got a probe called {made.name!r}, which is one of probecache's own; choose a name")
    _registered[made.name] = made
    return made
