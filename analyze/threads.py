"""How many threads to use, and how they wait, on a machine that others use too.

Threads that spin at a barrier wait for one that is not running, and keep the cores from it: with one foreign
process on two cores a sweep of 1.8 s took 5.0 s, with a dozen more than a minute where threads that sleep
took 12 s. Sleeping costs a tenth on a quiet machine. So threads sleep unless the user has said how they wait,
and a process uses as many as there are cores that others leave, measured anew at each block.
"""

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

import psutil

from probecache.store.machine import usable_cores

# What a user may have said, in the words of the OpenMP libraries that torch and numpy bring.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_DYNAMIC")
SHORTEST = 0.25  # seconds: processor times are counted in hundredths


def wait_asleep(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Have threads sleep at barriers, unless the environment says how they wait; whether that was done.

    To be called before torch is imported: OpenMP libraries read it once.
    """
    if any(name in environ for name in WAITING):
        return False
    environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return True


def threads_asked(environ: Mapping[str, str] = os.environ) -> int:
    """The threads that OMP_NUM_THREADS names, of nested levels the outer one's; 1 where it names none.

    >>> [threads_asked({"OMP_NUM_THREADS": text}) for text in ("4", "8,2", "", "many")]
    [4, 8, 1, 1]
    """
    outer = environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(outer) if outer.isdecimal() else 1


def count_for(cores: int, foreign: float) -> int:
    """Threads on `cores` cores of which others keep `foreign` busy: those that are left, at least one.

    >>> [count_for(2, 0.3), count_for(2, 1.0), count_for(16, 3.4), count_for(2, 7.5)]
    [2, 1, 13, 1]
    """
    return max(1, cores - round(foreign))


@dataclass
class Watch:
    """What others do on this machine between two looks. `chosen`: the user said how many threads to use."""

    cores: int
    chosen: bool
    busy: float = 0.0
    own: float = 0.0
    total: float = 0.0

    @classmethod
    def start(cls) -> "Watch":
        """A watch from now on."""
        watch = cls(cores=usable_cores(), chosen=any(name in os.environ for name in COUNTS))
        watch.busy, watch.own, watch.total = _times()
        return watch

    def foreign(self) -> float | None:
        """Cores that other processes kept busy since the last look; None where it was too short ago."""
        busy, own, total = _times()
        elapsed = (total - self.total) / (psutil.cpu_count() or 1)
        if elapsed < SHORTEST / 2:
            return None
        found = ((busy - self.busy) - (own - self.own)) / elapsed
        self.busy, self.own, self.total = busy, own, total
        return max(0.0, found)

    def adjust(self) -> int | None:
        """Set torch's threads by what others did since the last look; the count, None where it was left."""
        foreign = None if self.chosen else self.foreign()
        if foreign is None:
            return None
        import torch

        count = count_for(self.cores, foreign)
        if count != torch.get_num_threads():
            torch.set_num_threads(count)
        return count


def describe(environ: MutableMapping[str, str] = os.environ, seconds: float = 0.3) -> str:
    """One line for `--dry-run`: threads now, and why. Looks at the machine for so many seconds."""
    import time

    watch = Watch.start()
    time.sleep(seconds)
    foreign = watch.foreign() or 0.0
    waiting = next((f"{name}={environ[name]}" for name in WAITING if name in environ), "the library's own")
    said = next((f"{name}={environ[name]}" for name in COUNTS if name in environ), None)
    if said is not None:
        return f"threads: as {said} says; idle ones wait: {waiting}"
    count = count_for(watch.cores, foreign)
    return (
        f"threads: {count} of {watch.cores} cores, as other processes keep {foreign:.1f} busy now (measured "
        f"again at each block); idle ones wait: {waiting}"
    )


def _times() -> tuple[float, float, float]:
    """Seconds since the machine started that its cores were busy, that this process took, and in all."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # guests are counted among user and nice already
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    mine = psutil.Process().cpu_times()
    return total - idle, sum(mine[:4]), total
