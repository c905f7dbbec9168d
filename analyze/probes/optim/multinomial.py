"""Multinomial logistic probes on nested column subsets, many in one batch.

Minimises, for each probe,

    (1 / sum w) sum_i w_i CE(y_i, W x_i + b)  +  (l2 / 2) ||W||^2,

which `fit_logistic.py` does. Equal to scikit-learn's LogisticRegression(C = 1 / (l2 sum w)); two classes have
one weight vector, as there.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from probecache.analyze.probes.design import paired_product
from probecache.analyze.probes.design.design_matrix import Panel, Panels
from probecache.analyze.probes.design.nested_matmul import Span, backward, forward, rounded, spans
from probecache.analyze.probes.design.paired_product import Paired
from probecache.analyze.probes.optim.cross_entropy import loss_and_residual
from probecache.analyze.probes.optim.newton import Problem

MANY = 32  # classes from which picking the true one is faster than masking: twice as fast with a hundred
# Of an evaluation. On an H200 float32 is the faster one at 3e10 (98 ms for 123, twenty probes of ten classes)
# and at 3e11 (290 for 310, of a hundred). Its products take three times as long, which tells beyond that.
GPU_FLOPS = 1e12
STRIP = 2048  # rows whose logits are in cache together
CACHED = 2**18  # logits that are


@dataclass(frozen=True)
class Chosen:
    """What an evaluation of some probes needs to know of them: their products; on the device, their columns
    as bool (a, 1, w), their penalties float64 (a,), and where they have any their targets int64 (a,)."""

    products: list[Span]
    mask: Tensor
    l2: Tensor
    targets: Tensor | None = None

    @cached_property
    def ridge(self) -> tuple[Tensor, Tensor]:
        """The penalties as float32 (a, 1, 1), and half of them as float64 (a,)."""
        return self.l2.float()[:, None, None], self.l2 / 2

    def of(self, span: Span) -> Tensor | None:
        """The targets of a span's probes."""
        return None if self.targets is None else self.targets[span.probes]


@dataclass(frozen=True)
class Arithmetic:
    """dtype: of the products' inputs. summed: logits of bfloat16 keep float32 sums; else products are rounded
    once more, and take half of the time."""

    dtype: torch.dtype = torch.float32
    summed: bool = True


EXACT = Arithmetic()


@dataclass(frozen=True)
class Batch:
    """m nested probes over panels, sorted by column order and, within it, by size, largest first.

    groups: int64 (m,), the column order of each; widths: int64 (m,), 1 + k; l2: float64 (m,); all three on
    the CPU, so that no device is asked what to multiply. truth: (c, n) from `cross_entropy.indicator`;
    weights: float32 (n,) or None. targets: None; or int64 (m,), on the CPU, the row of truth (t, n) that each
    probe of two classes is to say. labels: int64 (n,), which row of truth, known to parts of a batch of many.
    """

    panels: Panels
    groups: Tensor
    widths: Tensor
    l2: Tensor
    truth: Tensor
    weights: Tensor | None = None
    targets: Tensor | None = None
    labels: Tensor | None = None
    _last: list[tuple[Tensor, Chosen]] = field(default_factory=list, init=False, repr=False, compare=False)

    @cached_property
    def total(self) -> float:
        """Sum of the weights."""
        if self.weights is None:
            return float(self.panels.n_samples)
        return float(self.weights.sum(dtype=torch.float64))

    @property
    def outputs(self) -> int:
        """Weight vectors of a probe."""
        return len(self.truth) if self.targets is None else 1

    @property
    def flops(self) -> float:
        """Of an evaluation of all probes: two products."""
        return 4.0 * self.panels.n_samples * float(self.widths.sum()) * self.outputs

    @property
    def width(self) -> int:
        """Panel rows that the widest probe sees."""
        return int(self.widths.max())

    @property
    def mask(self) -> Tensor:
        """bool (m, 1, w): the panel rows that each probe sees."""
        return (torch.arange(self.width) < self.widths[:, None, None]).to(self.truth.device)

    def part(self, probes: slice | Tensor) -> "Batch":
        """Some of the probes."""
        groups, widths, l2 = self.groups[probes], self.widths[probes], self.l2[probes]
        targets = None if self.targets is None else self.targets[probes]
        return replace(self, groups=groups, widths=widths, l2=l2, targets=targets, labels=self._labels)

    def problem(self, probe: int) -> Problem:
        """One of the probes by itself."""
        group, width, l2 = (int(self.groups[probe]), int(self.widths[probe]), float(self.l2[probe]))
        truth = self.truth if self.targets is None else self.truth[int(self.targets[probe])][None]
        return Problem(self.panels, group, width, l2, truth, self.weights)

    def evaluate(self, x: Tensor, which: Tensor, how: Arithmetic = EXACT) -> tuple[Tensor, Tensor]:
        """Objective float64 (a,) and gradient float32 (a, c, w) of the probes `which` (a,) at x (a, c, w).

        which: on the CPU; what is known of them is remembered while they stay the same. One pass over the
        rows for all probes.
        """
        chosen = self.chosen(which)
        gradient = torch.zeros_like(x, memory_format=torch.contiguous_format)
        loss = torch.zeros_like(chosen.l2)
        for panel in self.panels:
            for span in chosen.products:
                found = self.residual(x[span.probes], span, panel, chosen, loss[span.probes], how)
                backward(*found, span.segments, gradient[span.probes])
        return self.penalise(x, chosen, loss, gradient)

    def evaluate_in_pairs(self, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """`evaluate` with products of pairs of bfloat16 numbers, of rows in memory, rounded to 2^-16."""
        chosen = self.chosen(which)
        gradient = torch.zeros_like(x, memory_format=torch.contiguous_format)
        loss = torch.zeros_like(chosen.l2)
        for panel in self.panels:
            for span in chosen.products:
                columns, shares = Paired.of(panel, span.group), self.shares(panel.rows)
                logits = columns.forward(x[span.probes], span.segments)
                truth = self.classes(panel.rows, chosen.of(span))
                part, residual = loss_and_residual(logits, truth, shares)
                loss[span.probes] += part
                columns.backward(residual, span.segments, gradient[span.probes])
        return self.penalise(x, chosen, loss, gradient)

    @property
    def paired(self) -> bool:
        """Whether `evaluate_in_pairs` is what is faster here."""
        logits = float(self.panels.n_samples) * len(self.widths) * self.outputs
        return paired_product.serves(self.panels, self.flops, logits, self.width)

    def penalise(self, x: Tensor, chosen: Chosen, loss: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Objective and gradient at x, from the sums over the rows of loss (a,) and gradient (a, c, w)."""
        slopes, (ridge, half) = x[..., 1:], chosen.ridge
        gradient = gradient / self.total
        gradient[..., 1:].addcmul_(slopes, ridge)
        gradient *= chosen.mask
        square = slopes.square().flatten(1).sum(dim=1, dtype=torch.float64)
        return torch.addcmul(loss / self.total, half, square), gradient

    def chosen(self, which: Tensor) -> Chosen:
        """Of the probes `which`, remembered while the same ones are asked for."""
        if not self._last or not (self._last[0][0] is which or torch.equal(self._last[0][0], which)):
            groups, widths, device = self.groups[which], self.widths[which], self.truth.device
            mask = torch.arange(self.width) < widths[:, None, None]
            products = spans(groups, widths, self.outputs, device)
            targets = None if self.targets is None else self.targets[which].to(device)
            found = Chosen(products, mask.to(device), self.l2[which].to(device), targets)
            self._last[:] = [(which, found)]
        return self._last[0][1]

    def has_no_minimum(self, objective: Tensor) -> Tensor:
        """bool (m,): nothing is penalised, and the objective says that every row is right.

        A row's loss below log 2 means that its class is the likeliest; where that holds of every row the
        classes are separable, and longer weights are always better.
        """
        least = 1.0 if self.weights is None else float(self.weights[self.weights > 0].min())
        free = (self.l2 == 0).to(objective.device)
        return free & (objective * self.total < math.log(2) * least)

    def strips(self, panel: Panel, vectors: int, least: int = STRIP) -> Iterator[tuple[slice, slice]]:
        """A panel's rows, so many that their logits stay in cache: slices of all rows, and of the panel's.

        vectors: of logits; least: rows, of a product that is slow with fewer.
        """
        count = panel.base.shape[1]
        step = count if panel.base.is_cuda else max(least, CACHED // vectors)
        for start in range(0, count, step):
            stop = min(start + step, count)
            yield slice(panel.start + start, panel.start + stop), slice(start, stop)

    @cached_property
    def _labels(self) -> Tensor | None:
        if self.labels is not None or self.outputs < MANY:
            return self.labels
        return self.truth.argmax(dim=0)

    def classes(self, rows: slice, targets: Tensor | None) -> Tensor:
        """What `loss_and_residual` takes for the truth of some rows, to probes of these targets."""
        if targets is not None:
            return self.truth[targets, rows][:, None]
        return self.truth[:, rows] if self._labels is None else self._labels[rows]

    def shares(self, rows: slice) -> Tensor | None:
        """The weights of some rows, or None for ones."""
        return None if self.weights is None else self.weights[rows]

    def residual(
        self,
        x: Tensor,
        span: Span,
        panel: Panel,
        chosen: Chosen,
        loss: Tensor,
        how: Arithmetic,
        near: Callable[[slice], tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Residual (a, c, rows) in the products' dtype, made strip by strip, and the columns that it was
        multiplied with, which panels that are not kept put in order anew; adds to the loss float64 (a,).

        near: logits and residuals (a, c, rows) of a point from which x is a step, by rows: these logits are
        added, and the residual is the difference to these.
        """
        x, columns = x.to(how.dtype), panel.of(span.group, how.dtype)
        products = [] if how.summed else rounded(x, columns, span.segments)
        out = products[0] if products else None  # logits, which residuals replace strip by strip
        count = columns.shape[1]
        least = STRIP // 2 if products else STRIP  # what is not there waits for a strip
        for rows, inside in self.strips(panel, x.shape[0] * x.shape[1], least):
            if products:
                logits = products[0][:, :, inside].float()
                for product in products[1:]:
                    logits[: len(product)] += product[:, :, inside].float()
            else:
                logits = forward(x, columns[:, inside], span.segments)
            there = None if near is None else near(rows)
            if there is not None:
                logits += there[0]
            truth = self.classes(rows, chosen.of(span))
            part, residual = loss_and_residual(logits, truth, self.shares(rows))
            loss += part
            if there is not None:
                residual.sub_(there[1])
            if out is None and residual.shape[2] == count:
                return residual.to(columns.dtype), columns  # all in one strip, as on a GPU
            if out is None:
                out = x.new_empty(*x.shape[:2], count)
            out[:, :, inside] = residual
        assert out is not None
        return out, columns


def search_dtype(device: torch.device, flops: float = math.inf) -> torch.dtype:
    """bfloat16 where the processor multiplies it natively (AMX, AVX512-BF16, CUDA 8.0), else float32.

    flops: of an evaluation. On a GPU few are over before they are all launched: float32 then takes fewer
    steps at no cost.
    """
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device)[0] >= 8
        return torch.bfloat16 if fast and flops >= GPU_FLOPS else torch.float32
    native = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # not in every torch, hence the getattr
    if any(getattr(torch.cpu, name, lambda: False)() for name in native):
        return torch.bfloat16
    return torch.float32
