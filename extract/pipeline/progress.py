"""A live bar on stderr: images per second, and the share of time that each stage takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from probecache.extract.pipeline.timing import STAGES, Timing
from probecache.store.progress import Progress as Shown

WIDE = 72  # columns of a terminal in which everything has room


@contextmanager
def show_progress(total: int, timing: Timing, title: str, shown: Shown) -> Iterator[Callable[[int], None]]:
    """Give the function to call with the number of images of each finished batch.

    shown: True, a bar; a function of (done, total) images; False or None, nothing.
    """
    if shown is None or shown is False:
        yield lambda _: None
        return
    if shown is not True:
        done = 0

        def tell(images: int) -> None:
            nonlocal done
            done += images
            shown(done, total)

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, force_jupyter=False)
    share, rate = TaskProgressColumn(), TextColumn("{task.fields[rate]}")
    more = (TextColumn("{task.description}"), BarColumn(bar_width=8))
    rest = (TimeRemainingColumn(), TextColumn("{task.fields[shares]}"))
    # In a narrow terminal all of them would be cut to nothing.
    columns = (*more, share, rate, *rest) if console.width >= WIDE else (share, rate)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, rate="", shares="")

        def advance(images: int) -> None:
            shares = timing.shares()
            text = " ".join(f"{stage} {100 * shares[stage]:.0f}" for stage in STAGES) + " %"
            progress.update(task, advance=images, rate=f"{timing.rate:.1f} img/s", shares=text)

        yield advance
