"""bfloat16 products with float32 sums: against float64, however the operands lie; what is refused."""

import ctypes

import numpy as np
import pytest
import torch

from probecache.analyze.probes.design import bfloat16_product, nested_matmul
from probecache.analyze.probes.design.gram import add_gram

needs_tiles = pytest.mark.skipif(
    not bfloat16_product.available(), reason="no AMX, or a torch without oneMKL's bfloat16 product"
)


def drawn(rows: int, columns: int, across: bool, rng: np.random.Generator) -> torch.Tensor:
    """A bfloat16 matrix, its columns contiguous where `across`."""
    shape = (columns, rows) if across else (rows, columns)
    values = torch.from_numpy(rng.standard_normal(shape)).bfloat16()
    return values.T if across else values


@needs_tiles
@pytest.mark.parametrize("across", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (130, 70, 33), (17, 20_000, 9), (1, 9000, 1)])
def test_product(shape: tuple[int, int, int], across: tuple[bool, bool]) -> None:
    rng = np.random.default_rng(0)
    rows, depth, columns = shape
    left, right = drawn(rows, depth, across[0], rng), drawn(depth, columns, across[1], rng)
    exact = left.double() @ right.double()
    size = left.double().abs() @ right.double().abs()
    out = torch.full((rows, columns), 2.0)
    bfloat16_product.add_product(left, right, out)
    assert bool(((out - 2 - exact).abs() <= 1e-6 * (size + 2)).all())
    out = torch.full((rows, columns), torch.nan)
    bfloat16_product.add_product(left, right, out, fresh=True)
    assert bool(((out - exact).abs() <= 1e-6 * size).all())


@needs_tiles
def test_part_of_wider_matrices() -> None:
    rng = np.random.default_rng(1)
    whole, panel = drawn(9, 40, False, rng), drawn(40, 50, False, rng)
    out = torch.zeros(12, 60)
    bfloat16_product.add_product(whole[2:8, 5:20], panel[5:20, 10:41], out[3:9, 7:38])
    exact = whole[2:8, 5:20].double() @ panel[5:20, 10:41].double()
    torch.testing.assert_close(out[3:9, 7:38].double(), exact, rtol=1e-5, atol=1e-5)
    assert float(out.abs().sum()) == float(out[3:9, 7:38].abs().sum())


@needs_tiles
@pytest.mark.parametrize(
    ("left", "right", "out"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 4).bfloat16(), torch.zeros(2, 4)),
        (torch.zeros(2, 3).bfloat16(), torch.zeros(3, 4).bfloat16(), torch.zeros(2, 4).bfloat16()),
        (torch.zeros(2, 3).bfloat16(), torch.zeros(2, 4).bfloat16(), torch.zeros(2, 4)),
        (torch.zeros(2, 3).bfloat16(), torch.zeros(3, 4).bfloat16(), torch.zeros(2, 5)),
        (torch.zeros(2, 3).bfloat16(), torch.zeros(3, 4).bfloat16(), torch.zeros(4, 2).T),
        (torch.zeros(4, 6).bfloat16()[::2, ::2], torch.zeros(3, 4).bfloat16(), torch.zeros(2, 4)),
    ],
    ids=["float32", "rounded out", "depths", "shape of out", "out by columns", "strides"],
)
def test_refused(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"got .*; allowed: "):
        bfloat16_product.add_product(left, right, out)


@needs_tiles
def test_gram_of_rounded_columns_that_repeat_has_no_negative_eigenvalue() -> None:
    columns = torch.from_numpy(np.random.default_rng(2).standard_normal((40, 3000))).bfloat16()
    columns = torch.cat([columns, columns])
    gram = torch.zeros(80, 80)
    add_gram(gram, columns, columns)
    assert torch.equal(gram, gram.T)
    torch.testing.assert_close(gram.double(), columns.double() @ columns.double().T, rtol=1e-5, atol=1e-2)
    assert float(torch.linalg.eigvalsh(gram.double())[0]) > -1e-3


def test_without_the_routine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that lacks it, or a processor: products are torch's own, rounded once."""

    class Bare:
        def __init__(self, path: str) -> None:
            pass

    monkeypatch.setattr(ctypes, "CDLL", Bare)
    for one in (bfloat16_product.available, bfloat16_product._routine):
        one.cache_clear()
    try:
        assert not bfloat16_product.available()
        rng = np.random.default_rng(3)
        weights, panel = torch.from_numpy(rng.standard_normal((2, 3, 11))), drawn(11, 20, False, rng)
        found = nested_matmul.forward(
            weights.float().bfloat16().float(), panel, nested_matmul.segments([11, 11])
        )
        exact = weights.bfloat16().double().view(6, 11) @ panel.double()
        torch.testing.assert_close(found.view(6, 20).double(), exact, rtol=0.01, atol=0.02)
    finally:
        for one in (bfloat16_product.available, bfloat16_product._routine):
            one.cache_clear()
