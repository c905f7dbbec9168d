"""Run blocks on a Dask cluster, and end in an answer whatever becomes of its workers.

A block goes to another worker where its worker died, cannot read the store, has another installation, or has
not been heard of for two minutes. A block that raises, or loses its workers, three times is given up.
"""

import queue
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from probecache.analyze.sweeps.blocks import Block
from probecache.analyze.sweeps.cluster.installation import differences, identity
from probecache.analyze.sweeps.cluster.on_worker import UnfitWorker, introduce, run_on_worker
from probecache.analyze.sweeps.cluster.start import ask, workers_of
from probecache.analyze.sweeps.execute import TRIES, Deadline, Outcome, describe
from probecache.analyze.sweeps.job import Job
from probecache.store.errors import InputError, ProbecacheError

if TYPE_CHECKING:
    from distributed import Client, Future

SILENT = 120.0  # seconds without a sign of life after which a worker's blocks go to others
LOOK = 2.0  # seconds between looks at the cluster
GONE = 20.0  # seconds that a scheduler may be away


def check_travels(job: Job) -> None:
    """InputError where a user's own metric or kind of probe cannot be sent to other processes."""
    from distributed.protocol.pickle import dumps

    for what, name, thing in [
        ("kind", job.kind.name, job.kind),
        *(("metric", m.name, m) for m in job.metrics),
    ]:
        try:
            dumps(thing)
        except Exception as error:
            raise InputError(
                f"{what} {name!r} cannot be sent to workers ({describe(error):.150}); have it hold plain "
                "values only, or sweep without a cluster"
            ) from None


def fit_workers(client: "Client", job: Job, tell: Callable[[str], None]) -> set[str]:
    """Addresses of the workers that cannot take part; InputError where that is all of them.

    A worker of another installation than this process's is refused for all: its numbers would be others.
    """
    answers = ask(client, introduce, job)
    unfit = {}
    for address, answer in sorted(answers.items()):
        if isinstance(answer, OSError):
            unfit[address] = "does not answer"
            continue
        if not isinstance(answer, dict):  # of a version that has no such function
            raise InputError(
                f"worker {address} has another installation of probecache: {describe(answer)}; "
                "start it from this one's environment"
            )
        differing = differences(answer["identity"])
        if differing:
            raise InputError(
                f"worker {address} has another installation: {differing}; start it from this environment"
            )
        if answer["why"]:
            unfit[address] = answer["why"]
    for address, why in unfit.items():
        if len(unfit) == len(answers):
            raise InputError(f"no worker can take part; {address} {why}")
        tell(f"worker {address} {why}; its blocks go to the others")
    return set(unfit)


class Dispatch:
    """The blocks of one sweep on a cluster: who has what, who is set aside."""

    def __init__(
        self,
        client: "Client",
        job: Job,
        resources: dict[str, float] | None,
        moments: "Mapping[str, Future]",
        tell: Callable[[str], None],
    ) -> None:
        self.client, self.job, self.resources, self.moments, self.tell = client, job, resources, moments, tell
        self.run = uuid.uuid4().hex  # task keys are the scheduler's, which other sweeps share
        self.asked = identity()
        check_travels(job)
        self.unfit = fit_workers(client, job, tell)
        self.finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self.blocks: dict[Future, tuple[int, Block]] = {}
        self.tries: dict[int, int] = {}
        self.heard: dict[str, tuple[Any, float]] = {}  # last sign of life, and when it was news here

    def submit(self, number: int, block: Block) -> None:
        options: dict[str, Any] = {"pure": False, "retries": TRIES - 1, "resources": self.resources}
        if self.unfit:
            options |= {"workers": sorted(self._fit()), "allow_other_workers": False}
        tried = self.tries[number] = self.tries.get(number, 0) + 1
        future = self.client.submit(
            run_on_worker,
            block,
            self.job,
            self.asked,
            self.moments.get(block.layer),
            priority=-number,
            key=f"block-{self.run}-{number}-{tried}",
            **options,
        )
        self.blocks[future] = (number, block)
        future.add_done_callback(self.finished.put)

    def _fit(self) -> set[str]:
        return set(workers_of(self.client)) - self.unfit

    def next(self, deadline: Deadline) -> Outcome | None:
        """The next block that ended for good; None where the deadline came first."""
        looked, away = time.monotonic(), 0.0
        while True:
            try:
                future = self.finished.get(timeout=LOOK)
            except queue.Empty:
                future = None
            if future is not None and future in self.blocks:
                outcome = self._outcome(future)
                if outcome is not None:
                    return outcome
            if deadline.left is not None and deadline.left <= 0:
                return None
            if time.monotonic() - looked >= LOOK:
                looked = time.monotonic()
                away = self._look(away)

    def _look(self, away: float) -> float:
        """Notice a scheduler that is gone, workers that are silent, blocks that none may take."""
        if self.client.status != "running":
            if away + LOOK >= GONE or self.client.status == "closed" or self.client.scheduler is None:
                raise ProbecacheError(
                    "the Dask scheduler is gone; what was committed is kept, the same command continues"
                )
            return away + LOOK
        for future in [f for f in self.blocks if f.status in ("lost", "cancelled")]:
            self._again(future)  # the scheduler was away and has forgotten it
        moved = False
        try:
            known = workers_of(self.client)
        except (OSError, TimeoutError):
            return away + LOOK
        for address, about in known.items():
            now, sign = time.monotonic(), about.get("last_seen")
            if self.heard.get(address, (None, 0.0))[0] != sign:
                self.heard[address] = (sign, now)
            silent = now - self.heard[address][1]
            if address not in self.unfit and silent > SILENT:
                self.unfit.add(address)
                self.tell(f"worker {address} has not answered for {silent:.0f} s; its blocks go to others")
                moved = True
        if self.unfit and not set(known) - self.unfit:
            raise ProbecacheError(
                f"no worker is left that answers and can take part ({', '.join(sorted(self.unfit))}); what "
                "was committed is kept, the same command continues"
            )
        if moved:  # blocks that wait could be given to it still, or wait for what it alone holds
            self._forget_moments()
            for future in [f for f in self.blocks if f.status == "pending"]:
                self._again(future)
        return 0.0

    def _forget_moments(self) -> None:
        """Leave the moments that no fit worker holds to the workers themselves, one pass each: the scheduler
        does not compute again what a silent worker has, and blocks that need it would wait without end."""
        held = self.client.who_has(list(self.moments.values()))
        self.moments = {
            layer: future
            for layer, future in self.moments.items()
            if set(held.get(future.key, ())) - self.unfit
        }

    def _again(self, future: "Future") -> None:
        number, block = self.blocks.pop(future)
        self.client.cancel([future], force=True)
        self.submit(number, block)

    def _outcome(self, future: "Future") -> Outcome | None:
        """What became of a block; None where it was given to another worker."""
        if future.status in ("lost", "cancelled"):
            self._again(future)
            return None
        number, block = self.blocks[future]
        try:
            error = future.exception(timeout=SILENT)
        except TimeoutError:
            self.finished.put(future)
            return None
        try:
            values = None if error else future.result(timeout=SILENT)
        except TimeoutError:  # computed, but the worker that holds it is silent, and it alone has it
            self._again(future)
            return None
        if isinstance(error, UnfitWorker):
            self.blocks.pop(future)
            if error.address not in self.unfit:
                self.unfit.add(error.address)
                self.tell(f"{error}; its blocks go to others")
            if self._fit() and self.tries[number] < 2 * TRIES:
                self.submit(number, block)
                return None
            return Outcome(block, None, str(error))
        if error is None:
            self.blocks.pop(future)
            future.release()  # the scheduler and the workers forget the arrays: they are committed
            return Outcome(block, values)
        self.blocks.pop(future)
        return Outcome(block, None, explain(error), isinstance(error, InputError))

    def cancel(self) -> None:
        if self.client.status == "running" and self.blocks:
            self.client.cancel(list(self.blocks), force=True)
        self.blocks.clear()


def run_on(
    client: "Client",
    blocks: Sequence[Block],
    job: Job,
    resources: dict[str, float] | None = None,
    moments: "Mapping[str, Future] | None" = None,
    deadline: Deadline | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[Outcome]:
    """Blocks on a cluster, in the order in which they finish.

    resources: what a worker must offer, {"GPU": 1} for workers started with that tag. moments: of layers that
    stay on disk, from `distributed_moments`, so that the workers share that pass. tell: takes a line for the
    user where a worker is set aside.
    """
    if not blocks:
        return
    dispatch = Dispatch(client, job, resources, moments or {}, tell)
    try:
        for number, block in enumerate(blocks):
            dispatch.submit(number, block)
        while dispatch.blocks:
            outcome = dispatch.next(deadline or Deadline(None))
            if outcome is None:
                return
            yield outcome
    finally:
        dispatch.cancel()


def explain(error: BaseException) -> str:
    """A Dask error in one line that says what to do; others as they are."""
    if type(error).__name__ == "KilledWorker":
        return (
            f"its workers died {TRIES} times, most often because memory ran out; give more of it "
            "(--memory-limit), or use fewer --workers"
        )
    return describe(error)
