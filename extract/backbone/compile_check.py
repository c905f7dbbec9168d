"""Does the compiler that was asked for work here? Asked before a store is made, not at the first batch."""

import torch

from probecache.store.errors import InputError, close_names


def require_backend(backend: str, device: torch.device) -> None:
    """InputError, in one line, where torch has no such backend or cannot compile with it for `device`.

    A function of one product is compiled and run: only that shows whether a compiler, its headers and the
    device's tools are there. Beyond inductor's start, which the run pays anyway, it costs one kernel: 2 s of
    a busy core where it is not cached.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise InputError(f"unknown --torchcompile {backend!r}; {close_names(backend, known)}")
    try:
        torch.compile(_product, backend=backend)(torch.ones(8, device=device))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(
            f"--torchcompile {backend} does not work on {device.type} here: {reason:.300}; install what it "
            "needs (inductor: a C++ compiler such as g++, and triton on CUDA), or leave --torchcompile out"
        ) from error


def _product(x: torch.Tensor) -> torch.Tensor:
    return 2 * x
