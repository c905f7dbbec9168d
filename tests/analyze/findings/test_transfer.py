"""The smallest subset that keeps a share: by brute force, and its index file through the sweep's reader."""

import numpy as np
import pytest

from probecache.analyze.findings.transfer import efficient_subset, write_indices
from probecache.analyze.selections.projections import read_indices
from probecache.analyze.selections.subsets import permutation
from probecache.store.errors import InputError
from tests.analyze.synthetic import synthetic_results


@pytest.mark.parametrize("keep", [0.7, 0.9, 0.95, 1.0])
def test_is_the_smallest_by_brute_force(keep):
    results = synthetic_results(selections=("random", "pca"))
    curve = results.accuracy.sel({"selection": "random"}).squeeze()  # (fraction, seed)
    full = float(curve.sel(fraction=1.0).mean())
    good = [
        (float(f), -float(curve.sel(fraction=f, seed=s)), s)
        for f in curve.fraction.values
        for s in range(5)
        if float(curve.sel(fraction=f, seed=s)) >= keep * full - 1e-12
    ]
    fraction, score, seed = min(good)
    got = efficient_subset(results, keep)
    assert (float(got.fraction), float(got.score), int(got.seed)) == (fraction, -score, seed)
    k = max(1, round(fraction * 40))
    assert got.neuron.values.tolist() == permutation(40, seed)[:k].tolist()
    assert int(got.bytes_per_sample) == 2 * k
    assert float(got.compute_share) == k / 40


def test_the_index_file_reads_back(tmp_path):
    got = efficient_subset(synthetic_results(selections=("random",)), 0.9)
    path = write_indices(got, tmp_path / "deep" / "neurons.txt")
    np.testing.assert_array_equal(read_indices(path, 40), got.neuron)
    assert path.read_text().startswith(f"# {len(got.neuron)} of 40 neurons of penultimate, seed")


def test_an_index_file_is_whole_or_the_old_one(tmp_path):
    got = efficient_subset(synthetic_results(selections=("random",)), 0.9)
    path = write_indices(got, tmp_path / "neurons.txt")
    numbers = [7] * 100_000 + ["\ud800"]  # the last cannot be written, after the buffer was flushed
    torn = got.drop_vars("neuron").assign_coords(neuron=np.array(numbers, object))
    with pytest.raises(UnicodeEncodeError):
        write_indices(torn, path)
    np.testing.assert_array_equal(read_indices(path, 40), got.neuron)
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_input():
    results = synthetic_results(layers=("blocks.3", "penultimate"))
    with pytest.raises(InputError, match=r"the results hold layer blocks.3, penultimate: name one"):
        efficient_subset(results)
    with pytest.raises(InputError, match=r"got layer 'blocks.9'; the results hold blocks.3, penultimate"):
        efficient_subset(results, layer="blocks.9")
    with pytest.raises(InputError, match="subsets can be exported for random"):
        efficient_subset(results, layer="blocks.3", selection="pca")
    both = synthetic_results(selections=("random",)).isel(target=[0, 0]).assign_coords(target=["a", "b"])
    with pytest.raises(InputError, match=r"hold target a, b: name one, results.sel\(target"):
        efficient_subset(both)
    with pytest.raises(InputError, match="keep 0 is outside"):
        efficient_subset(results, 0)


def test_one_fraction_and_one_seed():
    got = efficient_subset(synthetic_results(selections=("random",), fractions=(1.0,), n_seeds=1), 0.9)
    assert got.neuron.values.tolist() == permutation(40, 0).tolist()


def test_no_share_is_kept_of_a_score_that_is_not_above_zero():
    results = synthetic_results(selections=("random",))
    results["accuracy"] -= 2
    with pytest.raises(InputError, match=r"got a full score of -1\..*only above 0"):
        efficient_subset(results, 0.9)
