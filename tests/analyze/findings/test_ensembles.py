"""Disjoint ensembles against scikit-learn fitting each part by itself."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probecache.analyze.findings.ensembles import disjoint_ensemble
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError
from tests.analyze.synthetic import features


def make_task(classes=3):
    x = features(n=300, d=12, rank=6)
    labels = np.argmax(x[:, :classes] + 0.5 * features(n=300, d=classes, seed=4, rank=2), axis=1)
    return Task(x[:200], labels[:200], x[200:], labels[200:])


@pytest.mark.parametrize("classes", [2, 3])
def test_against_scikit_learn(classes):
    task = make_task(classes)
    got = disjoint_ensemble(task, 3, seeds=[5], l2=1e-2, device="cpu")
    orders = permutation(12, 5).reshape(3, 4)
    probabilities = []
    for order in orders:
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=1 / (1e-2 * 200), tol=1e-9, max_iter=5000)
        )
        model.fit(task.train[:, order], task.train_labels)
        probabilities.append(model.predict_proba(task.test[:, order]))
    picks = [p.argmax(1) for p in probabilities]
    right = [np.mean(p == task.test_labels) for p in picks]
    np.testing.assert_allclose(got.accuracy.sel(seed=5), right, atol=0.011)
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert float(got.agreement[0]) == pytest.approx(
        np.mean([np.mean(picks[a] == picks[b]) for a, b in pairs]), abs=0.011
    )
    soft = np.mean(np.mean(probabilities, axis=0).argmax(1) == task.test_labels)
    assert float(got.ensemble_accuracy[0]) == pytest.approx(soft, abs=0.011)
    full = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (1e-2 * 200), tol=1e-9, max_iter=5000))
    full.fit(task.train, task.train_labels)
    assert float(got.full_accuracy) == pytest.approx(full.score(task.test, task.test_labels), abs=0.011)


def test_parts_share_no_neuron_and_wrong_counts_are_refused():
    task = make_task()
    got = disjoint_ensemble(task, 5, seeds=2, device="cpu")
    assert got.attrs["neurons_per_part"] == 2
    assert got.accuracy.dims == ("seed", "part")
    assert (got.agreement >= 0).all()
    assert (got.agreement <= 1).all()
    for parts in (1, 13):
        with pytest.raises(InputError, match="allowed: 2 to 12"):
            disjoint_ensemble(task, parts)
    with pytest.raises(InputError, match="got seeds 0"):
        disjoint_ensemble(task, 3, seeds=0)
    numbers = Task(task.train, task.train[:, 0], task.test, task.test[:, 0])
    with pytest.raises(InputError, match="got numbers; an ensemble votes for classes"):
        disjoint_ensemble(numbers, 3)
