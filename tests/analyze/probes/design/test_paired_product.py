"""Products of pairs of bfloat16 numbers against float64, and fits by them against those in float32."""

import numpy as np
import pytest
import torch

from probecache.analyze.probes.design import paired_product
from probecache.analyze.probes.design.design_matrix import Panel, Panels
from probecache.analyze.probes.design.float32_sums import ALIGNED
from probecache.analyze.probes.design.nested_matmul import segments, spans
from probecache.analyze.probes.design.paired_product import Paired
from probecache.analyze.probes.fit import fit_block
from probecache.analyze.probes.optim import multinomial
from probecache.analyze.probes.optim.multinomial import Batch
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.tasks.task import Task

WIDTHS = [1001, 701, 301, 11]


@pytest.mark.parametrize("step", [1, 8])
@pytest.mark.parametrize("rows", [96, 101])
def test_pairs_multiply_nearly_as_float32(rows, step):
    rng = torch.Generator().manual_seed(0)
    columns = torch.randn(1001, rows, generator=rng)
    weights, residual = (torch.randn(4, 3, n, generator=rng) for n in (1001, rows))
    for probe, width in enumerate(WIDTHS):
        weights[probe, :, width:] = 0
    parts, paired = segments(WIDTHS, step), Paired.of(Panel(0, columns, (), {}), 0)
    logits = paired.forward(weights, parts)
    assert logits.shape == (4, 3, rows)
    assert off(logits, weights.double() @ columns.double()) < 1e-5  # of bfloat16's products 3e-3
    out = torch.ones(4, 3, 1001)
    paired.backward(residual, parts, out)
    want = residual.double() @ columns.double().T
    for probe, width in enumerate(WIDTHS):
        assert off(out[probe, :, :width] - 1, want[probe, :, :width]) < 1e-5


def off(got, want):
    return float((got.double() - want).norm() / want.norm())


def test_a_panel_is_split_once_where_it_is_kept():
    panel = Panel(0, torch.randn(5, 7), (), {})
    assert Paired.of(panel, 0) is Paired.of(panel, 0)


def test_cuts_on_a_gpu_are_multiples_of_what_its_products_like():
    widths = torch.tensor(range(1281, 1, -64))
    (span,) = spans(torch.zeros_like(widths), widths, 3, torch.device("cuda"))
    assert [part.stop % ALIGNED for part in span.segments[:-1]] == [0, 0]
    assert span.segments[-1].stop == 1281
    for part in span.segments:
        assert part.probes == int((widths > part.start).sum())


def test_few_operations_and_other_devices_are_left_to_float32(monkeypatch):
    panels = Panels(np.zeros((640, 11), np.float32), None, None, torch.device("cpu"))
    assert not paired_product.serves(panels, 1e13, 1.0, 12)
    monkeypatch.setattr(paired_product, "fast", lambda device: True)
    for name, size in (("memory_reserved", 1000), ("memory_allocated", 1000), ("mem_get_info", (2400, 9))):
        monkeypatch.setattr(torch.cuda, name, lambda device, size=size: size)
    assert paired_product.serves(panels, 1e13, 100.0, 12)
    assert not paired_product.serves(panels, 1e13, 101.0, 12)  # no room
    assert not paired_product.serves(panels, 1e9, 100.0, 12)
    assert not paired_product.serves(panels, 1e13, 100.0, 400)  # few rows: small losses


def mixture(n, d, classes, spread):
    rng = np.random.default_rng(0)
    y = np.arange(n + 200) % classes
    x = (rng.normal(size=(classes, d))[y] + spread * rng.normal(size=(n + 200, d))).astype(np.float32)
    return Task(x[:n], y[:n], x[n:], y[n:])


@pytest.mark.parametrize("tol", [1e-3, 5e-6])
@pytest.mark.parametrize(
    ("classes", "weight", "l2"), [(6, None, 1e-4), (40, None, 1e-3), (6, {"1": 100.0}, 1e-5)]
)
def test_fits_by_pairs_end_where_those_in_float32_do_after_one_pass_more(
    monkeypatch, classes, weight, l2, tol
):
    task = mixture(1500, 40, classes, 1.5)
    sizes, order = np.array([40, 22, 9]), permutation(40, 0)[None]
    for module in ("kinds.logistic", "optim.pilot", "optim.path"):
        monkeypatch.setattr(f"probecache.analyze.probes.{module}.search_dtype", lambda *_: torch.float32)
    monkeypatch.setattr("probecache.analyze.probes.optim.downward.serves", lambda *_: False)

    def fit(tol, max_iter=1000):
        return fit_block(
            task, order, sizes, np.array([l2]), class_weight=weight, device="cpu", tol=tol, max_iter=max_iter
        )

    best, plain = fit(1e-8).objective, fit(tol)
    passes = []
    monkeypatch.setattr(multinomial.paired_product, "serves", lambda *_: True)
    for name in ("evaluate", "evaluate_in_pairs"):
        monkeypatch.setattr(Batch, name, noted(getattr(Batch, name), name, passes))
    paired = fit(tol)
    assert paired.converged.all()
    # The pilot's passes are plain ones, before all others; one more of each probe ends the fit.
    last = passes[passes.index("evaluate_in_pairs") :]
    assert last.count("evaluate") <= 2
    assert (paired.n_iter <= 1.1 * plain.n_iter + 2).all()
    gap = paired.objective / best - 1
    assert gap.max() <= max(tol, float((plain.objective / best - 1).max()) * 1.05)


def noted(function, name, passes):
    def call(self, *args, **kwargs):
        passes.append(name)
        return function(self, *args, **kwargs)

    return call
