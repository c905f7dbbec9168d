"""Leave-one-out, and leave-a-group-out: which neurons help a probe, and which hurt it.

    score_change of a group = T(all neurons but the group) - T(all neurons)

A neuron whose removal raises the score is *degrading* (Takeshita et al. 2025). Ridge probes are changed in
closed form (attribution/ridge.py), other kinds are fitted again without the group.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from probecache.analyze.attribution.ridge import fit_whole_ridge
from probecache.analyze.metrics import get_metric
from probecache.analyze.probes.fit import fit_request, task_moments
from probecache.analyze.probes.kind import ProbeRequest, claims
from probecache.analyze.probes.registry import get_kind
from probecache.analyze.results.saved import save_dataset
from probecache.analyze.selections.greedy import target_matrix
from probecache.analyze.tasks.load import load_task
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError
from probecache.store.progress import Progress, reporting
from probecache.store.reader import Store, open_store
from probecache.store.torch_defaults import plain_torch
from probecache.store.writing.subset import check_columns

NOISE = 1.96  # standard errors of a difference between two probes on the same samples
BATCH = 2**24  # scores worked on together


@plain_torch()
def attribution(
    store: Store | str | Path,
    *,
    layer: str,
    train: str = "train",
    test: str = "test",
    probe: str = "ridge",
    l2: float = 1e-2,
    groups: int | Sequence[Sequence[int]] | None = None,
    sample: int | None = None,
    seed: int = 0,
    metric: str = "accuracy",
    standardize: bool = True,
    device: str = "auto",
    progress: Progress = None,
    out: str | Path | None = None,
) -> xr.Dataset:
    """score(without the group) - score(all neurons), for each neuron or group of neurons.

    Ridge is exact and fits once (the inverse of the Gram matrix is updated by blocks); any other kind is
    fitted anew for each group.

    Parameters
    ----------
    store : Store, str or Path
    layer, train, test : str
        The layer, the split to fit on and the split to score on.
    probe : str
        "ridge" (default), "logistic" or any other kind.
    l2 : float
        Lambda of the probe, above 0.
    groups : None, int or lists of int
        None: each neuron alone. A number: so many disjoint random groups of all neurons. Lists: of neurons.
    sample : int or None
        Only so many of the groups, drawn by `seed`.
    seed : int
        Of the groups and of the sample.
    metric : str
        Any metric where higher is better; for kinds other than ridge, one that needs only predicted classes.
    standardize : bool
        Columns by the training rows' mean and standard deviation, or centred only.
    device : str
        'auto', 'cpu', 'cuda', 'cuda:N', where probes are fitted anew. Ridge runs in float64 on the CPU.
    progress : bool, function or None
        True: a bar on stderr. A function: called with (done, total) groups. False or None: silent.
    out : str, Path or None
        A folder to save the answer in; `open_results` reads it, and a report of the same layer shows it.

    Returns
    -------
    xarray.Dataset
        Along `group`, float64: `score_change` (in units of the metric); `removed`, how many neurons; `gained`
        and `lost`, test samples that became right and wrong (NaN for targets that are no classes); for ridge
        `loss_change`, of the mean squared error on the test rows. `neuron`, the neurons of each group one
        after the other along `member`, with `owner`, their group. Scalars: `full_score`; `degrading_share`,
        `helping_share`: groups whose removal raises or lowers the score; `degrading_beyond_noise`: those
        where gained - lost > 1.96 sqrt(gained + lost), which chance alone makes 2.5% of.

    Raises
    ------
    InputError
        If a probe, metric, group, sample or l2 is not allowed.

    Examples
    --------
    >>> pc.attribution("features.zarr", layer="late")["score_change"].sizes["group"]
    8
    """
    kind = get_kind(probe)
    if not l2 > 0:
        raise InputError(f"got l2 {l2:g}; allowed: above 0, as neurons may depend on each other")
    if not get_metric(metric).higher_is_better:
        raise InputError(f"got metric {metric!r}, where lower is better; allowed: one where higher is")
    opened = open_store(store)
    task = load_task(opened, layer, train, test)
    wanted = _groups(groups, sample, task.n_neurons, seed)
    every = np.arange(task.n_neurons)
    request = ProbeRequest(
        kind, every[None], every[-1:] + 1, np.array([l2]), standardize=standardize, device=device
    )
    find = _by_ridge if claims(kind, "closed_form") else _by_refits
    with reporting(progress, "groups") as told:
        found = find(task, wanted, request, metric, told or (lambda *_: None))
    found["removed"] = ("group", [len(group) for group in wanted], {"units": "neurons"})
    found["neuron"] = ("member", np.concatenate(wanted))
    found["owner"] = ("member", np.repeat(np.arange(len(wanted)), [len(group) for group in wanted]))
    change = found["score_change"]
    found["degrading_share"] = (change > 0).mean()
    found["helping_share"] = (change < 0).mean()
    beyond = (found["gained"] - found["lost"]) > NOISE * np.sqrt(found["gained"] + found["lost"])
    found["degrading_beyond_noise"] = beyond.mean().where(found["gained"].notnull().all())
    found = found.assign_attrs(
        store=str(opened.path),
        layer=layer,
        digest=opened.digest(test.split("+")[0], layer),
        train=train,
        test=test,
        probe=probe,
        l2=l2,
        metric=metric,
    )
    if out is not None:
        save_dataset(found, out)
    return found


def _groups(
    groups: int | Sequence[Sequence[int]] | None, sample: int | None, d: int, seed: int
) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    if groups is None:
        made = [np.array([j]) for j in range(d)]
    elif isinstance(groups, int | np.integer) and not isinstance(groups, bool):
        if not 2 <= groups <= d:
            raise InputError(f"got {groups} groups of {d} neurons; allowed: 2 to {d}")
        made = [np.sort(part) for part in np.array_split(rng.permutation(d), int(groups))]
    else:
        lists = [np.asarray(list(one)) for one in groups]  # type: ignore[union-attr]
        made = [check_columns(one, d, f"group {i}") for i, one in enumerate(lists)]
        if not made or max(map(len, made)) == d:
            raise InputError(f"got groups of all {d} neurons, or none; allowed: lists of some of them")
    if sample is not None:
        if not 1 <= sample <= len(made):
            raise InputError(f"got sample {sample} of {len(made)} groups; allowed: 1 to {len(made)}")
        made = [made[i] for i in np.sort(rng.permutation(len(made))[:sample])]
    return made


def _by_ridge(
    task: Task, groups: list[np.ndarray], request: ProbeRequest, metric: str, told: Callable[[int, int], None]
) -> xr.Dataset:
    """In float64 on the CPU."""
    whole = fit_whole_ridge(task, float(request.l2s[0]), request.standardize)
    targets = target_matrix(task.test_labels, len(task.classes))
    right, score = _right(task, whole.scores), _scores(task, whole.scores[None], metric)[0]
    loss = ((whole.scores - targets) ** 2).mean()
    changes: list[np.ndarray] = []
    columns: dict[str, list[float]] = {"gained": [], "lost": [], "loss_change": []}
    for batch in _batches(groups, whole.scores.size):
        scores = np.stack([whole.without(group) for group in batch])  # (group, n_test, t)
        changes.append(_scores(task, scores, metric) - score)
        for one in scores:
            now = _right(task, one)
            columns["gained"].append((now > right).sum() if now.size else np.nan)
            columns["lost"].append((now < right).sum() if now.size else np.nan)
            columns["loss_change"].append(((one - targets) ** 2).mean() - loss)
        told(len(columns["gained"]), len(groups))
    found = {"score_change": np.concatenate(changes)} | columns
    return xr.Dataset({name: ("group", values) for name, values in found.items()}).assign(full_score=score)


def _by_refits(
    task: Task, groups: list[np.ndarray], request: ProbeRequest, metric: str, told: Callable[[int, int], None]
) -> xr.Dataset:
    if task.target_kind != "classes" or get_metric(metric).needs != "predictions":
        raise InputError(
            f"got metric {metric!r} of {task.target_kind} for a {request.kind.name} probe; allowed: of "
            "classes, by predictions"
        )
    shared = task_moments(task, request.standardize, request.device)

    def predict(columns: np.ndarray) -> np.ndarray:
        one = replace(request, orders=columns[None], sizes=np.array([len(columns)]), return_predictions=True)
        fit = fit_request(task, one, shared)
        assert fit.predictions is not None
        return np.asarray(fit.predictions).reshape(-1)

    def value(predicted: np.ndarray) -> float:
        truth = torch.from_numpy(task.test_labels)
        scores = torch.from_numpy(predicted.astype(np.int64))[None]
        return float(get_metric(metric).compute(scores, truth, len(task.classes)))

    every = request.orders[0]
    whole = predict(every)
    right, score = whole == task.test_labels, value(whole)
    rows = []
    for group in groups:
        predicted = predict(np.setdiff1d(every, group))
        now = predicted == task.test_labels
        rows.append((value(predicted) - score, (now & ~right).sum(), (right & ~now).sum()))
        told(len(rows), len(groups))
    names = ("score_change", "gained", "lost")
    columns = np.asarray(rows, np.float64).T
    return xr.Dataset({n: ("group", c) for n, c in zip(names, columns, strict=True)}).assign(full_score=score)


def _batches(groups: list[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    step = max(1, BATCH // size)
    for start in range(0, len(groups), step):
        yield groups[start : start + step]


def _right(task: Task, scores: np.ndarray) -> np.ndarray:
    """Which test samples are right, int8 (n,); empty where the targets are no classes."""
    if task.test_labels.ndim > 1 or not task.classes:
        return np.empty(0, np.int8)
    return (scores.argmax(1) == task.test_labels).astype(np.int8)


def _scores(task: Task, scores: np.ndarray, metric: str) -> np.ndarray:
    """The metric of (m, n_test, t) scores, float64 (m,)."""
    truth = task.test_labels
    if not task.classes:  # numbers, as they were given
        truth = (truth + task.offset).reshape(len(truth), -1)
        scores = scores + task.offset
    outputs = torch.from_numpy(np.ascontiguousarray(scores.transpose(0, 2, 1)))
    count = len(task.classes) or truth.shape[1]
    return get_metric(metric).compute(outputs, torch.from_numpy(truth), count, logits=False).numpy()
