"""What the cast into the stored dtype loses: values that become 0, or infinite."""

import torch
from torch import Tensor

from probecache.store.errors import ProbecacheError

SHARE = 0.01  # of a layer's neurons that may lose this share of their size


def count_losses(pooled: Tensor, cast: Tensor) -> Tensor:
    """float64 (4, neurons) of rows (n, neurons) and what they were cast to: how many values became 0, the
    size of those, the size of all, and how many became infinite."""
    size = pooled.detach().abs()
    if pooled.device.type == "cpu" and int(cast.count_nonzero()) == int(pooled.count_nonzero()):
        small = size.new_zeros(2, size.shape[1], dtype=torch.float64)
    else:
        gone = (cast == 0) & (size != 0)
        small = torch.stack([gone.sum(0).double(), (size * gone).nan_to_num().sum(0, dtype=torch.float64)])
    whole = size.nan_to_num(posinf=0).sum(0, dtype=torch.float64)
    beyond = (~cast.isfinite() & size.isfinite()).sum(0).double()
    return torch.cat([small, whole[None], beyond[None]])


def require_kept(name: str, losses: Tensor, dtype: torch.dtype) -> None:
    """ProbecacheError where `dtype` does not hold a shard of layer `name`: a value became infinite, or more
    than 1% of the neurons lost more than 1% of their size in values that became 0."""
    count, gone, size, beyond = losses
    kind = str(dtype).removeprefix("torch.")
    lost = int((gone > SHARE * size).sum())
    if lost > SHARE * len(size):
        raise ProbecacheError(
            f"layer {name!r}: {int(count.sum())} values are too small for {kind} and became 0, and "
            f"{lost} of {len(size)} neurons with them: store as --dtype bfloat16 or float32, or allow "
            "it with --allow-saturated"
        )
    if int(beyond.sum()) and dtype != torch.float16:  # of which the writer tells
        raise ProbecacheError(
            f"layer {name!r}: {int(beyond.sum())} values are beyond what {kind} holds: scale the "
            "layer in the module, or allow it with --allow-saturated"
        )
