"""Class weights in blocks and sweeps: scikit-learn's, and what cannot be weighted is refused."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.utils.class_weight import compute_sample_weight

import probecache as pc
from probecache.analyze.arguments import weights_of
from probecache.analyze.probes.estimators import LogisticProbe
from probecache.analyze.probes.fit import fit_block, task_moments
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.analyze.tasks.class_weights import weigh_classes
from probecache.analyze.tasks.task import Task
from probecache.store.errors import FingerprintMismatch, InputError

NAMES = ("cat", "dog", "hen")


def uneven(classes=3):
    rng = np.random.default_rng(0)
    y = np.minimum((rng.random(500) * rng.random(500) * 2 * classes).astype(int), classes - 1)
    x = (rng.normal(size=(classes, 8))[y] + 1.5 * rng.normal(size=(500, 8))).astype(np.float32)
    return Task(x[:400], y[:400], x[400:], y[400:], NAMES[:classes])


WEIGHTS: dict[str, Any] = {"balanced": "balanced", "mapping": {"cat": 0.5, "hen": 3.0}}


@pytest.mark.parametrize("name", sorted(WEIGHTS))
@pytest.mark.parametrize("classes", [2, 3])
def test_weighted_probes_equal_scikit_learn(name, classes):
    task, given = uneven(classes), WEIGHTS[name]
    if name == "mapping":
        given = {key: value for key, value in given.items() if key in task.classes}
    theirs = given if name == "balanced" else {NAMES.index(key): value for key, value in given.items()}
    x, test = ((m - task.mean) / task.scale for m in (task.train, task.test))
    total = compute_sample_weight(theirs, task.train_labels).sum()
    order, l2 = np.arange(8)[None], 1e-2
    options = {"class_weight": given, "return_predictions": True}
    got = fit_block(task, order, np.array([8]), np.array([l2]), **options)
    model = LogisticRegression(C=1 / (l2 * total), class_weight=theirs, tol=1e-8, max_iter=1000)
    assert np.mean(got.predictions[0, 0, 0] != model.fit(x, task.train_labels).predict(test)) <= 0.01
    got = fit_block(task, order, np.array([8]), np.array([l2]), probe="ridge", **options)
    model = RidgeClassifier(alpha=l2 * total, class_weight=theirs).fit(x, task.train_labels)
    np.testing.assert_array_equal(got.predictions[0, 0, 0], model.predict(test))
    plain = fit_block(task, order, np.array([8]), np.array([l2]), return_predictions=True)
    assert (plain.predictions != got.predictions).any()  # the weights do something here


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path, task = tmp_path_factory.mktemp("weights") / "s", uneven()
    for split in ("train", "test"):
        matrix, labels = getattr(task, split), getattr(task, f"{split}_labels")
        store = pc.write_arrays(
            path, split=split, layer="a", activations=matrix, labels=labels, class_names=NAMES
        )
    return store


@pytest.mark.parametrize("selection", ["first", "pca"])
def test_a_weighted_sweep_is_the_weighted_block_and_is_recorded(store, tmp_path, selection):
    plan = {"layer": "a", "fractions": [0.5, 1], "seeds": 1, "l2": 1e-2, "selection": selection}
    swept = pc.sweep(store, **plan, class_weight={"hen": 3, "cat": 0.5}, out=tmp_path / "r")
    assert json.loads(swept.attrs["settings"])["class_weight"] == [["cat", 0.5], ["hen", 3.0]]
    if selection == "first":
        direct = fit_block(
            uneven(), np.arange(8)[None], np.array([4, 8]), np.array([1e-2]), class_weight=WEIGHTS["mapping"]
        )
        np.testing.assert_allclose(swept["objective"].values.ravel(), direct.objective.ravel(), rtol=1e-6)
    plain = pc.sweep(store, **plan)
    assert (np.abs(swept["objective"] - plain["objective"]) > 1e-3).all()
    with pytest.raises(FingerprintMismatch, match=r"class_weight: .*'cat'.* there, None now"):
        pc.sweep(store, **plan, out=tmp_path / "r")
    auto = pc.sweep(store, **(plan | {"l2": "auto", "l2_path": [1e-2]}), class_weight={"hen": 3, "cat": 0.5})
    np.testing.assert_allclose(auto["objective"].values, swept["objective"].values, rtol=2e-5)


def test_a_weighted_layer_on_disk_is_the_one_in_memory(store, monkeypatch):
    plan = {"layer": "a", "fractions": [0.5, 1], "seeds": 1, "l2": 1e-2, "class_weight": "balanced"}
    here = pc.sweep(store, **plan)
    monkeypatch.setattr("probecache.analyze.tasks.load.stays_on_disk", lambda size, limit: True)
    np.testing.assert_allclose(pc.sweep(store, **plan)["objective"], here["objective"], rtol=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_weight": "even"}, "got class_weight 'even'; allowed: 'balanced'"),
        ({"class_weight": {"cat": -1}}, "got class_weight"),
        ({"class_weight": {"cat": "heavy"}}, "got class_weight"),
        ({"class_weight": {}}, "got class_weight"),
        ({"class_weight": {"cat": 0}}, "allowed: 'balanced', or class names with weights above 0"),
        ({"class_weight": {"cow": 2}}, "got a weight for class 'cow'"),
        ({"class_weight": "balanced", "probe": "knn"}, "knn, kinds of your own, and the solvers"),
        ({"class_weight": "balanced", "solver": "sklearn"}, "take none"),
    ],
)
def test_weights_that_cannot_be_are_one_line(store, tmp_path, change, message):
    with pytest.raises(InputError, match=message) as caught:
        pc.sweep(store, **({"layer": "a", "fractions": [1], "out": tmp_path / "r"} | change))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_blocks_refuse_weights_that_would_be_passed_over():
    task = uneven()
    one = np.arange(8)[None], np.array([8]), np.array([1e-2])
    with pytest.raises(InputError, match="class_weight beside shared"):
        fit_block(task, *one, class_weight="balanced", shared=task_moments(task))
    with pytest.raises(InputError, match="for a knn probe, which takes none"):
        fit_block(weigh_classes(task, "balanced"), *one, probe="knn")
    real = Task(task.train, task.train[:, 0].astype(float), task.test, task.test[:, 0].astype(float))
    with pytest.raises(InputError, match="class weights for real-valued targets"):
        fit_block(real, *one, probe="ridge", class_weight="balanced")


@pytest.mark.parametrize("probe", ["logistic", "ridge", "sgd"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_without_weight_is_named(probe, classes):
    task = uneven(classes)
    one = np.arange(8)[None], np.array([8]), np.array([1e-2])
    message = (
        "got total sample weight 0 for class 'dog'; allowed: above 0 for every class; .* leave its rows out"
    )
    with pytest.raises(InputError, match="class names with weights above 0; to fit without a class"):
        fit_block(task, *one, probe=probe, class_weight={"dog": 0})
    none = np.where(task.train_labels == 1, 0.0, 2.0)
    with pytest.raises(InputError, match=message) as caught:
        replace(task, weights=none)
    assert "\n" not in str(caught.value)
    none[np.flatnonzero(task.train_labels == 1)[0]] = 1e-3  # one sample of it counts, barely
    assert replace(task, weights=none).weights.min() == 0


def test_an_estimator_names_the_class_without_weight():
    task = uneven()
    with pytest.raises(InputError, match="got total sample weight 0 for class '1'"):
        LogisticProbe(class_weight={1: 0}).fit(task.train, task.train_labels)
    weights = (task.train_labels != 1).astype(float)
    with pytest.raises(InputError, match="got no train sample of class '1'"):  # rows of weight 0 are left out
        LogisticProbe().fit(task.train, task.train_labels, sample_weight=weights)


def test_a_config_file_and_python_give_one_plan():
    mapping = SweepPlan.from_mapping({"layer": "a", "fractions": 1, "class_weight": {"hen": 3, "cat": 0.5}})
    assert mapping == SweepPlan("a", 1, class_weight={"cat": 0.5, "hen": 3.0})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("balanced", "balanced"),
        ("cat=2,dog=0.5", {"cat": 2, "dog": 0.5}),
        ("tench, Tinca tinca=2", {"tench, Tinca tinca": 2}),
        ("a=b=2, jack-o'-lantern=0.5,", {"a=b": 2, "jack-o'-lantern": 0.5}),
        ("cat=2,dog", "cat=2,dog"),  # for the plan to refuse
        ("cat=two", {"cat": "two"}),
    ],
)
def test_names_on_the_command_line_may_hold_commas_and_equals_signs(text, weights):
    assert weights_of(text) == weights
