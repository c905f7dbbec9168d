"""Figures: written in every format, reproducible, and drawn from the right numbers."""

import io
import pickle

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from scipy import stats

import probecache as pc
from probecache.analyze.findings.confusion import confusion_matrix
from probecache.analyze.findings.summary import bounds_of, pick_l2, seed_band
from probecache.analyze.results.saved import save_dataset
from probecache.store.errors import InputError
from tests.analyze.synthetic import synthetic_results

pytest.importorskip("matplotlib", reason="matplotlib comes with the extra `report`")


def lines_of(ax):
    return {line.get_label(): line for line in ax.get_lines()}


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_same_results_same_file(tmp_path, suffix):
    def draw(name):
        return pc.plot.save(
            pc.plot.curves(synthetic_results()).figure, tmp_path / f"{name}{suffix}"
        ).read_bytes()

    first = draw("one")
    assert draw("two") == first
    assert len(first) > 2000


def test_a_notebook_shows_axes_and_figure_as_a_picture():
    ax = pc.plot.curves(synthetic_results())
    for shown in (ax, ax.figure, pickle.loads(pickle.dumps(ax))):
        picture = Image.open(io.BytesIO(shown._repr_png_()))
        assert picture.size == (504, 396)  # 4.2 x 3.3 inches
        assert np.unique(picture.convert("L")).size > 10


def test_draws_mean_over_seeds_and_full_layer():
    results = synthetic_results(selections=("random", "pca"))
    ax = pc.plot.curves(results)
    for selection in ("random", "pca"):
        want = results.accuracy.sel({"selection": selection}).mean("seed").squeeze()
        np.testing.assert_allclose(lines_of(ax)[selection].get_xdata(), results.fraction)
        np.testing.assert_allclose(lines_of(ax)[selection].get_ydata(), want)
    full = results.accuracy.sel({"selection": "random", "fraction": 1.0}).mean()
    np.testing.assert_allclose(lines_of(ax)["full layer"].get_ydata(), float(full))
    assert ax.get_xscale() == "log"


def test_a_path_of_results_is_as_good_as_the_results(tmp_path):
    results = synthetic_results(layers=("early", "late"))
    save_dataset(results, tmp_path / "r.zarr")
    for draw in (pc.plot.curves, pc.plot.profile, pc.plot.dr, pc.plot.layers, pc.plot.class_spread):
        drawn = [
            [line.get_ydata().tolist() for line in draw(given).get_lines()]
            for given in (results, tmp_path / "r.zarr", str(tmp_path / "r.zarr"))
        ]
        assert drawn[0] == drawn[1] == drawn[2]


def test_a_line_for_every_cell_that_is_not_fixed_and_the_axes_are_the_caller_s():
    from matplotlib.figure import Figure

    results = synthetic_results(layers=("early", "late"), selections=("random", "pca"), l2s=(1e-4, 1e-2))
    mine = Figure().subplots()
    assert pc.plot.curves(results, ax=mine, layer="late", selection="pca") is mine
    assert set(lines_of(mine)) == {"l2 0.0001", "l2 0.01"}
    profile = pc.plot.profile(results, selection="random", l2=1e-4)
    want = results.accuracy.sel({"selection": "random", "fraction": 1.0, "l2": 1e-4}).mean("seed").squeeze()
    (line,) = profile.get_lines()
    np.testing.assert_allclose(line.get_ydata(), want)
    assert [t.get_text() for t in profile.get_xticklabels()] == ["early", "late"]


def test_learning_curves_and_dr_along_shots():
    parts = [
        synthetic_results(selections=("random",), seed=i).assign_coords(shots=[s])
        for i, s in enumerate(("1", "4", "all"))
    ]
    results = xr.concat(parts, "shots", data_vars="minimal")
    ax = pc.plot.learning_curve(results)
    (line,) = ax.get_lines()
    want = results.accuracy.sel(fraction=1.0).mean("seed").squeeze()
    np.testing.assert_allclose(line.get_ydata(), want)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "4", "all"]
    found = pc.redundancy(results, 0.9)
    (along,) = pc.plot.critical(found, "shots").get_lines()
    np.testing.assert_allclose(along.get_ydata(), found.dr.squeeze())


def test_text_in_svg_stays_text_whatever_it_holds(tmp_path):
    hostile = "$\\frac{a}{$ <b>\n\x0b&"
    ax = pc.plot.curves(synthetic_results(layers=(hostile,)))
    ax.set_title(hostile.split("\n")[0])
    svg = pc.plot.save(ax.figure, tmp_path / "a.svg").read_text()
    for word in ("accuracy", "neurons kept", "random" if ">random<" in svg else "accuracy"):
        assert f">{word}<" in svg
    import xml.etree.ElementTree as ET

    ET.fromstring(svg)  # a document still
    assert "frac{a}{$" in svg


def test_a_selection_measured_at_some_fractions_only_is_drawn_there():
    results = synthetic_results(selections=("random", "first"))
    results.accuracy.loc[{"selection": "first", "fraction": [0.05, 1.0]}] = np.nan
    assert list(lines_of(pc.plot.curves(results))["first"].get_xdata()) == [0.1, 0.2, 0.5]


def test_band_is_student_t_and_stays_in_the_score_s_range():
    values = synthetic_results().accuracy.isel(
        target=0, layer=0, selection=0, shots=0, l2=0, fraction=slice(0, -1)
    )
    band = seed_band(values)
    low, high = stats.t.interval(0.95, 4, loc=values.mean("seed"), scale=stats.sem(values, axis=1))
    np.testing.assert_allclose(band["low"], low)
    np.testing.assert_allclose(band["high"], high)
    one = seed_band(values.isel(seed=[0]))
    np.testing.assert_array_equal(one["low"], one["high"])
    near_one = xr.DataArray([[0.9, 1.0, 1.0]], dims=("fraction", "seed"))
    assert float(seed_band(near_one)["high"][0]) > 1
    assert float(seed_band(near_one, within=bounds_of("accuracy"))["high"][0]) == 1
    assert bounds_of("r2")[0] == -np.inf
    assert bounds_of("my_own") == (-np.inf, np.inf)


def test_l2_with_the_best_full_layer_is_picked_or_the_one_asked_for():
    results = synthetic_results(l2s=(1e-4, 1e-2))
    results.accuracy.loc[{"l2": 1e-2}] += 0.01
    assert float(pick_l2(results).l2) == 1e-2
    assert float(pick_l2(results, 1e-4).l2) == 1e-4
    with pytest.raises(InputError, match=r"l2 0.5 was not measured: the results hold 0.0001, 0.01"):
        pick_l2(results, 0.5)


def with_predictions(results):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 50)
    shape = results.accuracy.shape
    predicted = np.where(rng.uniform(size=(*shape, 50)) < 0.7, truth, rng.integers(0, 4, (*shape, 50)))
    return results.assign(
        predictions=((*results.accuracy.dims, "sample"), predicted), truth=(("target", "sample"), truth[None])
    )


def test_confusion_counts_what_was_predicted():
    from sklearn.metrics import confusion_matrix as reference

    results = with_predictions(synthetic_results(selections=("random", "pca")))
    counts = confusion_matrix(results, selection="pca", seed=2)
    cell = results.sel({"selection": "pca", "seed": 2, "fraction": 1.0}).squeeze()
    np.testing.assert_array_equal(counts, reference(cell.truth, cell.predictions))
    ax = pc.plot.confusion(counts)
    assert [t.get_text() for t in ax.get_xticklabels()] == [f"class {i}" for i in range(4)]
    with pytest.raises(InputError, match="sweep with save_predictions"):
        confusion_matrix(synthetic_results())


def test_calibration_is_the_share_of_right_predictions_per_bin():
    probabilities = np.array([[0.95, 0.05], [0.92, 0.08], [0.6, 0.4], [0.45, 0.55]])
    ax = pc.plot.calibration(probabilities, np.array([0, 1, 0, 0]))
    line = lines_of(ax)["share that is right"]
    np.testing.assert_allclose(line.get_xdata(), [0.55, 0.6, 0.935])
    np.testing.assert_allclose(line.get_ydata(), [0, 1, 0.5])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda r: pc.plot.scores(r, "seed"), "allowed: fraction, shots, l2, layer"),
        (lambda r: pc.plot.curves(r, layer="lat"), "got layer 'lat'; the results hold penultimate"),
        (lambda r: pc.plot.curves(r, colour="red"), "got colour='red'"),
        (lambda r: pc.plot.calibration(np.ones((3, 2)), np.ones(2)), "needed: (n, classes) and (n,)"),
        (lambda r: pc.plot.save(pc.plot.curves(r).figure, "a.bmp"), "ends in .bmp: use .svg, .png or .pdf"),
    ],
)
def test_wrong_input_is_one_line(call, says):
    with pytest.raises(InputError) as error:
        call(synthetic_results())
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_panel_that_reaches_higher_is_not_cut_by_the_one_before_it():
    from matplotlib import pyplot

    results = synthetic_results()
    even = results.assign(class_accuracy=xr.full_like(results.class_accuracy, 0.5))
    figure, axes = pyplot.subplots(1, 2, sharey=True)
    pc.plot.class_spread(even, ax=axes[0])
    pc.plot.class_spread(results, ax=axes[1])
    heights = [line.get_ydata().max() for line in axes[1].get_lines()]
    bands = [band.get_paths()[0].vertices[:, 1].max() for band in axes[1].collections]
    low, high = axes[0].get_ylim()
    assert low == 0
    assert high >= max(heights + bands) > 0
    pyplot.close(figure)


def test_debiased_cka_below_zero_is_shown():
    values = xr.DataArray([[-0.2, -0.1], [0.9, 0.95]], {"fraction": [0.1, 1.0]}, ("fraction", "seed"))
    found = xr.Dataset({"cka": abs(values), "cka_debiased": values})
    found["cka_pair"] = ("fraction", "pair"), np.array([[0.1], [0.9]])
    assert pc.plot.similarity(found).get_ylim()[0] <= -0.2
    found["cka_debiased"] = abs(values)
    assert pc.plot.similarity(found).get_ylim()[0] <= 0 < pc.plot.similarity(found).get_ylim()[1]
