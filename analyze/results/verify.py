"""`probecache verify` for RESULTS and for what lies beside them."""

from pathlib import Path

from probecache.analyze.results.check import check
from probecache.analyze.results.layout import COPY
from probecache.analyze.results.mend import readable
from probecache.analyze.results.saved import check_saved, is_saved
from probecache.store.errors import InputError, ProbecacheError
from probecache.store.storage.files import open_files, read_piece


def is_results(path: str) -> bool:
    """Whether a sweep or `cka` wrote what lies there, however damaged it is."""
    if "://" in path:
        return False
    folder = Path(path)
    if is_saved(folder) or (folder / COPY).is_file():
        return True
    raw = read_piece(open_files(path), "zarr.json")
    return isinstance(raw, bytes) and b'"results"' in raw and b'"settings"' in raw


def verify_results(path: str) -> list[str]:
    """Each damaged piece by its coordinates, and how it is mended; empty: every byte is as it was written.

    InputError where RESULTS are of another format.
    """
    if is_saved(Path(path)):
        try:
            found = check_saved(Path(path))[1]
        except ProbecacheError as error:
            return [str(error)]
        return [*map(str, found), *(["write it again by the command that made it"] if found else [])]
    try:
        _, _, damages = readable(Path(path))
        listed = list(map(str, damages))
        if not damages:
            listed = list(map(str, check(path, wide=True).damages))
    except InputError:
        raise  # no RESULTS, or those of another version: nothing is damaged
    except ProbecacheError as error:
        return [str(error)]
    return [*listed, *(["run the same sweep again: it computes exactly these"] if listed else [])]
