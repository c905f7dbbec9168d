"""What makes ridge cheap: products with rows as stored, the largest score, a factor in strips; moments."""

import numpy as np
import pytest
import torch

from probecache.analyze.probes.design import bfloat16_product, stored_matmul
from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.design.gram import moments
from probecache.analyze.probes.precondition.blocked_cholesky import blocked_cholesky
from probecache.analyze.probes.score import first_largest

CPU = torch.device("cpu")
needs_tiles = pytest.mark.skipif(
    not bfloat16_product.available(), reason="no AMX, or a torch without oneMKL's bfloat16 product"
)


@pytest.mark.parametrize("classes", [2, 7, 300])
def test_the_first_of_the_largest_scores(classes):
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.integers(0, 5, (3, classes, 40)).astype(np.float32))  # full of ties
    scores[0, :, 0] = -torch.inf
    np.testing.assert_array_equal(first_largest(scores), np.argmax(scores.numpy(), axis=1))


@pytest.mark.parametrize("standardised", [True, False])
def test_products_with_stored_rows_are_those_with_standardised_ones(standardised):
    rng = np.random.default_rng(1)
    x = rng.normal(3, np.linspace(0.2, 5, 12), (50, 12)).astype(np.float32)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    orders = [rng.permutation(12)[:9], rng.permutation(12)[:9]]
    groups, widths = torch.tensor([0, 0, 1]), [9, 4, 6]
    weights = torch.zeros(3, 2, 10)
    for i, width in enumerate(widths):
        weights[i, :, : 1 + width] = torch.from_numpy(rng.normal(size=(2, 1 + width)))
    panels = Panels(x, mean if standardised else None, scale if standardised else None, CPU, orders)
    assert stored_matmul.serves(panels, groups, 2)
    (((rows, logits)),) = stored_matmul.products(weights, groups, panels)
    z = (x - mean) / scale if standardised else x
    for i, width in enumerate(widths):
        w = weights[i].numpy().astype(np.float64)
        expected = w[:, 1 : 1 + width] @ z[:, orders[groups[i]][:width]].T + w[:, :1]
        np.testing.assert_allclose(logits[i, :, rows], expected, rtol=1e-4, atol=1e-5)


def test_means_far_from_their_spreads_are_left_to_standardised_rows():
    x = np.ones((4, 2), np.float32)
    near, far = np.full(2, 3.0, np.float32), np.full(2, 300.0, np.float32)
    groups, scale = torch.zeros(1, dtype=torch.int64), np.ones(2, np.float32)
    assert stored_matmul.serves(Panels(x, near, scale, CPU), groups, 10)
    assert not stored_matmul.serves(Panels(x, far, scale, CPU), groups, 10)
    assert not stored_matmul.serves(Panels(x, near, scale, CPU), groups, stored_matmul.MOST + 1)


@pytest.mark.parametrize("width", [1, 128, 300])
def test_a_factor_in_strips_is_the_factor(width):
    rng = np.random.default_rng(2)
    root = rng.normal(size=(width, 2 * width))
    matrix = root @ root.T
    factor = blocked_cholesky(torch.from_numpy(matrix), 0.5)
    np.testing.assert_allclose(factor, np.linalg.cholesky(matrix + 0.5 * np.eye(width)), rtol=1e-9, atol=1e-9)


def test_a_matrix_that_has_no_factor_is_said_to_have_none():
    matrix = torch.eye(200, dtype=torch.float64)
    matrix[150, 150] = -1
    assert blocked_cholesky(matrix, 0.5) is None


@pytest.mark.parametrize("weighted", [False, True])
def test_moments_are_their_definition_block_by_block(monkeypatch, weighted):
    rng = np.random.default_rng(3)
    x, y = rng.normal(5, 2, (70, 6)).astype(np.float32), rng.normal(size=(70, 3))
    w = rng.integers(0, 4, 70).astype(np.float64) if weighted else np.ones(70)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    monkeypatch.setattr("probecache.analyze.probes.design.gram.GRAM_ROWS", 32)
    weights = torch.from_numpy(w).float() if weighted else None
    panels = Panels(x, mean, scale, CPU)
    found = moments(panels, torch.from_numpy(y), weights)
    z = np.column_stack([np.ones(70), (x - mean) / scale])
    np.testing.assert_allclose(found.gram, (z * w[:, None]).T @ z / w.sum(), atol=1e-5)
    np.testing.assert_allclose(found.cross, (z * w[:, None]).T @ y / w.sum(), atol=1e-5)
    np.testing.assert_allclose(found.square, (w[:, None] * y**2).sum(axis=0) / w.sum(), rtol=1e-5)
    assert found.count == w.sum()
    again = moments(panels, torch.from_numpy(y[:, :1]), weights, known=found)
    np.testing.assert_array_equal(again.gram, found.gram)
    np.testing.assert_allclose(again.cross[:, 0], found.cross[:, 0], atol=1e-5)


@needs_tiles
@pytest.mark.parametrize("weighted", [False, True])
def test_rough_moments_are_the_gram_matrix_of_rounded_rows(monkeypatch, weighted):
    rng = np.random.default_rng(4)
    x, y = rng.normal(5, [1e-3, 2, 2, 1e4, 1, 1], (70, 6)).astype(np.float32), rng.normal(size=(70, 3))
    x[:, 5] = x[:, 4]  # twice the same column: singular
    w = torch.from_numpy(rng.integers(0, 4, 70) if weighted else np.ones(70)).float()
    mean, scale = x.mean(axis=0), x.std(axis=0)
    monkeypatch.setattr("probecache.analyze.probes.design.gram.GRAM_ROWS", 32)
    panels, targets, weights = Panels(x, mean, scale, CPU), torch.from_numpy(y), w if weighted else None
    exact, rough = moments(panels, targets, weights), moments(panels, targets, weights, exact=False)
    rows = ((torch.from_numpy(x) - torch.from_numpy(mean)) * w.sqrt()[:, None]).bfloat16().double().numpy()
    expected = rows.T @ rows / float(w.sum()) / np.outer(scale, scale)
    np.testing.assert_allclose(rough.gram[1:, 1:], expected, rtol=1e-5, atol=1e-6)
    assert np.linalg.eigvalsh(rough.gram).min() > -1e-6
    np.testing.assert_array_equal(rough.gram[0], exact.gram[0])
    np.testing.assert_array_equal(rough.cross, exact.cross)
