"""A matrix in the memory of the process to a device, through pinned buffers where that is faster."""

import numpy as np
import torch
from torch import Tensor

PIECE = 2**25  # bytes of a pinned buffer; the next is filled while one is on its way
SMALL = 2**22  # bytes below which the driver's own way is as fast


def to_device(matrix: np.ndarray, device: torch.device) -> Tensor:
    """The matrix on the device, a new tensor except on the CPU.

    The driver copies pageable memory with one thread, and the caller waits; pinned buffers are filled by
    torch's threads and copied beside that.
    """
    values = torch.from_numpy(matrix)
    if device.type != "cuda" or values.nbytes < SMALL or not values.is_contiguous():
        return values.to(device)
    flat, out = values.view(-1), torch.empty(values.shape, dtype=values.dtype, device=device)
    size = PIECE // values.itemsize
    buffers = [torch.empty(min(size, len(flat)), dtype=values.dtype, pin_memory=True) for _ in range(2)]
    events = [torch.cuda.Event() for _ in buffers]
    target = out.view(-1)
    for i, start in enumerate(range(0, len(flat), size)):
        part, buffer, event = flat[start : start + size], buffers[i % 2], events[i % 2]
        event.synchronize()  # at once where nothing was recorded
        buffer[: len(part)].copy_(part)
        target[start : start + size].copy_(buffer[: len(part)], non_blocking=True)
        event.record()
    return out
