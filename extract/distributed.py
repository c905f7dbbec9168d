"""Several processes on one extraction: each owns whole shards, nothing is gathered, any one may be
restarted."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from probecache.store.errors import InputError, ProbecacheError, on_the_command_line
from probecache.store.reader import Store, open_store


@dataclass(frozen=True)
class Place:
    """This process among `world` processes; `local` is its number on its own machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise InputError(f"rank {self.rank} is outside a world of {self.world} processes")

    def rows(
        self, n_samples: int, shard_rows: int, rows: tuple[int, int] | None = None
    ) -> tuple[int, int] | None:
        """This process's range of whole shards, within `rows` where given; None if there is none for it.

        >>> [Place(rank, 3).rows(20, 4) for rank in range(3)]
        [(0, 4), (4, 12), (12, 20)]
        """
        first, last = rows or (0, n_samples)
        if self.world == 1:
            return rows or (0, n_samples)
        start, stop = first // shard_rows, -(-last // shard_rows)
        low, high = (start + (stop - start) * (self.rank + i) // self.world for i in range(2))
        return (max(low * shard_rows, first), min(high * shard_rows, last)) if low < high else None

    def device(self, name: str) -> str:
        """`cuda` becomes this process's own GPU."""
        if self.world == 1 or name not in ("auto", "cuda"):
            return name
        import torch

        if not torch.cuda.is_available():
            return name
        return f"cuda:{self.local % torch.cuda.device_count()}"


ALONE = Place()


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """From torchrun's RANK, WORLD_SIZE and LOCAL_RANK, else from the Slurm step that this process is a
    task of, else alone.

    A batch script, an interactive shell and whatever they start without srun run once, however many tasks the
    allocation has room for: only a step that srun started has tasks beside this one.

    >>> find_place({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    Place(rank=3, world=8, local=1)
    >>> find_place({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"})
    Place(rank=2, world=4, local=0)
    >>> find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"})
    Place(rank=0, world=1, local=0)
    """
    slurm = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not (names[0] in environment and names[1] in environment):
        names = slurm
        if not _in_srun_step(environment) or slurm[0] not in environment or slurm[1] not in environment:
            return Place()
    try:
        rank, world, local = (int(environment.get(name, "0")) for name in names)
    except ValueError as error:
        raise InputError(f"{', '.join(names)} must be whole numbers: {error}") from error
    return Place(rank, world, local)


def _in_srun_step(environment: Mapping[str, str]) -> bool:
    """Whether Slurm numbers this step as srun's steps are numbered; batch scripts, interactive shells and the
    like have numbers from 2^32 - 16 on."""
    number = environment.get("SLURM_STEP_ID", environment.get("SLURM_STEPID", ""))
    return number.isdecimal() and int(number) < 2**32 - 16


def wait_for_split(out: str | os.PathLike[str], split: str, seconds: float = 600) -> Store:
    """The store in `out` once another process has begun `split` in it. Raises ProbecacheError after
    `seconds`.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            store = open_store(out, partial=True)
            if split in store.splits:
                return store
        except InputError:  # not there yet, or just being made
            pass
        if time.monotonic() > end:
            raise ProbecacheError(
                f"no process has begun split {split!r} in {os.fspath(out)} in {seconds:.0f} s; this one "
                f"has no "
                "shard of its own (more processes than shards): see the others' messages"
            )
        time.sleep(0.3)


def spawn(count: int, work: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Run `work(place=..., **arguments)` in `count` processes of this machine and wait for all of them.

    Raises ProbecacheError if any of them failed; what the others committed is kept.
    """
    if count < 1:
        raise InputError(f"--devices must be at least 1, got {count}")
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_work, args=(work, Place(rank, count, rank), dict(arguments)), daemon=False)
        for rank in range(count)
    ]
    started = []
    try:
        for process in processes:
            process.start()
            started.append(process)
        for process in started:
            process.join()
    except BaseException:
        for process in started:
            process.terminate()
        raise
    codes = [process.exitcode for process in processes]
    if 2 in codes:
        raise InputError("wrong input, see the line above")
    if any(codes):
        bad = [rank for rank, code in enumerate(codes) if code]
        raise ProbecacheError(
            f"{len(bad)} of {count} processes failed ({', '.join(map(str, bad))}); "
            "what they committed is kept, the same command continues"
        )


def _work(work: Callable[..., Any], place: Place, arguments: dict[str, Any]) -> None:
    try:
        with on_the_command_line():  # which this process does not inherit
            try:
                work(place=place, **arguments)
            except ProbecacheError as error:
                print(f"probecache: process {place.rank}: {error}", file=sys.stderr)
                sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
