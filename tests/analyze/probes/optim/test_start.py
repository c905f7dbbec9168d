"""Starts against their definitions."""

import numpy as np
import pytest
import torch

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.optim.cross_entropy import indicator
from probecache.analyze.probes.optim.multinomial import Batch
from probecache.analyze.probes.optim.start import GLANCE, Glance, foretold, without_columns


def test_weights_without_columns_are_the_parabolas_minimum_over_those_that_are_left():
    torch.manual_seed(0)
    half = torch.randn(9, 7, dtype=torch.float64)
    hessian = half.T @ half + 0.1 * torch.eye(7)
    x = torch.randn(3, 6, dtype=torch.float64)  # of a probe that is narrower than the factor itself
    found = without_columns(x, torch.linalg.cholesky(hessian), torch.tensor([6, 4, 1]))
    torch.testing.assert_close(found[0], x)
    h = hessian[:6, :6]
    for got, width in zip(found[1:], (4, 1), strict=True):
        # (v - x)'H(v - x) is least where its gradient in the first columns is zero; v is zero in the others.
        best = x[:, :width] + torch.linalg.solve(h[:width, :width], h[:width, width:] @ x[:, width:].T).T
        torch.testing.assert_close(got[:, :width], best)
        assert not got[:, width:].any()


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_start_goes_as_far_along_its_neighbours_as_some_rows_agree(outputs):
    torch.manual_seed(1)
    n, d, classes = 500, 6, max(2, outputs)
    labels = torch.arange(n) % classes
    matrix = (torch.randn(classes, d)[labels] + torch.randn(n, d)).numpy()
    shape = torch.tensor([1 + d, 4]), torch.tensor([0.005, 0.005], dtype=torch.float64)
    batch = Batch(
        Panels(matrix, None, None, torch.device("cpu"), [np.arange(d)], keep=True),
        torch.zeros(2, dtype=torch.int64),
        *shape,
        indicator(labels, outputs),
        torch.rand(n) + 0.5,
    )
    assert n <= GLANCE  # all rows: what the glance says is the objective itself
    value = lambda x: batch.evaluate(x, torch.arange(2))[0]  # noqa: E731
    smooth = [torch.randn(2, outputs, 1 + d) * 0.3 * batch.mask for _ in range(3)]
    for noise in (0.0, 3.0):
        done = []
        for i, l2 in enumerate((0.04, 0.02, 0.01)):
            known = smooth[0] + i * smooth[1] / 4 + i**2 * smooth[2] / 16
            done.append((l2, known + noise * torch.randn(known.shape) * batch.mask))
        found = foretold(done, 0.005, Glance.of(batch, torch.float32))
        guesses = [done[-1][1], foretold(done[1:], 0.005), foretold(done, 0.005)]
        least = torch.stack([value(guess) for guess in guesses]).amin(dim=0)
        assert (value(found) <= least * (1 + 1e-6)).all()
        assert not (found * ~batch.mask).any()
