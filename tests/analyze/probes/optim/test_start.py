"""Starts against their definitions."""

import torch

from probecache.analyze.probes.optim.start import without_columns


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
