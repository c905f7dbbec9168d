"""A folder that is replaced as a whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from probecache.analyze.results.lock import lock, unlock
from probecache.store.errors import InputError
from probecache.store.storage.disk_errors import writing
from probecache.store.storage.replace_folder import beside, recover_folder, replace_folder

OURS = frozenset(("index.html", "figures", "tables"))


def check_folder(out: str | Path) -> None:
    """InputError unless `out` is a report, an empty folder, or nothing yet: other files are not ours."""
    out = Path(out).expanduser()
    if (out.exists() and not out.is_dir()) or (out / "zarr.json").exists():
        raise InputError(
            f"got --out {out}, which is a file, a store or RESULTS: name a folder for the report"
        )
    if out.is_dir():
        others = sorted(p.name for p in out.iterdir() if p.name not in OURS)
        if others:
            raise InputError(
                f"got --out {out}, which holds other files than a report's ({', '.join(others[:3])}): name "
                "a folder for the report, which is replaced as a whole"
            )


@contextmanager
def replaced(out: str | Path) -> Iterator[Path]:
    """A new folder beside `out` to write into; at the end it takes `out`'s place in one step.

    Where the block raises or the process dies before that step, `out` is as it was; what a killed one left is
    removed by the next. InputError while another process writes there.
    """
    place = Path(out).resolve()  # what a link points to
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        handle = lock(place)
        try:
            recover_folder(place)
            made = beside(place, "new")
            made.mkdir()
            yield made
            replace_folder(made, place)
        finally:
            recover_folder(place)  # what was written in vain
            unlock(place, handle)
