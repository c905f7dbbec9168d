"""The adaptive search against the full grid: the same critical mass, from a fraction of the probes."""

import numpy as np
import pytest

from probecache.analyze.findings.critical.search import Search


def noisy_curves(rng, size, seeds):
    """Scores (size, seeds) that rise and level off: neighbours of a seed's nested subsets go together, and a
    test split of 700 samples rounds them."""
    top, steep, bend = rng.uniform(0.5, 0.95), rng.uniform(2, 40), rng.uniform(0.4, 1.1)
    x = np.arange(1, size + 1) / size
    base = top * (1 - np.exp(-steep * x**bend)) / (1 - np.exp(-steep))
    steps = np.sqrt(np.diff(np.log(np.arange(size + 1) + 1.0)))[:, None]
    walk = np.cumsum(rng.normal(size=(size, seeds)) * steps, 0)
    walk = (walk - walk[-1]) / np.sqrt(np.log(size)) * 2 * rng.uniform(0.003, 0.02)
    scores = base[:, None] + walk + rng.normal(size=(size, seeds)) * 0.002 * (1 - x[:, None])
    scores = np.round(scores * 700) / 700
    scores[-1] = scores[-1, 0]
    return scores


def by_grid(scores, delta):
    """1 + the position of the first size whose mean is at least delta of the full layer's."""
    return 1 + next(i for i, row in enumerate(scores) if np.mean(row) >= delta * np.mean(scores[-1]) - 1e-12)


def run(scores, deltas, **options):
    size, seeds = scores.shape
    search, measured = Search(size, seeds, deltas, **options), set()
    for sizes, drawn in search.batches():
        asked = {(j, s) for j in sizes for s in drawn}
        assert not asked & {(j, s) for j, s in measured if s >= 2 or j == size}  # only pilots are asked again
        measured |= asked
        search.record(sizes, drawn, scores[np.ix_(np.array(sizes) - 1, drawn)])
    assert search.n_measured == len(measured)
    return search


@pytest.mark.parametrize("deltas", [(0.9,), (0.95,), (0.9, 0.95)])
def test_finds_what_the_full_grid_finds_with_a_fifth_of_the_probes(deltas, capsys):
    rng = np.random.default_rng(0)
    counts, exact = [], []
    for _ in range(60):
        scores = noisy_curves(rng, 100, 5)
        search = run(scores, deltas)
        counts.append(search.n_measured)
        for delta in deltas:
            found = search.crossing(delta)
            exact.append(found.at == by_grid(scores, delta))
            assert found.low <= found.at <= found.high
    with capsys.disabled():
        print(f"\ndelta {deltas}: {np.mean(counts):.0f} probes on average, at most {max(counts)}; a grid 496")
    assert all(exact)
    assert np.mean(counts) < 496 / 5
    assert len(deltas) > 1 or np.quantile(counts, 0.9) < 496 / 5


def test_a_size_below_the_crossing_that_reaches_it_by_a_dip_is_seen():
    rng = np.random.default_rng(1)
    scores = np.linspace(0.2, 1, 100)[:, None] + rng.normal(size=(100, 5)) * 0.02
    scores[-1] = 1.0
    scores[85] = 0.92  # size 86, a bump before the crossing near 88
    found = run(scores, (0.9,)).crossing(0.9)
    assert found.at == by_grid(scores, 0.9)


def test_the_interval_is_that_of_the_margins_by_scipy():
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(2)
    scores = np.linspace(0.3, 1, 50)[:, None] + rng.normal(size=5) * np.linspace(0.05, 0, 50)[:, None]
    search = run(scores, (0.9,))
    found = search.crossing(0.9)
    for size in search.complete[:-1]:
        span = ttest_1samp(scores[size - 1] - 0.9 * scores[-1], 0).confidence_interval(0.95)
        assert (span.high >= 0) == (size >= found.low)
        assert (span.low >= 0) == (size >= found.high)


@pytest.mark.parametrize(("size", "seeds"), [(1, 1), (1, 5), (2, 3), (3, 1), (100, 1), (100, 2)])
def test_small_layers_and_few_seeds(size, seeds):
    scores = noisy_curves(np.random.default_rng(3), max(size, 2), seeds)[-size:]
    found = run(scores, (0.8, 1.0)).crossing(0.8)
    assert found.at == by_grid(scores, 0.8)
    assert (found.low is None) == (seeds == 1)


def test_delta_one_and_full_layers_that_differ_by_seed():
    rng = np.random.default_rng(4)
    scores = noisy_curves(rng, 40, 4)
    scores[-1] += rng.normal(size=4) * 0.01
    search = run(scores, (0.9, 1.0), full_seeds=4)
    assert search.crossing(0.9).at == by_grid(scores, 0.9)
    assert search.crossing(1.0).at == by_grid(scores, 1.0)
