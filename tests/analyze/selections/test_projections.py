"""Each way to pick columns against its definition: scikit-learn's PCA, a plain product, a plain sort."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from probecache.analyze.probes.fit import fit_block
from probecache.analyze.selections.projections import (
    check_selection,
    principal_components,
    random_basis,
    read_indices,
    select,
)
from probecache.analyze.selections.subsets import permutation
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError
from tests.analyze.synthetic import features


def make_task(n=90, d=14, seed=0):
    x = features(n=n + 30, d=d, seed=seed, rank=5)
    labels = np.arange(n + 30) % 3
    return Task(x[:n], labels[:n], x[n:], labels[n:])


def test_random_is_one_task_with_the_paper_s_permutations():
    task = make_task()
    (part,) = select(task, "random", [0, 3])
    assert part.task is task
    assert part.seeds == (0, 3)
    np.testing.assert_array_equal(part.orders, [permutation(14, 0), permutation(14, 3)])


def test_what_draws_nothing_is_fitted_once():
    task = make_task()
    for selection in ("first", "variance", "variance-least", "pca", "pca-least"):
        (part,) = select(task, selection, range(5))
        assert part.orders.shape == (1, 14)
        assert part.seeds == (0, 1, 2, 3, 4)
    (part,) = select(task, "first", [0])
    np.testing.assert_array_equal(part.orders[0], np.arange(14))


def test_variance_sorts_by_training_variance_constant_neurons_last():
    task = make_task()
    train = task.train.copy()
    train[:, 5] = 7.0
    task = Task(train, task.train_labels, task.test, task.test_labels)
    (high,) = select(task, "variance", [0])
    (low,) = select(task, "variance-least", [0])
    assert high.orders[0].tolist() == np.argsort(-train.astype(np.float64).var(0)).tolist()
    assert high.orders[0][-1] == low.orders[0][0] == 5


@pytest.mark.parametrize("standardize", [True, False])
def test_pca_is_scikit_learn_s_fitted_on_train_alone(standardize):
    task = make_task()
    scaler = StandardScaler(with_std=standardize).fit(task.train.astype(np.float64))
    reference = PCA().fit(scaler.transform(task.train))
    (part,) = select(task, "pca", [0], standardize=standardize)
    for ours, rows in ((part.task.train, task.train), (part.task.test, task.test)):
        theirs = reference.transform(scaler.transform(rows))
        np.testing.assert_allclose(ours * np.sign((ours * theirs).sum(0)), theirs, atol=2e-4)
    changed = Task(task.train, task.train_labels, task.test + 5, task.test_labels)
    np.testing.assert_array_equal(principal_components(changed), principal_components(task))


@pytest.mark.parametrize("selection", ["pca", "pca-least"])
def test_all_components_are_the_full_layer_s_probe(selection):
    task = make_task()
    (part,) = select(task, selection, [0])
    options = {"sizes": np.array([14]), "l2s": np.array([1e-2]), "device": "cpu"}
    ours = fit_block(part.task, part.orders, **options)
    full = fit_block(task, np.arange(14)[None], **options)
    assert ours.objective.item() == pytest.approx(full.objective.item(), rel=1e-5)
    assert ours.accuracy.item() == full.accuracy.item()


def test_pca_least_is_pca_backwards():
    task = make_task()
    top, least = principal_components(task), principal_components(task, least=True)
    np.testing.assert_array_equal(least, top[:, ::-1])


@pytest.mark.parametrize("n", [9, 14, 15])  # rows fewer than, as many as, more than the neurons
def test_components_diagonalise_the_covariance(n):
    task = make_task(n=n, d=14)
    centred = (task.train - task.mean) / task.scale
    covariance = centred.T.astype(np.float64) @ centred
    basis = principal_components(task)
    want = np.sort(np.linalg.eigvalsh(covariance))[::-1][: min(n - 1, 14)]
    got = basis.T @ covariance @ basis
    np.testing.assert_allclose(np.diag(got)[: len(want)], want, rtol=1e-6)
    np.testing.assert_allclose(got - np.diag(np.diag(got)), 0, atol=1e-5 * want[0])


def test_fewer_samples_than_neurons_leave_the_empty_directions_for_last():
    task = make_task(n=9, d=14)
    for least in (False, True):
        basis = principal_components(task, least=least)
        rank = 8  # nine centred rows
        np.testing.assert_allclose(np.linalg.norm(basis, axis=0), [1] * rank + [0] * (14 - rank), atol=1e-12)
    (part,) = select(task, "pca-least", [0])
    assert (part.task.train[:, 8:] == 0).all()
    assert part.task.train[:, :8].std(0).min() > 1e-3


def test_randproj_is_a_product_with_unit_columns_one_per_seed():
    task = make_task()
    parts = list(select(task, "randproj", [0, 1]))
    assert [p.seeds for p in parts] == [(0,), (1,)]
    for seed, part in enumerate(parts):
        basis = random_basis(14, seed)
        assert basis.min() >= 0
        np.testing.assert_allclose(np.linalg.norm(basis, axis=0), 1)
        # equal up to the mean, which the intercept takes
        want = task.test @ basis
        np.testing.assert_allclose(part.task.test - part.task.test[0], want - want[0], atol=2e-4)
    assert abs(parts[0].task.train - parts[1].task.train).max() > 0.01


def test_an_index_file_comes_first_then_the_rest(tmp_path):
    text = tmp_path / "neurons.txt"
    text.write_text("# best neurons\n7\n2\n11\n")
    np.save(tmp_path / "neurons.npy", np.array([7, 2, 11]))
    for name in ("neurons.txt", "neurons.npy"):
        (part,) = select(make_task(), f"index:{tmp_path / name}", [0, 1])
        assert part.orders[0].tolist() == [7, 2, 11, 0, 1, 3, 4, 5, 6, 8, 9, 10, 12, 13]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("7\nseven\n", "is no list of neuron numbers"),
        ("7, 8", "is no list of neuron numbers, one a line"),
        ("", "names no neuron; write neuron numbers to it, one a line"),
        ("# none\n", "names no neuron"),
        ("7\n2.5\n", "is no list of neuron numbers"),
        ("7\n14\n", "names neuron 14; the layer has 0 to 13"),
        ("-1\n", "names neuron -1; the layer has 0 to 13"),
        ("3\n3\n", "names neuron 3 twice"),
        ("1 2\n3 4\n", "one dimension"),
    ],
)
def test_a_wrong_index_file_is_one_line(tmp_path, content, says):
    path = tmp_path / "neurons.txt"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        read_indices(path, 14)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_selections():
    with pytest.raises(InputError, match=r"got selection 'pac'; close names: pca"):
        list(select(make_task(), "pac", [0]))
    with pytest.raises(InputError, match=r"no file nowhere.txt"):
        check_selection("index:nowhere.txt")
