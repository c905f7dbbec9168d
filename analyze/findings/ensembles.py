"""Probes on disjoint subsets of one layer: do they agree, and are they better together?

If information is spread redundantly, probes that share no neuron should predict alike, and averaging them
should gain little over one of them while matching the full layer. (Soft ensemble: mean of the class
probabilities.)
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from probecache.analyze.probes.fit import fit_block, task_moments
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.tasks.matrix import StoredRows
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError


def disjoint_ensemble(
    task: Task,
    parts: int = 5,
    *,
    seeds: int | Sequence[int] = 5,
    l2: float = 1e-4,
    device: str = "auto",
    standardize: bool = True,
) -> xr.Dataset:
    """A logistic probe on each of `parts` disjoint random subsets of d // parts neurons, and on the full
    layer.

    Returns a Dataset: `accuracy` (seed, part), `agreement` (seed): share of test samples on which two of the
    probes agree, mean over pairs; `chance_agreement` (seed): what probes of these accuracies would agree on
    if their errors were independent and spread evenly over the wrong classes; `ensemble_accuracy` and
    `vote_accuracy` (seed): mean of probabilities, and majority (ties to the first class); `full_accuracy`;
    `agreement_with_full` (seed, part).
    """
    d, c = task.n_neurons, len(task.classes)
    if not 2 <= parts <= d:
        raise InputError(f"got {parts} parts of {d} neurons; allowed: 2 to {d}")
    if isinstance(task.test, StoredRows):
        raise InputError("got a layer that stays on disk; ensembles score it in memory: raise memory_limit")
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    k = d // parts
    shared = task_moments(task, standardize, device=device)

    def probabilities(orders: np.ndarray) -> np.ndarray:
        """Of a probe on each row of `orders`: (row, test sample, class)."""
        fit = fit_block(
            task,
            orders,
            np.array([orders.shape[1]]),
            np.array([l2]),
            standardize=standardize,
            device=device,
            shared=shared,
            return_coef=True,
        )
        assert fit.coef is not None  # both were asked for
        assert fit.intercept is not None
        return np.stack(
            [
                _softmax(task, order, fit.coef[i, 0, 0], fit.intercept[i, 0, 0], standardize)
                for i, order in enumerate(orders)
            ]
        )

    reference = probabilities(np.arange(d)[None])[0].argmax(1)

    scores: dict[str, list] = {
        name: [] for name in ("accuracy", "agreement", "chance", "soft", "vote", "with_full")
    }
    for seed in seed_list:
        orders = permutation(d, seed)[: k * parts].reshape(parts, k)
        each = probabilities(orders)  # (part, sample, class)
        picks = each.argmax(-1)  # (part, sample)
        right = (picks == task.test_labels).mean(1)
        a, b = np.tril_indices(parts, -1)
        counts = (picks[:, :, None] == np.arange(c)).sum(0)  # (sample, class)
        scores["accuracy"].append(right)
        scores["agreement"].append((picks[a] == picks[b]).mean())
        scores["chance"].append(
            np.mean(right[a] * right[b] + (1 - right[a]) * (1 - right[b]) / max(c - 1, 1))
        )
        scores["soft"].append((each.mean(0).argmax(-1) == task.test_labels).mean())
        scores["vote"].append((counts.argmax(-1) == task.test_labels).mean())
        scores["with_full"].append((picks == reference).mean(1))
    return xr.Dataset(
        {
            "accuracy": (("seed", "part"), np.stack(scores["accuracy"])),
            "agreement": ("seed", scores["agreement"]),
            "chance_agreement": ("seed", scores["chance"]),
            "ensemble_accuracy": ("seed", scores["soft"]),
            "vote_accuracy": ("seed", scores["vote"]),
            "agreement_with_full": (("seed", "part"), np.stack(scores["with_full"])),
            "full_accuracy": float((reference == task.test_labels).mean()),
        },
        coords={"seed": seed_list, "part": np.arange(parts)},
        attrs={"layer": task.layer, "neurons_per_part": k, "neurons": d, "l2": l2},
    )


def _softmax(
    task: Task, order: np.ndarray, coef: np.ndarray, intercept: np.ndarray, standardize: bool
) -> np.ndarray:
    """softmax(test[:, order] W' + b): coef (c, k) in the probe's units, intercept (c,) -> (n_test, c).

    Two classes have one row of weights, the second class's; the first class's logit is zero.
    """
    x = task.test[:, order].astype(np.float64)  # type: ignore[index]
    if standardize:
        x = (x - task.mean[order]) / task.scale[order]
    logits = x @ coef[:, : len(order)].T.astype(np.float64) + intercept
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)
