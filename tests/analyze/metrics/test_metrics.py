"""Every metric against scikit-learn, scipy or numpy by definition: ties, absent classes, constant scores."""

import pickle
import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from scipy.special import expit, softmax
from scipy.stats import rankdata, spearmanr

import probecache as pc
from probecache.analyze.metrics import _NAMES, METRICS, RESERVED, get_metric, register_metric
from probecache.analyze.metrics import metric as metric_module
from probecache.analyze.results.grid import CHOSEN, VARIABLES, Grid, packed
from probecache.analyze.results.layout import documents
from probecache.analyze.sweeps.plan import DIMS, SweepPlan

M, N = 7, 120


def made(c, n=N, absent=(), constant=False, seed=0):
    """float32 scores (m, c, n) with many ties, and truth (n,) without the classes `absent`."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([k for k in range(max(c, 2)) if k not in absent], n)
    scores = rng.normal(size=(M, c, n))
    if c > 1:
        scores[:, truth, np.arange(n)] += 0.7
    else:
        scores[:, 0] += truth - 0.5
    scores = np.round(scores, 1) if not constant else np.full_like(scores, 0.3)
    return torch.from_numpy(scores).float(), truth


def one(name, scores, truth, c, **options):
    found = get_metric(name).compute(scores, torch.from_numpy(truth), c, **options)
    assert found.dtype == torch.float64
    assert found.shape == (len(scores),)
    return found.numpy()


def quiet(function, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def each(function, scores):
    return np.array([quiet(function, s.double().numpy()) for s in scores])


def ece(p, truth, bins=15):
    """By definition: p (n, c)."""
    confidence, guess = p.max(axis=1), p.argmax(axis=1)
    edges, total = np.linspace(0, 1, bins + 1), 0.0
    for low, high in pairwise(edges):
        mine = (confidence > low) & (confidence <= high)
        if mine.any():
            total += mine.mean() * abs((guess == truth)[mine].mean() - confidence[mine].mean())
    return total


def binarized(truth, c):
    return (truth[:, None] == np.arange(c)).astype(int)


MULTI = {
    "accuracy": lambda s, y: sk.accuracy_score(y, s.argmax(0)),
    "exact_match": lambda s, y: sk.accuracy_score(y, s.argmax(0)),
    "balanced_accuracy": lambda s, y: sk.balanced_accuracy_score(y, s.argmax(0)),
    "top5_accuracy": lambda s, y: sk.top_k_accuracy_score(y, s.T, k=5, labels=range(len(s))),
    "macro_f1": lambda s, y: sk.f1_score(y, s.argmax(0), average="macro"),
    "auroc": lambda s, y: np.nanmean(
        sk.roc_auc_score(y, softmax(s.T, axis=1), multi_class="ovr", average=None, labels=range(len(s)))
    ),
    "average_precision": lambda s, y: np.mean(
        [sk.average_precision_score(y == k, softmax(s.T, axis=1)[:, k]) for k in np.unique(y)]
    ),
    "log_loss": lambda s, y: sk.log_loss(y, softmax(s.T, axis=1), labels=range(len(s))),
    "ece": lambda s, y: ece(softmax(s.T, axis=1), y),
}
BINARY = MULTI | {
    "accuracy": lambda s, y: sk.accuracy_score(y, s[0] > 0),
    "exact_match": lambda s, y: sk.accuracy_score(y, s[0] > 0),
    "balanced_accuracy": lambda s, y: sk.balanced_accuracy_score(y, s[0] > 0),
    "macro_f1": lambda s, y: sk.f1_score(y, s[0] > 0, average="macro"),
    "top5_accuracy": lambda s, y: 1.0,
    "auroc": lambda s, y: sk.roc_auc_score(y, s[0]),
    "average_precision": lambda s, y: sk.average_precision_score(y, s[0]),
    "log_loss": lambda s, y: sk.log_loss(y, expit(s[0]), labels=[0, 1]),
    "ece": lambda s, y: ece(np.stack([1 - expit(s[0]), expit(s[0])], axis=1), y),
}


@pytest.mark.parametrize("name", MULTI)
@pytest.mark.parametrize(
    ("c", "absent", "constant"),
    [(3, (), False), (8, (), False), (8, (0, 6), False), (8, (2,), True), (6, (0, 1, 2, 4), False)],
    ids=["three", "eight", "absent", "constant", "two left"],
)
def test_of_many_classes(name, c, absent, constant, monkeypatch):
    monkeypatch.setattr(metric_module, "STRIP", 3 * c * N)  # several strips of probes
    scores, truth = made(c, absent=absent, constant=constant)
    wanted = each(lambda s: MULTI[name](s, truth), scores)
    np.testing.assert_allclose(one(name, scores, truth, c), wanted, rtol=1e-12)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("constant", [False, True])
def test_of_two_classes_with_one_output_or_two(name, constant):
    scores, truth = made(1, constant=constant)
    wanted = each(lambda s: BINARY[name](s, truth), scores)
    np.testing.assert_allclose(one(name, scores, truth, 2), wanted, rtol=1e-12)
    two = torch.cat([torch.zeros_like(scores), scores], dim=1)
    np.testing.assert_allclose(one(name, two, truth, 2), wanted, rtol=1e-12)


def test_one_class_only_in_the_truth_of_two():
    scores, truth = made(1, absent=(1,))
    assert np.isnan(one("auroc", scores, truth, 2)).all()
    for name in ("average_precision", "balanced_accuracy", "macro_f1", "log_loss"):
        wanted = each(lambda s, name=name: BINARY[name](s, truth), scores)
        np.testing.assert_allclose(one(name, scores, truth, 2), wanted, rtol=1e-12)


def columns(function):
    """The mean over labels of a function of one label's scores and truth."""
    return lambda s, y: np.nanmean([function(s[i], y[:, i]) for i in range(len(s))])


LABELS = {
    "accuracy": lambda s, y: 1 - sk.hamming_loss(y, s.T > 0),
    "exact_match": lambda s, y: sk.accuracy_score(y, s.T > 0),
    "balanced_accuracy": columns(lambda s, y: sk.balanced_accuracy_score(y, s > 0)),
    "macro_f1": lambda s, y: sk.f1_score(y, s.T > 0, average="macro"),
    "auroc": lambda s, y: np.nanmean(sk.roc_auc_score(y, s.T, average=None)),
    "average_precision": lambda s, y: sk.average_precision_score(y, s.T, average="macro"),
    "log_loss": columns(lambda s, y: sk.log_loss(y, expit(s), labels=[0, 1])),
    "ece": columns(lambda s, y: ece(np.stack([1 - expit(s), expit(s)], axis=1), y)),
}


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("case", ["plain", "a label of none", "constant"])
def test_of_several_labels(name, case):
    rng = np.random.default_rng(3)
    truth = (rng.random((N, 5)) < [0.5, 0.3, 0.1, 0.9, 0.02]).astype(np.int8)
    if case == "a label of none":
        truth[:, 1] = 0
    scores = np.round(rng.normal(size=(M, 5, N)) + truth.T - 0.5, 1) * (case != "constant")
    scores = torch.from_numpy(scores).float()
    wanted = each(lambda s: LABELS[name](s, truth), scores)
    np.testing.assert_allclose(one(name, scores, truth, 5), wanted, rtol=1e-12)


NUMBERS = {
    "r2": lambda s, y: sk.r2_score(y, s.T),
    "mae": lambda s, y: sk.mean_absolute_error(y, s.T),
    "spearman": columns(lambda s, y: spearmanr(s, y).statistic),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("case", ["plain", "constant truth", "constant predictions", "exact"])
def test_of_numbers(name, case):
    rng = np.random.default_rng(4)
    truth = np.round(rng.normal(size=(N, 3)) * [1, 10, 100], 1)
    if case == "constant truth":
        truth[:, 1] = 5
    scores = np.round(truth.T + rng.normal(size=(M, 3, N)) * [[1], [20], [50]], 1)
    if case == "constant predictions":
        scores[:] = 2.0
    if case == "exact":
        truth[:, 0] = 2.0
        scores[:] = truth.T
    scores = torch.from_numpy(scores)
    wanted = each(lambda s: NUMBERS[name](s, truth), scores)
    np.testing.assert_allclose(one(name, scores, truth, 3), wanted, rtol=1e-12, atol=1e-14)


def test_spearman_by_definition_of_ranks():
    rng = np.random.default_rng(5)
    truth, scores = rng.integers(0, 4, (50, 1)).astype(float), rng.integers(0, 3, (2, 1, 50)).astype(float)
    wanted = [np.corrcoef(rankdata(truth[:, 0]), rankdata(s[0]))[0, 1] for s in scores]
    np.testing.assert_allclose(one("spearman", torch.from_numpy(scores), truth, 1), wanted, rtol=1e-12)


def test_ridge_scores_are_ranked_as_they_are_and_give_no_probabilities():
    scores, truth = made(4)
    for name, wanted in (
        ("auroc", lambda s: sk.roc_auc_score(binarized(truth, 4), s.T, average="macro")),
        ("average_precision", lambda s: sk.average_precision_score(binarized(truth, 4), s.T)),
    ):
        found = one(name, scores, truth, 4, logits=False)
        np.testing.assert_allclose(found, each(wanted, scores), rtol=1e-12)
        assert (found != one(name, scores, truth, 4)).any()
    for name in ("log_loss", "ece"):
        with pytest.raises(pc.InputError, match="without probabilities"):
            one(name, scores, truth, 4, logits=False)


def test_log_loss_of_hopeless_scores_is_scikit_learns():
    scores, truth = made(3)
    scores = scores * 1e3
    wanted = each(lambda s: MULTI["log_loss"](s, truth), scores)
    np.testing.assert_allclose(one("log_loss", scores, truth, 3), wanted, rtol=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_f1", "exact_match"])
def test_predictions_serve_where_no_score_is_needed(name):
    scores, truth = made(5, absent=(3,))
    np.testing.assert_array_equal(one(name, scores.argmax(dim=1), truth, 5), one(name, scores, truth, 5))
    labels = np.random.default_rng(0).integers(0, 2, (N, 5))
    np.testing.assert_array_equal(one(name, (scores > 0).int(), labels, 5), one(name, scores, labels, 5))


@pytest.mark.parametrize("name", sorted(set(MULTI) - {"ece"}))
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_samples_plays_no_part(name, seed):
    scores, truth = made(8, seed=seed)
    order = np.random.default_rng(seed).permutation(N)
    np.testing.assert_allclose(
        one(name, scores[:, :, order], truth[order], 8), one(name, scores, truth, 8), rtol=1e-12
    )


def test_scores_that_are_not_numbers_give_nan_for_their_probe_alone():
    scores, truth = made(8)
    scores[2, 1, 5] = torch.nan
    for name in MULTI:
        found = one(name, scores, truth, 8)
        assert np.isnan(found[2]), name
        assert np.isfinite(np.delete(found, 2)).all(), name


@pytest.mark.parametrize(
    ("name", "scores", "truth", "c", "says"),
    [
        ("accuracy", (2, 3, 9), (10,), 3, "got scores"),
        ("accuracy", (2, 3, 10), (10,), 4, "got scores"),
        ("accuracy", (3, 10), (10,), 3, "got scores"),
        ("accuracy", (2, 3, 0), (0,), 3, "got scores"),
        ("r2", (2, 3, 10), (10,), 3, "for a target of classes"),
        ("top5_accuracy", (2, 3, 10), (10, 3), 3, "for a target of labels or numbers"),
    ],
)
def test_what_does_not_fit_is_refused(name, scores, truth, c, says):
    with pytest.raises(pc.InputError, match=says):
        get_metric(name).compute(torch.zeros(scores), torch.zeros(truth, dtype=torch.int64), c)


def test_predictions_are_refused_where_scores_are_needed():
    with pytest.raises(pc.InputError, match="needs scores"):
        get_metric("auroc").compute(torch.zeros(2, 10, dtype=torch.int64), torch.arange(10), 10)


def test_an_unknown_metric_names_close_ones():
    with pytest.raises(pc.InputError, match="close names: auroc"):
        get_metric("auroc_score")


@pytest.fixture
def own():
    """Registers metrics, and forgets them afterwards."""
    before = dict(METRICS)
    yield register_metric
    METRICS.clear()
    METRICS.update(before)


def test_a_function_of_scikit_learn_is_a_metric(own):
    own("kappa", sk.cohen_kappa_score)
    own("margin_mean", lambda y, s: np.mean(s[np.arange(len(y)), y]), needs="scores")
    own("brier", lambda y, s: sk.brier_score_loss(y, expit(s)), needs="scores", higher_is_better=False)
    own("jaccard", lambda y, p: sk.jaccard_score(y, p, average="macro"), kinds=("labels",))
    own("worst", lambda y, p: np.abs(y - p).max(), kinds="numbers")
    scores, truth = made(4)
    wanted = each(lambda s: sk.cohen_kappa_score(truth, s.argmax(0)), scores)
    np.testing.assert_allclose(one("kappa", scores, truth, 4), wanted)
    wanted = each(lambda s: s[truth, np.arange(N)].mean(), scores)
    np.testing.assert_allclose(one("margin_mean", scores, truth, 4), wanted, rtol=1e-6)
    labels = np.random.default_rng(0).integers(0, 2, (N, 4)).astype(np.int8)
    wanted = each(lambda s: sk.jaccard_score(labels, s.T > 0, average="macro"), scores)
    np.testing.assert_allclose(one("jaccard", scores, labels, 4), wanted)
    numbers = np.random.default_rng(0).normal(size=(N, 4))
    wanted = each(lambda s: np.abs(numbers - s.T).max(), scores)
    np.testing.assert_allclose(one("worst", scores, numbers, 4), wanted)
    scores, truth = made(1)
    wanted = each(lambda s: sk.brier_score_loss(truth, expit(s[0])), scores)
    np.testing.assert_allclose(one("brier", scores, truth, 2), wanted, rtol=1e-6)
    two = torch.cat([torch.zeros_like(scores), scores], dim=1)
    np.testing.assert_allclose(one("brier", two, truth, 2), wanted, rtol=1e-6)
    assert not get_metric("brier").higher_is_better


def test_a_function_that_fails_is_named(own):
    own("broken", lambda y, p: 1 / 0)
    scores, truth = made(3)
    with pytest.raises(pc.InputError, match="metric 'broken' failed: ZeroDivisionError: division by zero"):
        one("broken", scores, truth, 3)


def test_the_same_name_again_replaces_a_users_own(own):
    own("mine", lambda y, p: 1.0)
    own("mine", lambda y, p: 2.0)
    scores, truth = made(3)
    assert (one("mine", scores, truth, 3) == 2).all()


def test_a_metric_travels_to_other_processes(own):
    ours = [METRICS[name] for name in _NAMES]  # pages of the docs, run in this process, leave others
    for metric in (*ours, own("kappa", sk.cohen_kappa_score)):
        back = pickle.loads(pickle.dumps(metric))
        assert back == metric


@pytest.mark.parametrize(
    ("name", "function", "options", "says"),
    [
        ("accuracy", len, {}, "which is taken"),
        ("seconds", len, {}, "which is taken"),
        ("my metric", len, {}, "letters, digits"),
        ("mine", 3, {}, "needed: a function"),
        ("mine", len, {"needs": "labels"}, "allowed: predictions, scores"),
        ("mine", len, {"kinds": ()}, "allowed: one or more"),
        ("mine", len, {"kinds": "class"}, "allowed: one or more"),
    ],
)
def test_what_is_no_metric_is_refused(own, name, function, options, says):
    before = dict(METRICS)
    with pytest.raises(pc.InputError, match=says):
        own(name, function, **options)
    assert before == METRICS


def test_a_function_that_gives_no_number_is_named(own):
    own("matrix", sk.confusion_matrix)
    scores, truth = made(3)
    with pytest.raises(pc.InputError, match="'matrix' gave ndarray"):
        one("matrix", scores, truth, 3)


def test_names_of_the_other_variables_are_reserved():
    names = {"label": ("a", "b")}
    grid = Grid.of(SweepPlan(("l",), (1.0,), seeds=(0,), l2=("auto",)), {"l": 2}, names)
    kept = {
        "samples": ("s",),
        "truth": (packed(np.zeros(1, np.int32)),),
        "groups": ("g",),
        "scores": ("scores",),
    }
    found = {name for name in documents(replace(grid, **kept)) if not name.endswith("_seal")}
    assert {*VARIABLES, *CHOSEN, *DIMS, *found} - {"accuracy"} <= RESERVED


def test_a_function_that_writes_to_what_it_is_given_spoils_nothing(own):
    own("writes", lambda truth, guesses: truth.sort() or guesses.fill(0) or 0.0)
    scores, truth = made(3)
    given, guesses = truth.copy(), scores.argmax(dim=1)
    for taken in (scores, guesses):
        one("writes", taken, given, 3)
        assert (given == truth).all()
    assert (guesses == scores.argmax(dim=1)).all()
    own("sorts", lambda truth, values: values.sort() or 0.0, needs="scores")
    kept = scores.clone()
    one("sorts", kept, given, 3)
    assert (kept == scores).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_gpu_gives_the_same_numbers(name):
    kinds = METRICS[name].kinds
    scores, truth = made(8, absent=(2,))
    if "classes" not in kinds:
        truth = np.random.default_rng(0).normal(size=(N, 8)).round(1)
    there = get_metric(name).compute(scores.cuda(), torch.from_numpy(truth), 8)
    assert there.is_cuda
    np.testing.assert_allclose(there.cpu().numpy(), one(name, scores, truth, 8), rtol=1e-12)


@pytest.mark.parametrize("function", [lambda: 1, lambda y: 1, lambda a, b, c: 1, lambda *, y, p: 1, float])
def test_a_function_of_another_signature_is_refused_before_any_probe(own, function):
    with pytest.raises(pc.InputError, match=r"needed: function\(truth, predictions\)"):
        own("odd", function)
    assert "odd" not in METRICS


def test_a_metric_that_gives_no_number_is_said(own, tmp_path):
    own("empty", lambda y, p: np.nan)
    own("full", lambda y, p, weight=None: 1.0)
    y = np.arange(40) % 2
    for split in ("train", "test"):
        x = np.random.default_rng(0).normal(size=(40, 4)) + y[:, None]
        store = pc.write_arrays(tmp_path / "s", split=split, layer="l", activations=x, labels=y)
    plan = {"layer": "l", "fractions": [0.5, 1], "seeds": 2, "probe": "ridge"}
    with pytest.warns(
        RuntimeWarning, match="metric 'empty' gave NaN or an infinite number for 4 of 4 probes"
    ):
        pc.sweep(store, metric=["empty", "full"], **plan)
    pc.sweep(store, metric="full", **plan)
