import numpy as np
import pytest
import torch

from probecache.analyze.selections.subsets import check_orders, check_sizes, permutation, sizes
from probecache.store.errors import InputError


@pytest.mark.parametrize(("d", "seed"), [(1, 0), (384, 0), (2048, 4), (17, 2**40)])
def test_permutation_is_the_papers_and_leaves_the_global_generator_alone(d, seed):
    torch.manual_seed(seed)
    expected = torch.randperm(d).numpy()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    got = permutation(d, seed)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.int64
    assert torch.equal(before, torch.get_rng_state())


def test_sizes_follow_the_contract():
    assert sizes([0.0005, 0.2, 0.35, 1], 512).tolist() == [1, 102, 179, 512]
    assert sizes(np.array([1e-9]), 4).tolist() == [1]


@pytest.mark.parametrize("bad", [[0], [-0.1], [1.0001], [float("nan")], []])
def test_fractions_outside_are_refused_in_one_line(bad):
    with pytest.raises(InputError) as error:
        sizes(bad, 10)
    assert "\n" not in str(error.value)


def test_sizes_and_orders_are_checked():
    for bad in ([0], [11], [[1], [2]]):
        with pytest.raises(InputError):
            check_sizes(np.array(bad), 10)
    for order in ([0, 0, 1], [0, 3], [-1, 2], list(range(4))):
        with pytest.raises(InputError):
            check_orders(np.array([order]), 3)
    assert check_orders([2, 0], 3).shape == (1, 2)
