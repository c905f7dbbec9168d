"""Where a run's time goes: decode, copy, forward, write, as shares of the wall clock."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

STAGES = ("decode", "copy", "forward", "write")


@dataclass
class Timing:
    """Seconds that the run stood waiting for each stage, and seconds that each stage worked.

    The stages overlap: `waited` sums to the wall clock and shows the bottleneck; `worked` shows what each
    would take alone and may sum to more.
    """

    waited: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    worked: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    images: int = 0
    fallbacks: int = 0  # images that Pillow decoded although another decoder was asked for
    started: float = field(default_factory=time.perf_counter)
    stopped: float | None = None
    _lock: Lock = field(default_factory=Lock, repr=False)  # several threads work at one stage

    @contextmanager
    def wait(self, stage: str) -> Iterator[None]:
        """Count the time inside as spent waiting for `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.waited[stage] += time.perf_counter() - start

    @contextmanager
    def work(self, stage: str) -> Iterator[None]:
        """Count the time inside as work of `stage`, done in the background."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Count seconds of work of `stage`."""
        with self._lock:
            self.worked[stage] += seconds

    def stop(self) -> None:
        self.stopped = time.perf_counter()

    @property
    def seconds(self) -> float:
        return (self.stopped or time.perf_counter()) - self.started

    @property
    def rate(self) -> float:
        """Images per second so far."""
        return self.images / max(self.seconds, 1e-9)

    def shares(self) -> dict[str, float]:
        """Share of the wall clock per stage; they sum to 1 or, with the run's own overhead, a little less."""
        return {stage: seconds / max(self.seconds, 1e-9) for stage, seconds in self.waited.items()}

    def summary(self) -> dict[str, object]:
        """Plain values for the store: images, seconds, images per second, shares, seconds of work."""
        return {
            "images": self.images,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.rate, 2),
            "share": {stage: round(share, 4) for stage, share in self.shares().items()},
            "worked_seconds": {stage: round(seconds, 3) for stage, seconds in self.worked.items()},
        }
