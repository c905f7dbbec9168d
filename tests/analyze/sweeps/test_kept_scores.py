"""Scores that RESULTS keep, of every kind of target, beside the fitted probe's own: X coef' + intercept."""

import numpy as np
import pytest

import probecache as pc
from probecache.analyze.findings.confusion import confusion_matrix
from probecache.analyze.findings.reliability import reliability

KINDS = {"two": "classes", "several": "labels", "one": "labels", "number": "numbers", "numbers": "numbers"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three classes, two, three labels, one, a number with gaps, two numbers, over the same rows."""
    path, rng = tmp_path_factory.mktemp("kept") / "s.zarr", np.random.default_rng(0)
    for split, n in (("train", 90), ("test", 40)):
        x = rng.normal(size=(n, 6)).astype(np.float32)
        pc.write_arrays(path, split=split, layer="l", activations=x, labels=np.arange(n) % 3)
        number = np.where(np.arange(n) % 9 == 4, np.nan, x[:, 0] * 3)
        bits = (x[:, :3] > 0).astype(int)
        targets = {"two": bits[:, 0], "several": bits, "one": bits[:, :1]}
        targets |= {"number": number, "numbers": x[:, :2] - 1}
        pc.write_targets(path, split=split, targets=targets, kinds=KINDS)
    return pc.open_store(path)


def swept(store, probe, *targets, fractions=(0.5, 1)):
    return pc.sweep(
        store, layer="l", fractions=fractions, seeds=1, l2=0.1, probe=probe, target=list(targets),
        save_predictions="scores",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("probe", "targets"),
    [
        ("ridge", ("several",)),
        ("ridge", ("one",)),
        ("ridge", ("number",)),
        ("ridge", ("label", "two", "several", "one", "number", "numbers")),
        ("logistic", ("one", "label")),
        ("logistic", ("several", "two")),
    ],
)
def test_scores_are_those_of_the_fitted_probe(store, probe, targets):
    results, x = swept(store, probe, *targets), store.matrix("test", "l")
    for target in targets:
        fitted = pc.fit_probe(store, layer="l", probe=probe, l2=0.1, target=target)
        wanted = x[:, fitted.neurons] @ fitted.coef.T + fitted.intercept
        if target == "two":
            wanted = np.concatenate([0 * wanted, wanted], axis=1)
        labelled = store.target("test", target).labelled if target != "label" else np.ones(40, bool)
        kept = results["scores"].sel(target=target, fraction=1, seed=0).squeeze().to_numpy()
        kept = np.atleast_2d(kept)[: wanted.shape[1]]
        np.testing.assert_allclose(kept[:, labelled], wanted[labelled].T, atol=2e-4)
        assert np.isnan(kept[:, ~labelled]).all()
        if KINDS.get(target, "classes") == "classes":
            of = results["predictions"].sel(target=target, fraction=1, seed=0).squeeze()
            assert (of.to_numpy() == wanted.argmax(1)).all()


def test_what_reads_predictions_takes_the_targets_that_have_a_right_class(store, recwarn):
    results = swept(store, "logistic", "several", "two", "label")
    truth = store.labels("test")
    for at, classes in (({"target": "two"}, 2), ({}, 3)):
        found, counts = reliability(results, **at), confusion_matrix(results, **at)
        assert int(found["count"].sum()) == 40
        assert int(counts.sum()) == 40
        assert counts.shape == (classes, classes)
        cell = results["predictions"].sel(target=at.get("target", "label"), fraction=1, seed=0).squeeze()
        wanted = store.target("test", "two").values if at else truth
        assert int(np.trace(counts)) == (cell.to_numpy() == wanted).sum()
    pc.plot.calibration(results)
    only = swept(store, "logistic", "several")
    for read in (reliability, confusion_matrix):
        with pytest.raises(pc.InputError, match="of classes"):
            read(only)
    with pytest.raises(pc.InputError, match="got target several, which is not of classes"):
        pc.compare(only, only, pairs="fraction")
    assert not recwarn.list
