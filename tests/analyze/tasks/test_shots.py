"""Few rows, control labels and online codes: what is drawn, that it nests, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

import probecache as pc
from probecache.analyze.findings.online_code import SHARES, online_code
from probecache.analyze.probes.fit import fit_block
from probecache.analyze.tasks.control import control_task
from probecache.analyze.tasks.shots import check_shots, shot_rows, take_shots
from probecache.analyze.tasks.task import Task

LABELS = np.repeat([0, 1, 2], [50, 20, 9])[np.random.default_rng(0).permutation(79)]


def made(n=300, d=12, classes=3, seed=0, **options):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    x = rng.normal(size=(n, d)).astype(np.float32) + 3
    x[np.arange(n), labels] += 1.5
    cut = 2 * n // 3
    names = tuple(f"class {i}" for i in range(classes))
    return Task(x[:cut], labels[:cut], x[cut:], labels[cut:], names, **options)


@pytest.mark.parametrize("seed", range(5))
def test_shots_are_rows_of_each_class_and_nest(seed):
    before = np.zeros(len(LABELS), bool)
    for shots in (1, 2, 4, 9):
        rows = shot_rows(LABELS, str(shots), seed)
        assert np.bincount(LABELS[rows]).tolist() == [shots] * 3
        assert (before <= rows).all()
        before = rows


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_rounded_by_class_at_least_one_and_nest(seed):
    before = np.zeros(len(LABELS), bool)
    for share, counts in ((0.01, [1, 1, 1]), (0.1, [5, 2, 1]), (0.5, [25, 10, 4]), (0.99, [50, 20, 9])):
        rows = shot_rows(LABELS, str(share), seed)
        assert np.bincount(LABELS[rows]).tolist() == counts
        assert (before <= rows).all()
        before = rows


def test_seeds_draw_other_rows_and_the_same_seed_the_same():
    drawn = {tuple(np.flatnonzero(shot_rows(LABELS, "4", seed))) for seed in range(20)}
    assert len(drawn) == 20
    np.testing.assert_array_equal(shot_rows(LABELS, "4", 3), shot_rows(LABELS, "4", 3))
    every = sum(shot_rows(LABELS, "1", seed).astype(int) for seed in range(400))
    chances = every / 400 * np.bincount(LABELS)[LABELS]  # each row of a class is as likely as the others
    assert 0.1 < chances.min() <= chances.max() < 3


def test_a_class_draws_its_rows_whatever_other_classes_there_are():
    rows = shot_rows(LABELS, "4", 0)
    without = np.where(LABELS == 2, -1, LABELS)
    np.testing.assert_array_equal(shot_rows(without, "4", 0), rows & (LABELS != 2))


def test_targets_without_classes_are_drawn_as_one():
    for labels in (np.linspace(0, 1, 30), np.zeros((30, 2)), np.ones((30, 3), np.int8)):
        assert shot_rows(labels, "4", 0).sum() == 4
        assert shot_rows(labels, "0.1", 0).sum() == 3
        assert (shot_rows(labels, "4", 0) <= shot_rows(labels, "5", 0)).all()
        assert shot_rows(labels, "all", 0).all()
    with pytest.raises(pc.InputError, match="train has 30"):
        shot_rows(np.linspace(0, 1, 30), "31", 0)


def test_a_class_of_fewer_rows_is_refused_by_name():
    with pytest.raises(pc.InputError, match="got 10 shots, and class 'rare' has 9 training rows"):
        shot_rows(LABELS, "10", 0, ("a", "b", "rare"))


def test_what_no_shots_are():
    assert check_shots("all") == ("all",)
    assert check_shots([16, "4", 0.01, "all", np.int64(4), " 0.010 "]) == ("16", "4", "0.01", "all")
    for wrong in (0, -1, 1.0, "1.5", "many", None, True, float("nan"), float("inf"), [], [[1]]):
        with pytest.raises(pc.InputError, match=r"got (no )?shots"):
            check_shots(wrong)


@pytest.mark.parametrize("probe", ["logistic", "ridge"])
def test_a_probe_of_few_shots_is_the_probe_of_those_rows_alone(probe):
    weights = np.random.default_rng(1).random(200) + 0.5
    task = made(weights=weights)
    few = take_shots(task, "8", 5)
    rows = np.flatnonzero(shot_rows(task.train_labels, "8", 5))
    alone = Task(
        task.train[rows],
        task.train_labels[rows],
        task.test,
        task.test_labels,
        task.classes,
        weights=weights[rows],
    )
    orders, sizes, l2s = np.arange(12)[None], np.array([3, 12]), np.array([1e-2])
    ours, theirs = (
        fit_block(t, orders, sizes, l2s, probe=probe, return_coef=True, device="cpu") for t in (few, alone)
    )
    for name in ("coef", "intercept", "objective", "accuracy"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert take_shots(task, "all", 5) is task


def test_shuffled_labels_are_the_labels_in_another_order():
    task = made()
    control = control_task(task, "shuffled", 0)
    for name in ("train_labels", "test_labels"):
        mine, theirs = getattr(task, name), getattr(control, name)
        assert sorted(mine) == sorted(theirs)
        assert 0.2 < (mine == theirs).mean() < 0.5
    assert (control.train_labels != control_task(task, "shuffled", 1).train_labels).any()
    np.testing.assert_array_equal(control.train_labels, control_task(task, "shuffled", 0).train_labels)
    accuracy = [
        fit_block(t, np.arange(12)[None], np.array([12]), np.array([1e-2]), device="cpu").accuracy.item()
        for t in (task, control)
    ]
    assert accuracy[0] > 0.6 > 0.5 > accuracy[1]


def test_random_control_gives_each_type_one_label_in_both_splits():
    task = made(n=600)
    rng = np.random.default_rng(0)
    types = [[f"word {i}" for i in rng.integers(0, 40, len(task.train_labels))]]
    types.append(
        [f"word {i}" for i in rng.integers(0, 45, len(task.test_labels))]
    )  # five are unknown in train
    control = control_task(task, "random", 0, *types)
    label = {}
    for names, labels in zip(types, (control.train_labels, control.test_labels), strict=True):
        for name, value in zip(names, labels, strict=True):
            assert label.setdefault(name, value) == value
    assert set(control.train_labels) == {0, 1, 2}
    other = control_task(task, "random", 1, *types)
    assert (other.train_labels != control.train_labels).any()
    again = control_task(task, "random", 0, *(np.array(t) for t in types))
    np.testing.assert_array_equal(again.test_labels, control.test_labels)


def test_a_rare_class_keeps_a_row_in_a_random_control():
    labels = np.array([0] * 99 + [1])
    x = np.random.default_rng(0).normal(size=(100, 3))
    task = Task(x, labels, x, labels)
    names = [f"image {i}" for i in range(100)]
    for seed in range(20):
        control = control_task(task, "random", seed, names, names)
        assert np.bincount(control.train_labels).tolist() == [99, 1]
        np.testing.assert_array_equal(control.train_labels, control.test_labels)


def test_controls_of_numbers_take_the_rows_values_together():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(50, 2))
    task = Task(rng.normal(size=(50, 3)), y, rng.normal(size=(10, 3)), y[:10])
    names = [f"image {i}" for i in range(60)]
    for control in ("shuffled", "random"):
        found = control_task(task, control, 0, names[:50], names[50:]).train_labels
        assert sorted(map(tuple, found)) == sorted(map(tuple, task.train_labels))
        assert (found != y).any()


@pytest.mark.parametrize(
    ("control", "train", "test", "says"),
    [
        ("shufled", None, None, "close names: shuffled"),
        ("random", None, None, "got no types"),
        ("random", ["a", "b"] * 100, ["a"] * 100, "2 types in train for 3 classes"),
        ("random", ["a", "b"], ["a"] * 100, "2 train types for 200"),
    ],
)
def test_what_is_no_control(control, train, test, says):
    with pytest.raises(pc.InputError, match=says):
        control_task(made(), control, 0, train, test)


@pytest.mark.parametrize("classes", [2, 3])
def test_an_online_code_is_scikit_learns(classes):
    task = made(n=450, classes=classes)
    shares = [0.1, 0.3, 1]
    found = online_code(task, shares, l2=1e-2, seed=4, device="cpu", tol=1e-9, columns=np.arange(8))
    order = np.random.default_rng([0x3D1, 4]).permutation(300)
    x, y = task.train[order, :8].astype(np.float64), task.train_labels[order]
    bits = [30 * np.log2(classes)]
    for start, stop in ((30, 90), (90, 300)):
        scaler = StandardScaler().fit(x[:start])
        fit = LogisticRegression(C=1 / (1e-2 * start), tol=1e-10, max_iter=5000)
        fit.fit(scaler.transform(x[:start]), y[:start])
        p = fit.predict_proba(scaler.transform(x[start:stop]))
        bits.append(log_loss(y[start:stop], p) * (stop - start) / np.log(2))
    np.testing.assert_allclose(found["block_length"], bits, rtol=1e-4)
    assert found["rows"].values.tolist() == [30, 90, 300]
    np.testing.assert_allclose(found["code_length"], sum(bits), rtol=1e-4)
    np.testing.assert_allclose(found["compression"], 300 * np.log2(classes) / sum(bits), rtol=1e-4)


def test_labels_that_features_tell_take_fewer_bits():
    task = made(n=900)
    real, chance = (
        online_code(t, SHARES[5:], seed=1, l2=0.1) for t in (task, control_task(task, "shuffled", 0))
    )
    assert real["compression"] > 1.2 > 1.05 > chance["compression"]


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ([1], "two or more"),
        ([0.5, 0.2, 1], "rising"),
        ([0.1, 0.5], "rising from above 0 to 1"),
        (["a", 1], "rising"),
        ([0.001, 1], r"without class .*; the first \d+ rows hold every class: begin there"),
    ],
)
def test_shares_that_make_no_code(shares, says):
    with pytest.raises(pc.InputError, match=says):
        online_code(made(), shares)


def test_the_usual_shares_begin_where_every_class_has_been_seen():
    task = made(n=120)
    ends = online_code(task, seed=4, l2=0.1)["rows"].values.tolist()
    order = np.random.default_rng([0x3D1, 4]).permutation(len(task.train_labels))
    usual = sorted({max(1, round(share * len(order))) for share in SHARES})
    assert ends == [n for n in usual if set(task.train_labels[order[:n]]) == set(task.train_labels)]
    assert 1 in usual
    assert 1 not in ends


def test_numbers_have_no_online_code():
    task = made()
    with pytest.raises(pc.InputError, match="needs classes"):
        online_code(replace(task, train_labels=task.train_labels * 1.0, test_labels=task.test_labels * 1.0))


def test_the_command_codes_each_target_of_each_layer(tmp_path, capsys):
    import pandas as pd

    task = made(n=450)
    labels = {"label": task.train_labels, "two": task.train_labels % 2}
    for layer, x in (("a", task.train), ("b", task.train[:, :2])):
        pc.write_arrays(tmp_path / "s", split="train", layer=layer, activations=x, labels=task.train_labels)
    pc.write_targets(tmp_path / "s", split="train", targets={"two": labels["two"]})
    line = ["online-code", tmp_path / "s", "--layers", "a,b", "--target", "label,two", "--shares", "0.2,1"]
    with pytest.raises(SystemExit) as end:
        pc.main([*map(str, line), "--l2", "0.1", "--out", str(tmp_path / "bits.csv")])
    assert end.value.code == 0
    told = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "bits.csv").set_index(["layer", "target"])
    assert len(table) == 4
    for (layer, target), row in table.iterrows():
        x = task.train if layer == "a" else task.train[:, :2]
        one = Task(x, labels[target], x, labels[target])
        expected = online_code(one, [0.2, 1], l2=0.1)
        np.testing.assert_allclose(row["code_length"], expected["code_length"], rtol=1e-6)
        assert f"{layer}, {target}: {row['code_length']:,.0f} bits" in told
