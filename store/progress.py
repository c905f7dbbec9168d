"""What functions take as `progress`: a bar on stderr, of how much is done and how fast, or a function."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from probecache.store.errors import InputError

Progress = bool | Callable[[int, int], None] | None  # what functions take as `progress`


def check_progress(progress: Progress) -> None:
    """InputError unless it is True, False, None, or a function."""
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise InputError(
            f"got progress={progress!r:.60}; allowed: True, False, or a function of (done, total)"
        )


def reporting(
    progress: Progress, what: str = "probes"
) -> AbstractContextManager[Callable[[int, int], None] | None]:
    """What `progress` asks for: True is a bar on stderr; a function is called with (done, total); False and
    None are silent. InputError for anything else.
    """
    check_progress(progress)
    if progress is True:
        return progress_bar(what)
    return nullcontext(progress or None)


@contextmanager
def progress_bar(what: str = "probes") -> Iterator[Callable[[int, int], None]]:
    """A context that gives `progress(done, total)`.

    A terminal shows the bar from the start, and nothing of it where nothing was done: an error stays one
    line. Elsewhere the last state is one line.
    """
    from rich import progress as parts
    from rich.console import Console
    from rich.text import Text

    class Rate(parts.ProgressColumn):
        def render(self, task: parts.Task) -> Text:
            elapsed = task.elapsed or 0
            rate = task.completed / elapsed if elapsed else 0
            return Text(f"{rate:.3g} {what}/s" if rate else f"... {what}/s")

    counted = (parts.BarColumn(), parts.MofNCompleteColumn(), Rate(), parts.TimeRemainingColumn())
    bar = parts.Progress("{task.description}", *counted, console=Console(stderr=True, force_jupyter=False))
    task = bar.add_task(what, total=None)
    bar.live.transient = True

    def progress(done: int, total: int) -> None:
        bar.live.transient = False
        bar.start()
        bar.update(task, completed=done, total=total)

    if bar.console.is_terminal:
        bar.start()
    try:
        yield progress
    finally:
        if bar.live.is_started:
            bar.stop()
