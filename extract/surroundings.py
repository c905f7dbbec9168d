"""The caller's world: what a run changes for its own purposes comes back as it was, whatever happens.

A module of the caller's: mode of every submodule, `requires_grad`, the very tensors (their device and memory
format), whether or not an error ends the run. torch's defaults, random states and switches: inside they are
what the fingerprint says (float32 means float32), outside what they were.
"""

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from probecache.store.torch_defaults import plain_torch

Function = TypeVar("Function", bound=Callable[..., Any])


def undisturbed(function: Function) -> Function:
    """`function(model, ...)` or `function(..., model=...)`, after which the caller's module and torch's
    settings are as they were."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        modules = [value for value in (*args, kwargs.get("model")) if isinstance(value, nn.Module)]
        with ExitStack() as stack:
            for module in modules:
                stack.enter_context(borrowed(module))
            stack.enter_context(own_settings())
            return function(*args, **kwargs)

    return cast(Function, call)


@contextmanager
def borrowed(module: nn.Module) -> Iterator[None]:
    """Put back, at the end, `module`'s modes, its gradients' switches, the storage of its tensors, and what
    its buffers hold."""
    modes = [(part, part.training) for part in module.modules()]
    tensors: list[Tensor] = [t for t in (*module.parameters(), *module.buffers()) if not is_lazy(t)]
    counted = [
        (part._buffers, name, buffer, buffer.detach().clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    kept = [(tensor, tensor.data, tensor.requires_grad) for tensor in tensors]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for tensor, data, requires_grad in kept:
            with torch.inference_mode(data.is_inference()):  # the tensor may be one of another device by now
                tensor.data = data
                tensor.requires_grad_(requires_grad)
        for buffers, name, buffer, before in counted:
            buffers[name] = buffer
            if not buffer.is_meta and not torch.equal(buffer, before):
                with torch.no_grad():
                    buffer.copy_(before)


@contextmanager
def own_settings() -> Iterator[None]:
    """torch as it is when nobody has changed a default, for a while; random states are put back."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    with ExitStack() as stack:
        stack.callback(torch.set_rng_state, states[0])
        stack.callback(np.random.set_state, states[1])
        stack.callback(random.setstate, states[2])
        stack.enter_context(plain_torch())
        yield
