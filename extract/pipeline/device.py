"""The device a backbone runs on, the precision it computes in, and the way of batches to it and back."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor, nn

from probecache.extract.backbone.compile_check import require_backend
from probecache.store.errors import InputError, first_line

AMP_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Compute:
    """Device and precision of a forward pass; all of it but the device's number decides values."""

    device: torch.device
    amp_dtype: torch.dtype
    channels_last: bool
    torchcompile: str | None = None

    def fingerprint(self) -> dict[str, Any]:
        return {
            "device": self.device.type,
            "amp_dtype": str(self.amp_dtype).removeprefix("torch."),
            "channels_last": self.channels_last,
            "torchcompile": self.torchcompile,
        }

    @contextmanager
    def precision(self) -> Iterator[None]:
        """No gradients, autocast where asked for, and no TF32: float32 means float32.

        Not inference mode: what the caller's module keeps of a pass could not be trained with afterwards.
        """
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.amp_dtype != torch.float32:
                stack.enter_context(torch.autocast(self.device.type, self.amp_dtype))
            if self.device.type == "cuda":
                stack.enter_context(torch.cuda.device(self.device))
                stack.enter_context(
                    torch.backends.cudnn.flags(
                        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
                    )
                )
            yield


def _require_device(where: torch.device) -> None:
    """InputError for a device that holds no values, or that this torch or this machine has not."""
    if where.type == "meta":
        raise InputError("device 'meta' holds no values; allowed: auto, cpu, cuda, cuda:N, mps")
    try:
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error)
        raise InputError(f"device {str(where)!r} was asked for: {reason:.160}; use --device cpu") from error


def choose_compute(
    model: nn.Module,
    device: str = "auto",
    amp_dtype: str = "auto",
    channels_last: bool | None = None,
    torchcompile: str | None = None,
) -> Compute:
    """Settings for `model`. device 'auto': CUDA where there is one. amp_dtype 'auto': bfloat16 on CUDA
    devices that have it where the weights are float32, else float32, which is to compute in the type of the
    weights. channels_last None: on for networks of convolutions."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        where = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}; allowed: auto, cpu, cuda, cuda:N, mps") from error
    if where.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' was asked for and torch sees none; use --device cpu")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r} was asked for; this machine has {torch.cuda.device_count()}")
    if where.type == "cuda":
        where = torch.device("cuda", where.index or 0)
    _require_device(where)
    if amp_dtype not in AMP_DTYPES:
        raise InputError(f"unknown --amp-dtype {amp_dtype!r}; allowed: {', '.join(AMP_DTYPES)}")
    weights = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}
    if amp_dtype == "auto":
        fast = where.type == "cuda" and torch.cuda.is_bf16_supported() and weights <= {"float32"}
        amp_dtype = "bfloat16" if fast else "float32"
    if amp_dtype != "float32" and (other := weights & (set(AMP_DTYPES) - {"float32", amp_dtype})):
        raise InputError(
            f"--amp-dtype {amp_dtype} was asked for, and the model has {sorted(other)[0]} weights: "
            "leave it out (auto computes in the type of the weights), or give the model in float32"
        )
    if torchcompile is not None:
        require_backend(torchcompile, where)
    if channels_last is None:
        channels_last = sum(isinstance(m, nn.Conv2d) for m in model.modules()) > 4
    return Compute(where, getattr(torch, amp_dtype), channels_last, torchcompile)


class PinnedRing:
    """Sets of pinned host buffers that device outputs are copied into on a side stream.

    There are as few as the run shows to be enough: SLOTS to begin with, one more where the device has filled
    them all and nobody has emptied one, while they take less than LIMIT bytes. `free_slot` waits for a set
    that nobody uses, which bounds memory; `put` starts a copy into it and returns, at once, the event that
    says when it is done; `buffers` are the set's tensors, valid from that event on; `give_back` frees it.
    """

    SLOTS = 4
    LIMIT = 2**28

    def __init__(self, rows: int, neurons: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        self._rows, self._neurons, self._dtype = rows, list(neurons), dtype
        self._buffers = [self._set() for _ in range(self.SLOTS)]
        self._free: SimpleQueue[int] = SimpleQueue()
        for slot in range(self.SLOTS):
            self._free.put(slot)
        self._last: torch.cuda.Event | None = None
        self._stream = torch.cuda.Stream(device)

    def _set(self) -> list[Tensor]:
        return [torch.empty(self._rows, n, dtype=self._dtype, pin_memory=True) for n in self._neurons]

    @property
    def waits_for_device(self) -> bool:
        """Whether the device has still to fill a set, or there may be no more of them."""
        each = sum(buffer.nbytes for buffer in self._buffers[0])
        if (1 + len(self._buffers)) * each > self.LIMIT:
            return True
        return self._last is not None and not self._last.query()

    def grow(self) -> int:
        """A slot that is new."""
        self._buffers.append(self._set())
        return len(self._buffers) - 1

    def free_slot(self, timeout: float) -> int | None:
        """A slot that nobody uses, or None after `timeout` seconds."""
        try:
            return self._free.get(timeout=timeout)
        except Empty:
            return None

    def put(self, slot: int, outputs: Sequence[Tensor], offset: int) -> torch.cuda.Event:
        """Copy `outputs` to rows `offset`.. of the slot, after what the current stream has queued."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for buffer, output in zip(self._buffers[slot], outputs, strict=True):
                buffer[offset : offset + len(output)].copy_(output, non_blocking=True)
                output.record_stream(self._stream)
            done = torch.cuda.Event(enable_timing=True)
            done.record(self._stream)
            self._last = done
            return done

    def buffers(self, slot: int) -> list[Tensor]:
        return self._buffers[slot]

    def give_back(self, slot: int) -> None:
        self._free.put(slot)
