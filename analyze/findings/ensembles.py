"""Probes on disjoint subsets of one layer: do they agree, and are they better together?

If information is spread redundantly, probes that share no neuron should predict alike, and averaging them
should gain little over one of them while matching the full layer. (Soft ensemble: mean of the class
probabilities.)
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from probecache.analyze.metrics.scores import log_probabilities
from probecache.analyze.probes.fit import fit_block, task_moments
from probecache.analyze.selections.subsets import check_seeds, permutation
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
    d = task.n_neurons
    if not 2 <= parts <= d:
        raise InputError(f"got {parts} parts of {d} neurons; allowed: 2 to {d}")
    if task.target_kind != "classes":
        raise InputError(f"got {task.target_kind}; an ensemble votes for classes")
    seed_list = list(check_seeds(seeds))
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
            return_scores=True,
        )
        assert fit.scores is not None  # they were asked for
        return log_probabilities(torch.from_numpy(fit.scores[:, 0, 0])).exp().transpose(1, 2).numpy()

    reference = probabilities(np.arange(d)[None])[0].argmax(1)
    orders = [permutation(d, seed)[: k * parts].reshape(parts, k) for seed in seed_list]
    found = [_of_one_seed(probabilities(those), reference, task.test_labels) for those in orders]
    kept: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for name in found[0]:
        values = np.stack([one[name] for one in found])
        kept[name] = (("seed", "part")[: values.ndim], values)
    return xr.Dataset(
        {**kept, "full_accuracy": float((reference == task.test_labels).mean())},
        coords={"seed": seed_list, "part": np.arange(parts)},
        attrs={"layer": task.layer, "neurons_per_part": k, "neurons": d, "l2": l2},
    )


def _of_one_seed(each: np.ndarray, reference: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """What the parts' probes are worth, alone (part,) and together ().

    each: probabilities (part, sample, class); reference: the full layer's picks (sample,).
    """
    parts, _, c = each.shape
    picks = each.argmax(-1)  # (part, sample)
    right = (picks == truth).mean(1)
    a, b = np.tril_indices(parts, -1)
    votes = (picks[:, :, None] == np.arange(c)).sum(0)  # (sample, class)
    return {
        "accuracy": right,
        "agreement": (picks[a] == picks[b]).mean(),
        "chance_agreement": np.mean(right[a] * right[b] + (1 - right[a]) * (1 - right[b]) / max(c - 1, 1)),
        "ensemble_accuracy": (each.mean(0).argmax(-1) == truth).mean(),
        "vote_accuracy": (votes.argmax(-1) == truth).mean(),
        "agreement_with_full": (picks == reference).mean(1),
    }
