"""Products of bfloat16 matrices with float32 sums on a CPU: torch has them on CUDA alone.

oneMKL, which torch's own wheels for x86 hold, multiplies bfloat16 by the processor's tiles (AMX) and writes
float32: 480 to 750 GFLOP/s on one core where float32 products reach 95 to 140. torch's own product of
bfloat16 is as fast, but rounds what it returns, and loses a Gram matrix its positive eigenvalues. The routine
is called in torch's library by its public name; where it is not there, where the processor has no tiles, or
where a first product is not right, `available` is False and callers multiply as torch does.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROUTINE = "cblas_gemm_bf16bf16f32"
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112
DEPTH = 8192  # of a sum at a time: longer ones are a quarter slower


@cache
def available() -> bool:
    """Whether `add_product` can be called here."""
    if not getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)() or _routine() is None:
        return False
    a = torch.arange(6.0).view(2, 3)
    out = torch.ones(2, 2)
    add_product(a.bfloat16(), a.bfloat16().T, out)
    return torch.equal(out, 1 + a @ a.T)


def add_product(left: Tensor, right: Tensor, out: Tensor, fresh: bool = False) -> None:
    """out (a, b) float32 plus left (a, k) right (k, b), bfloat16, in place; fresh: instead of what was in it.

    One of the two strides of left and of right, and the last of out, must be 1.
    """
    (rows, depth), columns = left.shape, right.shape[1]
    _check(left, right, out)
    routine = _routine()
    assert routine is not None
    for start in range(0, depth, DEPTH):
        stop = min(start + DEPTH, depth)
        a, b = left[:, start:stop], right[start:stop]
        beta = 0.0 if fresh and start == 0 else 1.0
        (how_a, step_a), (how_b, step_b) = _layout(a), _layout(b)
        routine(
            *(ROW_MAJOR, how_a, how_b, rows, columns, stop - start),
            *(1.0, a.data_ptr(), step_a, b.data_ptr(), step_b),
            *(beta, out.data_ptr(), max(out.stride(0), columns)),
        )


def _check(left: Tensor, right: Tensor, out: Tensor) -> None:
    """The routine trusts its caller: a wrong shape or dtype would be read as memory that is not ours."""
    shapes = left.shape[1] == right.shape[0] and out.shape == (left.shape[0], right.shape[1])
    dtypes = left.dtype == right.dtype == torch.bfloat16 and out.dtype == torch.float32
    places = left.device.type == right.device.type == out.device.type == "cpu"
    if not (shapes and dtypes and places and (out.stride(1) == 1 or out.shape[1] == 1)):
        told = ", ".join(f"{tuple(t.shape)} {t.dtype} {t.stride()}" for t in (left, right, out))
        raise ValueError(
            f"got {told}; allowed: bfloat16 (a, k), (k, b) and float32 (a, b) by rows, on the CPU"
        )


def _layout(t: Tensor) -> tuple[int, int]:
    """Whether a matrix lies by rows or by columns, and how far they are apart."""
    if t.stride(1) == 1 or t.shape[1] == 1:
        return PLAIN, max(t.stride(0), t.shape[1])
    if t.stride(0) == 1 or t.shape[0] == 1:
        return TRANSPOSED, max(t.stride(1), t.shape[0])
    raise ValueError(f"got strides {t.stride()}; allowed: one of them 1")


@cache
def _routine() -> Any:
    """The routine, or None; calls of it give way to other threads."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        try:
            found = getattr(ctypes.CDLL(str(path)), ROUTINE)
        except (OSError, AttributeError):
            continue
        whole, number, place = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
        found.argtypes = [*[whole] * 6, number, place, whole, place, whole, number, place, whole]
        found.restype = None
        return found
    return None
