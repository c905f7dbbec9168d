"""Products of bfloat16 matrices with float32 sums on CUDA, by its tensor cores: ten times float32's rate.

Elsewhere the same numbers are multiplied in float32, which gives as much, slowly: tests take it. Strides and
widths that are multiples of `ALIGNED` make the products two to four times as fast.
"""

import torch
from torch import Tensor

OFFERED = hasattr(torch.ops.aten.mm, "dtype")  # torch 2.8 on
ALIGNED = 8  # bfloat16 numbers in 16 bytes


def fast(device: torch.device) -> bool:
    """Whether `product` is faster than float32's on a device."""
    return device.type == "cuda" and OFFERED and torch.cuda.get_device_capability(device)[0] >= 8


def product(left: Tensor, right: Tensor) -> Tensor:
    """left right, float32, of bfloat16 matrices, or of batches of them."""
    if not left.is_cuda or not OFFERED:
        return left.float() @ right.float()
    multiply = torch.mm if left.dim() == 2 else torch.bmm
    return multiply(left, right, out_dtype=torch.float32)


def aligned(width: int) -> int:
    """The next width that is fast."""
    return -(-width // ALIGNED) * ALIGNED
