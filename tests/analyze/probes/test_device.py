"""What a GPU does otherwise, on the CPU: rows that stay there, inverse factors, and no wait in an evaluation.

Fake tensors of the device 'cuda' have shapes and no values: whatever asks one for its values raises.
"""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily as no_fakes
from torch.utils._python_dispatch import TorchDispatchMode

from probecache.analyze.probes import share, shared_state
from probecache.analyze.probes.design import paired_product
from probecache.analyze.probes.design.design_matrix import Panel, Panels
from probecache.analyze.probes.design.nested_matmul import Segment, backward, forward, spans
from probecache.analyze.probes.design.upload import to_device
from probecache.analyze.probes.fit import fit_block, task_moments
from probecache.analyze.probes.lbfgs.history import History
from probecache.analyze.probes.optim.multinomial import Arithmetic, Batch, Chosen, search_dtype
from probecache.analyze.probes.precondition import preconditioner
from probecache.analyze.probes.precondition.preconditioner import Piece, Preconditioner, inverse
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.tasks.task import Task

SIZES, L2 = np.array([40, 24, 9]), np.array([1e-3])


def blobs(n=900, d=40, classes=4):
    rng = np.random.default_rng(0)
    means = rng.normal(size=(classes, d))
    parts = []
    for count in (n, 200):
        y = np.arange(count) % classes
        parts += [(means[y] + 2 * rng.normal(size=(count, d))).astype(np.float32), y]
    return Task(*parts)


def held(panels, memory_limit):
    panels.keep = True
    return panels


def test_rows_that_stay_on_the_device_give_the_same_probes(monkeypatch):
    task, orders = blobs(), np.stack([permutation(40, seed) for seed in range(2)])
    read = fit_block(task, orders, SIZES, L2, device="cpu", return_coef=True)
    for module in (share, shared_state):
        monkeypatch.setattr(module, "resident", held)
    monkeypatch.setattr(Panels, "standardised", counted(Panels.standardised, seen := []))
    kept = fit_block(task, orders, SIZES, L2, device="cpu", return_coef=True)
    assert seen == [900]  # the training rows, once; products with test rows take them as they are on a CPU
    np.testing.assert_allclose(kept.objective, read.objective, rtol=2e-5)
    np.testing.assert_allclose(kept.coef, read.coef, atol=0.02)
    assert kept.converged.all()


def test_another_target_of_the_same_rows_takes_those_on_the_device(monkeypatch):
    task = blobs()
    for module in (share, shared_state):
        monkeypatch.setattr(module, "resident", held)
    first = task_moments(task, device="cpu")
    other = Task(task.train, 1 - task.train_labels % 2, task.test, 1 - task.test_labels % 2)
    second = task_moments(other, device="cpu", known=share.Known(state=first))
    assert second.rows is first.rows
    fresh = task_moments(other, device="cpu")
    torch.testing.assert_close(second.moments.cross, fresh.moments.cross)
    torch.testing.assert_close(second.moments.gram, fresh.moments.gram)


def counted(standardised, seen):
    def wrapped(self, block, *more):
        seen.append(len(block))
        return standardised(self, block, *more)

    return wrapped


@pytest.mark.parametrize("block", [5, 256])
@pytest.mark.parametrize("classes", [1, 3])
def test_inverse_factors_solve_as_substitution_does(monkeypatch, classes, block):
    monkeypatch.setattr(preconditioner, "BLOCK", block)
    rng = np.random.default_rng(1)
    root = torch.from_numpy(rng.normal(size=(classes, 30, 12)))
    factor = torch.linalg.cholesky(root.mT @ root / 30 + torch.eye(12))
    widths = torch.tensor([12, 12, 7, 4])
    mask = torch.arange(12) < widths[:, None, None]
    which, zero = torch.tensor([0, 2, 3]), torch.zeros(4, dtype=torch.int64)
    gradient = torch.from_numpy(rng.normal(size=(3, 3, 12))) * mask[which]
    found = [
        Preconditioner([f], zero, mask, inverted).solve(gradient, which)
        for f, inverted in ((factor, False), (inverse(factor), True))
    ]
    torch.testing.assert_close(*found)
    for probe, width in enumerate((12, 7, 4)):  # each prefix is the inverse of its own leading block
        matrix = (factor @ factor.mT)[:, :width, :width].expand(3, -1, -1)
        own = torch.linalg.solve(matrix, gradient[probe, :, :width, None])[..., 0]
        own = own if classes == 1 else own - own.mean(dim=0)
        torch.testing.assert_close(found[0][probe, :, :width], own)


def test_factors_are_inverted_on_a_gpu_alone():
    factors, zero = [torch.eye(5)[None], None], torch.zeros(2, dtype=torch.int64)
    on_cpu = Preconditioner(factors, zero, torch.ones(2, 1, 5, dtype=torch.bool))
    assert on_cpu.for_products() is on_cpu
    with FakeTensorMode():
        mask = torch.ones(2, 1, 5, dtype=torch.bool, device="cuda")
        there = Preconditioner([torch.eye(5, device="cuda")[None], None], zero, mask).for_products()
    assert there.inverted
    assert there.factors[1] is None


@pytest.fixture
def cuda():
    """The device 'cuda' of fake tensors."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield torch.device("cuda")


def test_fake_tensors_refuse_to_tell_their_values(cuda):
    with pytest.raises(DataDependentOutputException):
        bool(torch.ones(3, device=cuda).any())


@pytest.mark.parametrize("how", [torch.float32, torch.bfloat16, "pairs"])
@pytest.mark.parametrize("weighted", [False, True])
def test_an_evaluation_asks_the_device_for_nothing(cuda, how, weighted):
    with no_fakes():
        which, widths = torch.arange(3), torch.tensor([12, 8, 5])
        zero = torch.zeros(3, dtype=torch.int64)
        products = spans(zero, widths, 3, cuda)
    panels = Panels(np.zeros((64, 11), np.float32), None, None, cuda, keep=True)
    panels._held = [Panel(0, torch.empty(12, 64, device=cuda), (), {})]
    truth = torch.empty(3, 64, device=cuda)
    batch = Batch(panels, zero, widths, zero, truth, torch.ones(64, device=cuda) if weighted else None)
    batch.__dict__["total"] = 64.0  # known before the search begins
    mask = torch.ones(3, 1, 12, dtype=torch.bool, device=cuda)
    batch._last[:] = [(which, Chosen(products, mask, torch.ones(3, dtype=torch.float64, device=cuda)))]
    x = torch.empty(3, 3, 12, device=cuda)
    if how == "pairs":
        loss, gradient = batch.evaluate_in_pairs(x, which)
    else:
        loss, gradient = batch.evaluate(x, which, Arithmetic(how))
    assert (loss.shape, loss.dtype, gradient.shape) == ((3,), torch.float64, (3, 3, 12))
    assert loss.is_cuda
    assert gradient.is_cuda


@pytest.mark.parametrize("factor", ["class", "gram", "none"])
def test_a_solve_asks_the_device_for_nothing(cuda, factor):
    mask = torch.ones(3, 1, 12, dtype=torch.bool, device=cuda)
    matrix = {"class": torch.empty(3, 12, 12, device=cuda), "gram": torch.empty(1, 12, 12, device=cuda)}
    solver = Preconditioner([matrix.get(factor)], torch.zeros(3), mask, inverted=True)
    which = torch.arange(3)
    solver._last[:] = [(which, [Piece(0, slice(0, 3), mask)])]
    solved = solver.solve(torch.empty(3, 3, 12, device=cuda), which)
    assert solved.is_cuda


def test_a_direction_asks_the_device_once_and_what_is_learnt_not_at_all(cuda):
    """What fake tensors have brought to the CPU numpy refuses: all of the answer comes at once, before."""
    x, ones = torch.empty(3, 4, 7, device=cuda), torch.ones(3, dtype=torch.float64)
    history = History.empty(x)
    history.push(x, x, x, ones)  # decrements lie on the CPU
    assert all(part.is_cuda for part in history._untold)
    with CountWaits() as waits, pytest.raises(RuntimeError, match="numpy"):
        history.direction(x, x)
    assert waits.count == 1


class CountWaits(TorchDispatchMode):
    """Copies from the device 'cuda' to the CPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].is_cuda:
            self.count += torch.device(kwargs.get("device", "cuda")).type == "cpu"
        return func(*args, **kwargs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("classes", [4, 30])
def test_a_step_waits_for_the_device_twice(monkeypatch, classes):
    """Once for who has finished, once for whose step failed; a failed step, and problems that leave, once
    more each."""
    waits, evaluations = [], []
    evaluate = Batch.evaluate

    def watched(self, x, which, *how):
        evaluations.append(len(which))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                found = evaluate(self, x, which, *how)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits.append(len(told))
        return found

    monkeypatch.setattr(Batch, "evaluate", watched)
    task = blobs(n=20_000, classes=classes)
    found = fit_block(task, permutation(40, 0)[None], SIZES, L2, device="cuda")
    assert found.converged.all()
    assert len(evaluations) > 5
    changes = 1 + sum(a != b for a, b in pairwise(evaluations))
    assert sum(waits) <= 5 * changes, waits  # only where other probes are evaluated than before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sums_of_bfloat16_products_are_float32_on_a_gpu():
    rng = torch.Generator().manual_seed(0)
    weights, panel = (torch.randn(*shape, generator=rng) for shape in ((2, 3, 300), (300, 70_000)))
    parts = [Segment(0, 300, 2)]
    residual = torch.randn(2, 3, 70_000, generator=rng)
    out = torch.zeros(2, 3, 300, device="cuda")
    rough = panel.bfloat16().cuda()
    backward(residual.bfloat16().cuda(), rough, parts, out)
    exact = residual.bfloat16().double().view(6, -1) @ panel.bfloat16().double().T
    error = (out.cpu().double().view(6, -1) - exact).norm() / exact.norm()
    assert error < 1e-5  # rounded to bfloat16 it is 2e-3
    logits = forward(weights.cuda(), rough, parts).cpu().double().view(6, -1)
    exact = weights.bfloat16().double().view(6, -1) @ panel.bfloat16().double()
    assert (logits - exact).norm() / exact.norm() < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("classes", [5, 40])
def test_fits_by_pairs_and_class_grams_on_a_gpu_end_where_float32_does(monkeypatch, classes):
    monkeypatch.setattr(paired_product, "FLOPS", 0.0)
    task, sizes = blobs(n=20_003, d=310, classes=classes), np.array([310, 150, 20])
    order = permutation(310, 0)[None]
    calls = []
    monkeypatch.setattr(Batch, "evaluate_in_pairs", counted(Batch.evaluate_in_pairs, calls))
    found = fit_block(task, order, sizes, L2, device="cuda", tol=1e-4)
    assert calls
    assert found.converged.all()
    best = fit_block(task, order, sizes, L2, device="cpu", tol=1e-7).objective
    assert (found.objective / best - 1).max() < 2e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rows", [1, 1000, 12_345])
def test_a_matrix_arrives_whole(rows):
    matrix = np.random.default_rng(0).normal(size=(rows, 1280)).astype(np.float32)
    there = to_device(matrix, torch.device("cuda"))
    assert np.array_equal(there.cpu().numpy(), matrix)


def test_on_a_cpu_nothing_is_copied():
    matrix = np.ones((3, 4), np.float32)
    assert np.shares_memory(to_device(matrix, torch.device("cpu")).numpy(), matrix)


@pytest.mark.parametrize(
    ("capability", "flops", "dtype"),
    [(9, 1e11, torch.float32), (9, 1e13, torch.bfloat16), (7, 1e13, torch.float32)],
)
def test_a_gpu_searches_in_bfloat16_where_products_are_what_takes_time(monkeypatch, capability, flops, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
    assert search_dtype(torch.device("cuda"), flops) == dtype


def test_the_products_of_an_evaluation_are_counted():
    panels = Panels(np.zeros((64, 11), np.float32), None, None, torch.device("cpu"))
    widths, zero = torch.tensor([12, 8]), torch.zeros(2, dtype=torch.int64)
    batch = Batch(panels, zero, widths, zero.double(), torch.zeros(3, 64))
    assert batch.flops == 2 * 2 * 64 * 20 * 3
