"""Metrics of predicted numbers, each the mean over the target's columns."""

import torch
from torch import Tensor

from probecache.analyze.metrics.metric import Metric


def _r2(scores: Tensor, truth: Tensor, n_columns: int, logits: bool) -> Tensor:
    wanted = truth.T.double()  # (t, n)
    missed = (scores.double() - wanted).square().sum(dim=2)  # (m, t)
    return r2_of(missed, wanted)


def r2_of(missed: Tensor, truth: Tensor) -> Tensor:
    """R2 float64 (m,), mean over the columns, of squared errors missed (m, t) and truth float64 (t, n)."""
    if truth.shape[1] < 2:
        return torch.full((len(missed),), torch.nan, dtype=torch.float64, device=missed.device)
    spread = (truth - truth.mean(dim=1, keepdim=True)).square().sum(dim=1)
    constant = (missed == 0).double()
    varies = (truth != truth[:, :1]).any(dim=1)
    return torch.where(varies & (spread > 0), 1 - missed / spread, constant).mean(dim=1)


def _mae(scores: Tensor, truth: Tensor, n_columns: int, logits: bool) -> Tensor:
    return (scores.double() - truth.T.double()).abs().mean(dim=(1, 2))


def _spearman(scores: Tensor, truth: Tensor, n_columns: int, logits: bool) -> Tensor:
    wanted = truth.T.double()
    kept = (wanted != wanted[:, :1]).any(dim=1)  # a constant column has no ranks to find
    if not kept.any():
        return torch.full((len(scores),), torch.nan, dtype=torch.float64, device=scores.device)
    x, y = _centred_ranks(scores[:, kept].double()), _centred_ranks(wanted[kept])
    # 0 / 0, NaN, where the predictions are constant
    return ((x * y).sum(dim=2) / (x.square().sum(dim=2) * y.square().sum(dim=1)).sqrt()).mean(dim=1)


def _centred_ranks(values: Tensor) -> Tensor:
    """Ranks along the last axis less their mean, equal values sharing the mean of theirs."""
    found, order = values.sort(dim=-1)
    n = found.shape[-1]
    at = torch.arange(n, dtype=torch.float64, device=values.device).expand_as(found)
    new = torch.ones_like(found, dtype=torch.bool)
    new[..., 1:] = found[..., 1:] != found[..., :-1]
    first = torch.where(new, at, 0.0).cummax(dim=-1).values
    ends = torch.cat([new[..., 1:], torch.ones_like(new[..., :1])], dim=-1)
    last = torch.where(ends, at, float(n)).flip(-1).cummin(dim=-1).values.flip(-1)
    return torch.empty_like(found).scatter_(-1, order, (first + last) / 2) - (n - 1) / 2


_NUMBERS = ("numbers",)
# 1 - squared errors / squared distances from the mean; of a constant column 1 where every prediction is
# exact, else 0, as in scikit-learn.
R2 = Metric("r2", _r2, "predictions", _NUMBERS)
MAE = Metric("mae", _mae, "predictions", _NUMBERS, higher_is_better=False)
# Columns of constant truth are left out; NaN where the predictions of another column are constant.
SPEARMAN = Metric("spearman", _spearman, "predictions", _NUMBERS)
