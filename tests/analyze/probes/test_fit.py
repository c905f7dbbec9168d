"""The probe engine against scikit-learn, fit by fit, at equal objective."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from probecache.analyze.probes.fit import fit_block
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError

L2 = 1e-3
SIZES = np.array([3, 64, 13, 26, 40])  # in no order


def digits(classes=10):
    x, y = load_digits(return_X_y=True)
    x, y = x[y < classes].astype(np.float32), y[y < classes]
    return Task(x[:-300], y[:-300], x[-300:], y[-300:])


def reference(task, order, k, l2, weights=None):
    """scikit-learn's fit on the first k columns of the order: (model, test matrix, objective)."""
    train, test = (
        ((m - task.mean) / task.scale)[:, order[:k]].astype(np.float64) for m in (task.train, task.test)
    )
    w = np.ones(len(train)) if weights is None else weights
    model = LogisticRegression(C=1 / (l2 * w.sum()), tol=1e-8, max_iter=5000)
    model.fit(train, task.train_labels, sample_weight=weights)
    p = model.predict_proba(train)[np.arange(len(train)), task.train_labels]
    return model, test, -(w * np.log(p)).sum() / w.sum() + l2 / 2 * (model.coef_**2).sum()


@pytest.mark.parametrize("classes", [10, 2])
def test_logistic_equals_scikit_learn(classes):
    task = digits(classes)
    orders = np.stack([permutation(64, s) for s in (0, 1)])
    got = fit_block(task, orders, SIZES, np.array([L2, 1e-2]), return_predictions=True)
    assert got.accuracy.shape == (2, 5, 2)
    assert got.converged.all()
    for s, order in enumerate(orders):
        for f, k in enumerate(SIZES):
            for p, l2 in enumerate((L2, 1e-2)):
                model, test, objective = reference(task, order, k, l2)
                assert got.objective[s, f, p] == pytest.approx(objective, rel=1e-4)
                if k > 10:  # on three columns of digits whole groups of samples are all but tied
                    assert np.mean(got.predictions[s, f, p] != model.predict(test)) <= 0.01
                right = got.predictions[s, f, p] == task.test_labels
                assert got.accuracy[s, f, p] == pytest.approx(right.mean(), abs=1e-12)


@pytest.mark.parametrize("classes", [10, 2])
def test_ridge_equals_scikit_learn(classes):
    task = digits(classes)
    order = permutation(64, 3)
    got = fit_block(task, order[None], SIZES, np.array([L2]), probe="ridge", return_predictions=True)
    for f, k in enumerate(SIZES):
        train, test = (((m - task.mean) / task.scale)[:, order[:k]] for m in (task.train, task.test))
        model = RidgeClassifier(alpha=L2 * len(train)).fit(train, task.train_labels)
        np.testing.assert_array_equal(got.predictions[0, f, 0], model.predict(test))


def test_bad_arguments_are_one_line_errors():
    task, order = digits(), permutation(64, 0)[None]
    for sizes, l2s, options in [
        ([65], [1e-3], {}),
        ([3], [-1.0], {}),
        ([3], [], {}),
        ([3], [1e-3], {"probe": "svm"}),
        ([3], [1e-3], {"device": "tpu"}),
    ]:
        with pytest.raises(InputError) as error:
            fit_block(task, order, np.array(sizes), np.array(l2s), **options)
        assert "\n" not in str(error.value)
