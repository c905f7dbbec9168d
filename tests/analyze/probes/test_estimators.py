import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from probecache.analyze.probes.estimators import LogisticProbe, RidgeProbe, RidgeRegressor

FLOAT32 = "compares to 1e-7, the rounding of one float32 product; test_weights_... compares to 1e-3"


@parametrize_with_checks(
    [LogisticProbe(), RidgeProbe(), RidgeRegressor()],
    expected_failed_checks=lambda _: {"check_sample_weight_equivalence_on_dense_data": FLOAT32},
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_probes_equal_scikit_learns_behind_a_scaler():
    x, y = load_digits(return_X_y=True)
    probe = LogisticProbe(1e-3).fit(x[:1500], y[:1500])
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=1 / 1.5, tol=1e-8, max_iter=5000))
    peer.fit(x[:1500], y[:1500])
    np.testing.assert_allclose(probe.predict_proba(x[1500:]), peer.predict_proba(x[1500:]), atol=0.02)
    ridge = RidgeProbe(1e-3).fit(x[:1500], y[:1500])
    peer = make_pipeline(StandardScaler(), RidgeClassifier(alpha=1.5)).fit(x[:1500], y[:1500])
    np.testing.assert_array_equal(ridge.predict(x[1500:]), peer.predict(x[1500:]))


@pytest.mark.parametrize("probe", [LogisticProbe(1e-2), RidgeProbe(1e-2)])
def test_weights_stand_for_repetition_and_balanced_for_weights(probe):
    x, y = load_digits(return_X_y=True)
    x, y = x[:300], y[:300]
    counts = np.random.default_rng(0).integers(0, 3, 300)
    rows = np.repeat(np.arange(300), counts)
    a = probe.fit(x, y, sample_weight=counts).decision_function(x)
    b = probe.fit(x[rows], y[rows]).decision_function(x)
    np.testing.assert_allclose(a, b, atol=2e-2)
    weights = 300 / (10 * np.bincount(y)[y])
    a = probe.set_params(class_weight="balanced").fit(x, y).decision_function(x)
    b = probe.set_params(class_weight=None).fit(x, y, sample_weight=weights).decision_function(x)
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_tensors_that_numpy_has_not_are_taken_as_float32():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 3))).bfloat16()
    y = (x[:, 0] > 0).numpy()
    ours = LogisticProbe(l2=1e-2).fit(x, y)
    same = LogisticProbe(l2=1e-2).fit(x.float().numpy(), y)
    np.testing.assert_array_equal(ours.coef_, same.coef_)
    np.testing.assert_array_equal(ours.predict(x), same.predict(x.float().numpy()))


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("outputs", [(), (2,)])
def test_the_regressor_is_scikit_learns_ridge(standardize, outputs):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 8)) * rng.lognormal(size=8) + 100
    y = (x @ rng.normal(size=(8, *outputs))) + rng.normal(size=(120, *outputs)) + 1e6
    weights = rng.integers(0, 4, 120)
    ours = RidgeRegressor(1e-2, standardize=standardize).fit(x[:100], y[:100], weights[:100])
    scaler = StandardScaler(with_std=standardize).fit(x[:100], sample_weight=weights[:100])
    peer = Ridge(alpha=1e-2 * weights[:100].sum())
    peer.fit(scaler.transform(x[:100]), y[:100], sample_weight=weights[:100])
    wanted = peer.predict(scaler.transform(x[100:]))
    np.testing.assert_allclose(ours.predict(x[100:]) - 1e6, wanted - 1e6, rtol=1e-4, atol=1e-3)
    assert ours.coef_.shape == (*outputs, 8)
    assert np.shape(ours.intercept_) == outputs
