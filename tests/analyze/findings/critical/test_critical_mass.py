"""The adaptive search against the full grid: the same critical mass, from a fraction of the probes."""

import numpy as np
import pytest
import xarray as xr

import probecache as pc
from probecache.analyze.findings.critical.critical_mass import grid_sizes
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
        assert not asked & {(j, s) for j, s in measured if s >= 1 or j == size}  # only pilots are asked again
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


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """120 neurons that mix twelve directions of five classes, with noise of their own."""
    path, rng = tmp_path_factory.mktemp("critical") / "s.zarr", np.random.default_rng(0)
    y = np.arange(900) % 5
    x = (rng.normal(size=(900, 12)) + rng.normal(size=(5, 12))[y]) @ rng.normal(size=(12, 120))
    x = (x + rng.normal(size=x.shape) * 5).astype(np.float32)
    for split, rows in (("train", slice(0, 500)), ("test", slice(500, 900))):
        pc.write_arrays(path, split=split, layer="l", activations=x[rows], labels=y[rows])
    return pc.open_store(path)


RIDGE = {"layer": "l", "probe": "ridge", "l2": 1e-2, "seeds": 4}


def test_on_a_store_it_equals_the_sweep_of_the_whole_grid_and_a_second_run_measures_nothing(
    store, tmp_path, capsys
):
    found = pc.critical_mass(store, delta=[0.9, 0.95], precision=0.02, out=tmp_path / "r", **RIDGE)
    whole = pc.sweep(store, fractions=grid_sizes(120, 0.02)[0], **RIDGE)
    want = pc.redundancy(whole, [0.9, 0.95])
    np.testing.assert_array_equal(found.critical_mass, want.critical_mass.squeeze())
    assert float(found.full_score) == pytest.approx(want.full_score.item())
    np.testing.assert_allclose(found.dr, 1 - found.critical_mass / 120)
    assert (found.critical_mass_low <= found.critical_mass).all()
    assert (found.critical_mass <= found.critical_mass_high).all()
    results = pc.sweep(store, fractions=grid_sizes(120, 0.02)[0], out=tmp_path / "r", **RIDGE)
    assert results.accuracy.notnull().all()  # plain RESULTS, which a sweep fills up
    counted = []
    again = pc.critical_mass(
        store,
        delta=[0.9, 0.95],
        precision=0.02,
        out=tmp_path / "r",
        progress=lambda done, total: counted.append(done),
        **RIDGE,
    )
    assert again.identical(found)
    assert counted == []
    with capsys.disabled():
        print(f"\nstore: {found.n_probes} probes, a grid {found.n_grid}")
    assert found.n_grid == 49 * 4 + 1


def test_what_was_measured_is_in_results_and_is_all_that_was(store, tmp_path):
    found = pc.critical_mass(store, delta=0.9, precision=0.02, out=tmp_path / "r", **RIDGE)
    accuracy = xr.open_zarr(tmp_path / "r", consolidated=False).accuracy
    assert int(accuracy.notnull().sum()) == found.n_probes < found.n_grid


def test_cka_needs_no_probe_and_lists_make_dimensions(store):
    fractions = grid_sizes(120, 0.02)[0]
    found = pc.critical_mass(store, layer="l", delta=[0.9, 0.99], precision=0.02, score="cka")
    whole = pc.redundancy(pc.cka(store, layer="l", split="test", fractions=fractions), [0.9, 0.99])
    np.testing.assert_array_equal(found.critical_mass, whole.critical_mass)
    both = pc.critical_mass(store, **RIDGE | {"l2": [1.0, 1e-2]}, delta=0.9, precision=0.1)
    assert both.critical_mass.dims == ("l2", "delta")
    assert both.l2.values.tolist() == [1.0, 1e-2]
    alone = pc.critical_mass(store, **RIDGE, delta=0.9, precision=0.1)
    assert both.critical_mass.sel(l2=1e-2).item() == alone.critical_mass.item()
    first = pc.critical_mass(store, **RIDGE, selection="first", delta=0.9, precision=0.1)
    assert np.isnan(first.critical_mass_low).all()  # it draws nothing: one subset of a size


def test_by_shots_it_equals_the_grid_as_the_full_layer_is_learnt_from_the_same_rows(store):
    few = {"layer": "l", "probe": "ridge", "l2": 1e-1, "seeds": 3, "shots": [8, "all"]}
    found = pc.critical_mass(store, delta=0.9, precision=0.1, score="macro_f1", **few)
    whole = pc.sweep(store, fractions=grid_sizes(120, 0.1)[0], metric="macro_f1", **few)
    want = pc.redundancy(whole, 0.9, score="macro_f1").critical_mass.values.ravel()
    np.testing.assert_array_equal(found.critical_mass.values.ravel(), want)
    assert found.shots.values.tolist() == ["8", "all"]
    assert found.score == "macro_f1"


@pytest.mark.parametrize("selection", ["random", "first"])
def test_where_seeds_draw_labels_it_equals_the_grid_of_all_of_them(store, selection):
    control = {"layer": "l", "probe": "ridge", "l2": 1e-1, "seeds": 3, "control": "shuffled"}
    control |= {"selection": selection, "train": "train", "test": "train"}  # learnt by heart: above chance
    found = pc.critical_mass(store, delta=[0.8, 0.95], precision=0.1, **control)
    whole = pc.redundancy(pc.sweep(store, fractions=grid_sizes(120, 0.1)[0], **control), [0.8, 0.95])
    np.testing.assert_array_equal(found.critical_mass, whole.critical_mass.squeeze())
    assert float(found.full_score) == pytest.approx(whole.full_score.item())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"delta": 0}, "got delta 0"),
        ({"delta": []}, "allowed: shares of the full score"),
        ({"precision": 0.7}, "got precision 0.7"),
        ({"precision": 0}, "above 0"),
        ({"precision": "fine"}, "got precision fine"),
        ({"memory_limit": "much"}, "got memory_limit 'much'"),
        ({"seeds": 0}, "got seeds 0"),
        ({"confidence": 1}, "got confidence 1"),
        ({"selection": "pca"}, "keeps no neurons"),
        ({"layer": "m"}, "layer 'm'"),
        ({"layer": []}, "an empty list for layer"),
        ({"probe": "tree"}, "got probe 'tree'"),
        ({"score": "f2"}, "got score 'f2'"),
        ({"score": "ece"}, "lower is better"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(store, tmp_path, options, says):
    with pytest.raises(pc.InputError) as error:
        pc.critical_mass(store, out=tmp_path / "r", **RIDGE | {"delta": 0.9} | options)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_command_prints_a_line_per_delta_and_both_counts(store, capsys, tmp_path):
    line = ["critical", store.path, "--layer", "l", "--delta", "0.9,0.95", "--precision", "0.05"]
    with pytest.raises(SystemExit) as stop:
        pc.main([*line, "--probe", "ridge", "--l2", "1e-2", "--seeds", "3", "--out", str(tmp_path / "r")])
    told = capsys.readouterr().out
    assert stop.value.code == 0, told
    assert [row.split()[0] for row in told.splitlines()[1:3]] == ["0.9", "0.95"]
    assert "a grid in steps of 5% of the layer takes 58" in told
