"""The peers, scikit-learn and torch L-BFGS, on the columns that we see; and what their weights are worth."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from probecache.analyze.tasks.task import Task

L2 = 1e-4


def columns(task: Task, order: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(  # type: ignore[return-value]
        np.ascontiguousarray(((m - task.mean) / task.scale)[:, order[:k]].astype(np.float32))
        for m in (task.train, task.test)
    )


def penalised_entropy(
    x: np.ndarray, y: np.ndarray, coef: np.ndarray, intercept: np.ndarray, l2: float = L2
) -> float:
    """The penalised mean cross-entropy, in float64."""
    z = x.astype(np.float64) @ coef.T.astype(np.float64) + intercept
    if z.shape[1] == 1:
        z = np.hstack([np.zeros_like(z), z])
    top = z.max(axis=1)
    entropy = np.log(np.exp(z - top[:, None]).sum(axis=1)) + top - z[np.arange(len(y)), y]
    return float(entropy.mean() + l2 / 2 * (coef.astype(np.float64) ** 2).sum())


def torch_lbfgs(
    device: str, l2: float = L2, tol: float = 1e-5
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    def fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        data, labels = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
        layer = torch.nn.Linear(x.shape[1], int(y.max()) + 1, device=device)
        torch.nn.init.zeros_(layer.weight)
        optimiser = torch.optim.LBFGS(
            layer.parameters(), max_iter=2000, tolerance_grad=tol, line_search_fn="strong_wolfe"
        )

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(layer(data), labels)
            loss = loss + l2 / 2 * layer.weight.square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)
        return layer.weight.detach().cpu().numpy(), layer.bias.detach().cpu().numpy()

    return fit


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begun = time.perf_counter()
    value = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun, value


def fit_path(
    how: tuple[str, float],
    task: Task,
    order: np.ndarray,
    k: int,
    l2s: tuple[float, ...],
    clock: Callable[[], float],
) -> list[list[float]]:
    """What `fit_peer` says of one solver at each penalty, from the largest down by warm starts; each has its
    share of the whole path's seconds."""
    from sklearn.linear_model import LogisticRegression

    x, test = columns(task, order, k)
    y, truth = task.train_labels, task.test_labels
    model = LogisticRegression(solver=how[0], tol=how[1], max_iter=10_000, warm_start=True)
    found, spent = [[0.0, np.nan, np.nan] for _ in l2s], 0.0
    for p in np.argsort(l2s)[::-1]:
        model.set_params(C=1 / (l2s[p] * len(x)))
        begun = clock()
        model.fit(x, y)
        spent += clock() - begun
        right = float(np.mean(model.predict(test) == truth))
        found[p] = [0.0, penalised_entropy(x, y, model.coef_, model.intercept_, l2s[p]), right]
    return [[spent / len(l2s), *told] for _, *told in found]
