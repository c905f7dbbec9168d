"""Processes that read items ahead: what goes wrong with them is said in one line, with what to do."""

import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from probecache.store.errors import InputError, ProbecacheError, first_line

_ALONE = "--workers 0 reads in the main process"


def start(loader: "DataLoader[Any]") -> Iterator[Any]:
    """Its items; its processes, if it has some, start now.

    InputError where what they read cannot be sent to them; ProbecacheError where this place lets none start,
    and while it is iterated where one dies.
    """
    if not loader.num_workers:
        return iter(loader)
    try:
        torch.multiprocessing.get_context().Lock()  # without /dev/shm this fails, and no half-made loader
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Got pickle error", UserWarning)  # said below
            return _reported(iter(loader))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"the data set cannot be sent to decoding processes ({first_line(error):.200}): define what it "
            f"holds at the top of a module (no lambdas, no open files); {_ALONE}"
        ) from error
    except (OSError, RuntimeError, AssertionError) as error:
        raise ProbecacheError(
            f"no decoding process can be started ({first_line(error):.200}): they need /dev/shm, free "
            "process numbers, memory and a process that is no daemon, and where they are spawned a "
            f"script needs `if __name__ == '__main__':`; {_ALONE}"
        ) from error


def _reported(items: Iterator[Any]) -> Iterator[Any]:
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except RuntimeError as error:
            if "worker" not in first_line(error).lower():
                raise
            raise ProbecacheError(
                f"a decoding process died: {first_line(error):.200}; where shared memory (/dev/shm) or "
                "memory is short, give fewer --workers or --workers 0; where processes are spawned, a script "
                "needs `if __name__ == '__main__':`"
            ) from error
        yield item
