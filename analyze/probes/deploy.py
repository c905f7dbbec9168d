"""Fit the one probe of a sweep's coordinates, and predict a split of a store with it."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import probecache
from probecache.analyze.arguments import memory_bytes
from probecache.analyze.probes.block_result import BlockResult
from probecache.analyze.probes.fit import fit_block
from probecache.analyze.probes.fitted import FittedProbe
from probecache.analyze.probes.kind import ProbeRequest, check_standardize
from probecache.analyze.probes.l2_choice.select_l2 import L2_PATH, fit_chosen
from probecache.analyze.probes.registry import get_kind
from probecache.analyze.selections.projections import Selection, select
from probecache.analyze.selections.subsets import check_seeds, sizes
from probecache.analyze.tasks.class_weights import ClassWeight, check_class_weight, weigh_classes
from probecache.analyze.tasks.labels import load_labels, splits_of, told_apart
from probecache.analyze.tasks.load import load_task
from probecache.analyze.tasks.rows import rows_of
from probecache.analyze.tasks.shots import check_shots, take_shots
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError
from probecache.store.fingerprint import canonical, require_equal
from probecache.store.layout import OK
from probecache.store.machine import usable_memory
from probecache.store.reader import open_store
from probecache.store.torch_defaults import plain_torch

if TYPE_CHECKING:
    import pandas as pd

    from probecache.store.reader import Store


@plain_torch()
def fit_probe(
    store: "Store | str | os.PathLike[str]",
    *,
    layer: str,
    train: str = "train",
    target: str = "label",
    l2: float | str = 1e-4,
    fraction: float = 1.0,
    seed: int = 0,
    selection: str = "random",
    shots: int | float | str = "all",
    probe: str = "logistic",
    standardize: bool = True,
    class_weight: ClassWeight = None,
    device: str = "auto",
    memory_limit: int | str | None = None,
    **options: Any,
) -> FittedProbe:
    """Fit one probe, the one that a sweep fits at these coordinates: W and b of scores = X W' + b.

    Columns are standardised for the fit, as in a sweep; the weights that come back are for features as they
    are stored. Iterative kinds are within `tol` of the minimum in both cases, but not the same bits: a sample
    whose two best scores nearly tie may be classified differently (docs/probes.md).

    Parameters
    ----------
    store : Store, str or Path
    layer, train, target : str
        The layer, and the split to fit on, or a union "train+val": its usable rows that have the target.
    l2 : float or "auto"
        lambda in (1/n) sum CE + (lambda/2) ||W||^2; ridge: (1/n) ||Y - XW||^2 + lambda ||W||^2; "auto"
        chooses it by rows that the fit does not see, then fits all.
    fraction, seed, selection : float, int, str
        Which k = max(1, round(fraction * d)) neurons to use. A probe on a projection reads all neurons: the
        projection is part of its weights.
    shots : int, float or "all"
        Training rows per class, or a share of them; drawn by the seed.
    probe : str
        "logistic" (default), "ridge" or "sgd".
    standardize : bool
        Divide columns by their standard deviation for the fit; they are centred in any case.
    class_weight : None, 'balanced' or {class name: weight}
    device : str
        'auto', 'cpu', 'cuda', 'cuda:N'.
    memory_limit : int, str or None
        Bytes, or "4GiB" (None: 80% of what is free); a layer that takes over a third stays in the store.
    **options
        tol, the relative gap of the objective to stop at, and max_iter, the most evaluations.

    Returns
    -------
    FittedProbe

    Raises
    ------
    InputError
        As in `sweep`, and for a kind of probe without weights.

    Examples
    --------
    >>> probe = pc.fit_probe("features.zarr", layer="late", fraction=0.5, seed=1)
    >>> probe.coef.shape
    (3, 4)
    >>> probe.predict(pc.open_store("features.zarr").matrix("test", "late")).shape
    (30,)
    """
    store = open_store(store)
    check_standardize(standardize)
    if unknown := sorted(options.keys() - {"tol", "max_iter"}):
        raise InputError(
            f"got {unknown[0]!r} in fit_probe(); allowed beside its own arguments: tol, max_iter"
        )
    memory_limit = memory_bytes(memory_limit)
    limit = usable_memory() if memory_limit is None else memory_limit
    (number,), (seed,) = check_shots([shots]), check_seeds([seed])
    whole = load_task(store, layer, train, train, limit, target)
    one = np.arange(whole.test.shape[0]) == 0  # nothing is scored, and a task has a test row
    task = replace(whole, test=rows_of(whole.test, one), test_labels=whole.test_labels[one])
    task = weigh_classes(take_shots(task, number, seed), class_weight)
    k = sizes([fraction], task.n_neurons)
    (part,) = select(task, selection, (seed,), standardize=standardize)
    options |= {"probe": probe, "standardize": standardize, "device": device, "memory_limit": limit}
    found, chosen = _fit(part, k, l2, options)
    if found.coef is None or found.intercept is None:
        raise InputError(f"got a {probe} probe, which has no weights to keep; allowed: logistic, ridge, sgd")
    neurons, coef, intercept = _raw(task, part, int(k[0]), found, standardize)
    about: dict[str, Any] = {
        "store": store.path,
        "digest": "+".join(store.digest(split, layer) for split in splits_of(train)),
        "target_digest": "+".join(store.target_digest(split, target) for split in splits_of(train)),
        "backbone": canonical(store.fingerprint.backbone),
        "layer": layer,
        "split": train,
        "target": target,
        "selection": selection,
        "fraction": float(fraction),
        "k": int(k[0]),
        "seed": int(seed),
        "shots": number,
        "rows": len(task.train_labels),
        "l2": chosen,
        "standardize": standardize,
        "class_weight": json.dumps(check_class_weight(class_weight)),
        "objective": float(found.objective.item()),
        "converged": bool(found.converged.item()),
        "versions": f"probecache {probecache.__version__}, torch {torch.__version__}, numpy {np.__version__}",
    }
    texts = {name: str(value) for name, value in about.items()}
    kind = task.target_kind
    names = task.classes if kind != "numbers" else load_labels(store, train, train, target).classes
    return FittedProbe(neurons, coef, intercept, names, task.n_neurons, kind, probe, texts)


def _fit(
    part: Selection, k: np.ndarray, l2: float | str, options: dict[str, Any]
) -> tuple[BlockResult, float]:
    """The probe and its l2, which "auto" chooses."""
    if l2 != "auto":
        try:
            values = np.array([float(l2)])
        except (TypeError, ValueError):
            raise InputError(f"got l2 {l2!r}; allowed: a finite number >= 0, or 'auto'") from None
        return fit_block(part.task, part.orders, k, values, return_coef=True, **options), float(values[0])
    how = {name: value for name, value in options.items() if name not in ("probe", "class_weight", "shared")}
    request = ProbeRequest(get_kind(options["probe"]), part.orders, k, np.array(L2_PATH), **how)
    chosen = float(fit_chosen(part.task, request)[1].item())
    return _fit(part, k, chosen, options)


def _raw(
    task: Task, part: Selection, k: int, found: BlockResult, standardize: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neurons (w,), weights (c, w) and intercepts (c,), float64, for features as they are stored."""
    assert found.coef is not None
    assert found.intercept is not None
    columns = part.orders[0, :k]
    coef = found.coef[0, 0, 0, :, :k].astype(np.float64)
    intercept = found.intercept[0, 0, 0].astype(np.float64)
    if task.is_regression:
        intercept = intercept + task.offset
    if standardize:
        coef = coef / part.task.scale[columns]
        intercept = intercept - coef @ part.task.mean[columns]
    if part.basis is None:
        return columns, coef, intercept
    # the columns are (x - mean) @ basis, the basis rounded as `rotate` rounds it
    basis = (part.basis / task.scale[:, None]).astype(np.float32)[:, columns].astype(np.float64)
    coef = coef @ basis.T
    return np.arange(task.n_neurons), coef, intercept - coef @ task.mean


def predict_split(
    probe: FittedProbe, store: "Store | str | os.PathLike[str]", split: str, *, layer: str | None = None
) -> "pd.DataFrame":
    """Predictions for the usable rows of a split, in its order; rows that failed are left out.

    Columns: `sample` (its name); of classes `label`, the row's own where the split has the target ("" where
    unlabelled), `predicted`, and its `probability` where the probe has probabilities; of labels and numbers a
    column for each.
    layer: the probe's own by default. The layer is read in row blocks, the probe's neurons only.

    Raises FingerprintMismatch where the store's backbone is another than the probe's, InputError where the
    layer has another number of neurons.
    """
    import pandas as pd

    store = open_store(store)
    name = layer or probe.provenance.get("layer", "")
    d = store.shape(split, name)[1]
    if d != probe.layer_size:
        raise InputError(
            f"got layer {name!r} of {d} neurons in {store.path}; the probe was fitted on {probe.layer_size}"
        )
    if "backbone" in probe.provenance:
        backbone = json.loads(probe.provenance["backbone"])
        require_equal(store.fingerprint.backbone, backbone, f"the features of {store.path}")
    keep = np.asarray(store.status(split)) == OK
    parts = [probe.scores_of(block) for block in _usable(store, split, name, probe.neurons, keep)]
    if not parts:
        raise InputError(f"got no usable row in split {split!r} of {store.path}; extract it again")
    scores = np.concatenate(parts)
    table: dict[str, Any] = {"sample": np.asarray(store.samples(split), dtype=object)[keep]}
    target, guess = probe.provenance.get("target", "label"), probe.decide(scores)
    if probe.kind == "classes":
        if target in store.targets(split) and (found := store.target(split, target)).kind == "classes":
            known = told_apart(found.names) or [str(i) for i in range(int(found.values.max(initial=-1)) + 1)]
            table["label"] = [known[i] if i >= 0 else "" for i in found.values[keep].tolist()]
        table["predicted"] = np.array(probe.classes, dtype=object)[guess]
        if get_kind(probe.probe).probabilities:
            table["probability"] = probe.probabilities(scores).max(axis=1)
    else:
        table |= dict(zip(probe.classes, guess.reshape(len(guess), -1).T, strict=True))
    return pd.DataFrame(table)


def _usable(
    store: "Store", split: str, layer: str, neurons: np.ndarray, keep: np.ndarray
) -> Iterator[np.ndarray]:
    for start, block in store.blocks(split, layer, columns=neurons):
        mine = keep[start : start + len(block)]
        if mine.any():
            yield block[mine]
