"""Class Grams of many classes in one product, as on a GPU, against their definition."""

import numpy as np
import pytest
import torch

from probecache.analyze.probes.design.float32_sums import product
from probecache.analyze.probes.precondition import class_grams


@pytest.mark.parametrize("together", [1, 2**29])
def test_rows_drawn_for_many_classes_are_added_to_each_classs_own_gram(monkeypatch, together):
    monkeypatch.setattr(class_grams, "TOGETHER", together)  # one class at a time, or all
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(13, 50)).astype(np.float32)
    rows = [np.array(own) for own in ([3, 7, 20, 49], [], [0], list(range(50)))]  # one class has none
    scales = [rng.uniform(0.1, 3, size=len(own)).astype(np.float32) for own in rows]
    blocks = torch.ones(4, 9, 9)  # narrower than the rows, and added to
    classes = np.repeat(np.arange(4), [len(own) for own in rows])
    drawn = torch.from_numpy(classes), torch.from_numpy(np.concatenate(rows).astype(np.int64))
    class_grams._add_together(
        blocks, torch.from_numpy(whole), drawn, torch.from_numpy(np.concatenate(scales)), 50
    )
    for j in range(4):
        own = (whole[:9, rows[j].astype(int)] * scales[j]).astype(np.float64)
        want = own @ own.T
        np.testing.assert_allclose(blocks[j].numpy() - 1, want, atol=0.01 * np.abs(want).max() + 1e-6)


def test_nothing_drawn_is_nothing_added():
    none = torch.zeros(0, dtype=torch.int64)
    blocks = torch.zeros(2, 3, 3)
    class_grams._add_together(blocks, torch.ones(3, 5), (none, none), torch.zeros(0), 0)
    assert not blocks.any()


def test_a_product_of_bfloat16_is_not_rounded_to_it():
    a, b = torch.full((2, 3, 257), 1.0).bfloat16(), torch.full((2, 257, 4), 1.0).bfloat16()
    assert torch.equal(product(a, b), torch.full((2, 3, 4), 257.0))  # bfloat16 has 256 and 258
    assert torch.equal(product(a[0], b[0]), torch.full((3, 4), 257.0))
