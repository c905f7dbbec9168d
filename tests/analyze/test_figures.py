"""Figures: written in every format, reproducible, and drawn from the right numbers."""

import numpy as np
import pytest
from scipy import stats

from probecache.analyze.findings.summary import pick_l2, seed_band
from probecache.store.errors import InputError
from tests.analyze.synthetic import synthetic_results

pytest.importorskip("matplotlib", reason="matplotlib comes with the extra `report`")

from probecache.analyze.report.figures import accuracy_figure, score_figure


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_same_results_same_file(tmp_path, suffix):
    results = synthetic_results(layers=("blocks.3", "penultimate"))
    first = accuracy_figure(results, tmp_path / f"one{suffix}").read_bytes()
    assert accuracy_figure(results, tmp_path / f"two{suffix}").read_bytes() == first
    assert len(first) > 2000


def test_draws_mean_over_seeds_and_full_layer():
    results = synthetic_results(selections=("random", "pca"))
    axis = score_figure(results, "accuracy", "accuracy").axes[0]
    lines = {line.get_label(): line for line in axis.get_lines()}
    for selection in ("random", "pca"):
        want = results.accuracy.sel({"selection": selection}).mean("seed").squeeze()
        np.testing.assert_allclose(lines[selection].get_xdata(), results.fraction)
        np.testing.assert_allclose(lines[selection].get_ydata(), want)
    full = results.accuracy.sel({"selection": "random", "fraction": 1.0}).mean()
    np.testing.assert_allclose(lines["full layer"].get_ydata(), float(full))
    assert axis.get_xscale() == "log"


def test_text_in_svg_stays_text(tmp_path):
    svg = accuracy_figure(synthetic_results(), tmp_path / "a.svg").read_text()
    for word in ("test accuracy", "neurons kept", "penultimate", "full layer"):
        assert f">{word}<" in svg


def test_a_selection_measured_at_some_fractions_only_is_drawn_there():
    results = synthetic_results(selections=("random", "first"))
    results.accuracy.loc[{"selection": "first", "fraction": [0.05, 1.0]}] = np.nan
    axis = score_figure(results, "accuracy", "accuracy").axes[0]
    line = next(line for line in axis.get_lines() if line.get_label() == "first")
    assert list(line.get_xdata()) == [0.1, 0.2, 0.5]


def test_band_is_student_t():
    values = synthetic_results().accuracy.isel(
        target=0, layer=0, selection=0, shots=0, l2=0, fraction=slice(0, -1)
    )
    band = seed_band(values)
    low, high = stats.t.interval(0.95, 4, loc=values.mean("seed"), scale=stats.sem(values, axis=1))
    np.testing.assert_allclose(band["low"], low)
    np.testing.assert_allclose(band["high"], high)
    one = seed_band(values.isel(seed=[0]))
    np.testing.assert_array_equal(one["low"], one["high"])


def test_l2_with_the_best_full_layer_is_picked_or_the_one_asked_for():
    results = synthetic_results(l2s=(1e-4, 1e-2))
    results.accuracy.loc[{"l2": 1e-2}] += 0.01
    assert float(pick_l2(results).l2) == 1e-2
    assert float(pick_l2(results, 1e-4).l2) == 1e-4
    with pytest.raises(InputError, match=r"l2 0.5 was not measured: the results hold 0.0001, 0.01"):
        pick_l2(results, 0.5)


def test_unknown_suffix_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"ends in .bmp: use .svg, .png or .pdf"):
        accuracy_figure(synthetic_results(), tmp_path / "a.bmp")
