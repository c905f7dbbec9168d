"""A bar on stderr: probes done, probes per second, time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def probe_bar(description: str = "probes") -> Iterator[Callable[[int, int], None]]:
    """A context that gives `progress(done, total)`; silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            elapsed = task.elapsed or 0
            rate = task.completed / elapsed if elapsed else 0
            return Text(f"{rate:.3g} probes/s" if rate else "... probes/s")

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield progress
