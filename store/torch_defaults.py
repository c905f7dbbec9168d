"""torch as it is when nobody has changed a default: what a caller has set decides no number of ours."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def plain_torch() -> Iterator[None]:
    """New tensors are float32 on the CPU, float32 products are float32's, and nothing is cast, for a while.

    It costs a few looks where that is so already; a decorator too: `@plain_torch()`. The dtype and the
    precision are the process's, other threads' too, and are touched only where a caller has changed them.
    """
    with _PROCESS.plain(), ExitStack() as stack:
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


class _Process:
    """The defaults that all threads share: the last to go puts them back, so that no other loses them."""

    def __init__(self) -> None:
        self.lock, self.inside, self.before = threading.Lock(), 0, ExitStack()

    @contextmanager
    def plain(self) -> Iterator[None]:
        with self.lock:
            self.inside += 1
            # the first keeps it even where it is plain: a module's code may set it
            if self.inside == 1 or torch.get_default_dtype() != torch.float32:
                self.before.callback(torch.set_default_dtype, torch.get_default_dtype())
                torch.set_default_dtype(torch.float32)
            _whole_products(self.before)
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    self.before.close()


_PROCESS = _Process()


def _whole_products(before: ExitStack) -> None:
    """Products of float32 in float32, whichever of torch's two ways of saying otherwise the caller took."""
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # since torch 2.9, where `fp32_precision` says another than it does
        backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        for backend in backends:
            before.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
            backend.fp32_precision = "ieee"
        return
    if precision != "highest":
        before.callback(torch.set_float32_matmul_precision, precision)
        torch.set_float32_matmul_precision("highest")
