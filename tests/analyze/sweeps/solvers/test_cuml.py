"""The cuML adapter against cuML itself. Without a GPU its signatures and its refusal can be checked.

`make check-cuml` installs cuML into an environment of its own (6 GB) and runs this; elsewhere it skips.
"""

import inspect
from importlib.util import find_spec

import pytest

from probecache.analyze.sweeps.solvers import check_solver, cuml
from probecache.store.errors import InputError

pytestmark = pytest.mark.skipif(find_spec("cuml") is None, reason="cuML is not installed")


def signature():
    from cuml.linear_model import LogisticRegression

    return inspect.signature(LogisticRegression).parameters


def test_every_option_that_the_adapter_gives_is_one_that_cuml_takes():
    for l2 in (1e-4, 0.0):
        assert set(cuml.options(1000, l2)) <= set(signature())


def test_the_penalty_is_divided_by_the_rows_as_the_adapter_takes_it():
    # with penalty_normalized the objective is  mean CE + 1/(2 C n) ||W||^2:  C = 1 / (l2 n)
    assert cuml.options(1000, 1e-3)["penalty_normalized"] is True
    assert cuml.options(1000, 1e-3)["C"] == pytest.approx(1.0)


def test_the_history_that_we_leave_to_cuml_is_its_own():
    assert "lbfgs_memory" not in cuml.options(1000, 1e-3)
    assert signature()["lbfgs_memory"].default >= 5


def test_labels_go_to_a_fit_of_one_device_which_takes_them_as_they_are():
    # what cuML's Dask estimators do with labels is not ours to know: a sweep gives each worker whole fits
    from cuml.linear_model import LogisticRegression

    assert {"X", "y", "sample_weight"} <= set(inspect.signature(LogisticRegression.fit).parameters)
    assert "dask" not in LogisticRegression.__module__


@pytest.mark.skipif(not cuml.unavailable(), reason="this machine has a GPU that cuML runs on")
def test_without_a_gpu_asking_for_cuml_is_one_line():
    with pytest.raises(InputError, match=r"no CUDA device|a fit of four points failed") as caught:
        check_solver("cuml")
    assert "\n" not in str(caught.value)
