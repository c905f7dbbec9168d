"""Calibration from the scores that RESULTS keep: against the metric `ece`, and by hand."""

import numpy as np
import pytest

import probecache as pc
from probecache.analyze.findings.reliability import has_probabilities, reliability


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Three classes that overlap, probes on 4 and on all 12 neurons, scores and the metric kept."""
    path, rng = tmp_path_factory.mktemp("reliability") / "s.zarr", np.random.default_rng(0)
    y = np.arange(600) % 3
    x = (rng.normal(size=(600, 12)) * 2 + rng.normal(size=(3, 12))[y]).astype(np.float32)
    for split, rows in (("train", slice(0, 200)), ("test", slice(200, 600))):
        pc.write_arrays(path, split=split, layer="l", activations=x[rows], labels=y[rows])
    return pc.sweep(
        path, layer="l", fractions=[0.34, 1.0], seeds=2, l2=1e-3, metric="ece", save_predictions="scores"
    )


@pytest.mark.parametrize(("fraction", "seed"), [(0.34, 0), (0.34, 1), (1.0, 0)])
def test_ece_is_the_metric_of_that_name(swept, fraction, seed):
    found = reliability(swept, fraction=fraction, seed=seed)
    assert float(found["ece"]) == pytest.approx(
        float(swept["ece"].sel(fraction=fraction, seed=seed).squeeze()), abs=1e-6
    )
    assert int(found["count"].sum()) == 400


def test_bins_hold_what_numpy_counts(swept):
    cell = swept.sel(fraction=1.0, seed=0).squeeze()
    odds = np.exp(cell["scores"].transpose("class", "sample").to_numpy().astype(float))
    sure = (odds / odds.sum(0)).max(0)
    right = cell["scores"].argmax("class").to_numpy() == cell["truth"].to_numpy()
    found = reliability(swept, bins=4)
    for i, (lower, upper) in enumerate(((0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1))):
        inside = (sure > lower) & (sure <= upper)
        assert int(found["count"][i]) == inside.sum()
        if inside.any():
            assert float(found["confidence"][i]) == pytest.approx(sure[inside].mean(), abs=1e-6)
            assert float(found["accuracy"][i]) == pytest.approx(right[inside].mean())
            assert float(found["low"][i]) <= right[inside].mean() <= float(found["high"][i])
        else:
            assert np.isnan(float(found["accuracy"][i]))
    assert float(found["ece"]) == pytest.approx(
        float((found["count"] * abs(found["accuracy"] - found["confidence"])).sum()) / 400
    )


def test_the_figure_draws_the_same_bins(swept):
    line = next(
        line for line in pc.plot.calibration(swept, bins=4).lines if line.get_label() == "share that is right"
    )
    found = reliability(swept, bins=4).dropna("bin")
    np.testing.assert_allclose(line.get_xdata(), found["confidence"])
    np.testing.assert_allclose(line.get_ydata(), found["accuracy"])


def test_what_has_no_probabilities_is_refused(swept):
    assert has_probabilities(swept)
    for without in (swept.drop_vars("scores"), swept.assign_attrs(probe="ridge")):
        assert not has_probabilities(without)
        with pytest.raises(pc.InputError, match="save_predictions scores"):
            reliability(without)
