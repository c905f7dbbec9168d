"""Every error that probecache raises on purpose, and the exit code that each becomes.

    ProbecacheError              exit 1   work failed
    ├── DamagedStore             exit 1   bytes on disk are missing, short or changed
    ├── UnfinishedSplit          exit 1   shards are still to be written; read with partial=True
    ├── OutOfTime                exit 130 the hours that a run was given are over
    └── InputError               exit 2   what was asked for is wrong (also a ValueError)
        ├── NotAStore            exit 2   the path holds no probecache store
        └── FingerprintMismatch  exit 2   the store holds features that were made differently

A message is one line: what was got, what is allowed, where, what to do. It is written with the flags of the
command line, `--img-size`; called from Python, it names the arguments instead, `img_size`.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

_flags_are_known = False  # whether whoever reads messages typed a command line
_FLAG = re.compile(r"(?<![\w/'\"-])--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)(?![\w-])")
_COMMAND = re.compile(r"(probecache [a-z-]+[^;)`\n]*)")  # what is to be typed stays as it is
# where an argument is not called as its flag is
_ARGUMENTS = {
    "kind": "kinds",
    "no-pretrained": "pretrained=False",
    "no-split-folders": "split_folders=False",
    "replace": "overwrite=True",
}


@contextmanager
def on_the_command_line() -> Iterator[None]:
    """Messages name flags, for as long as a command runs."""
    global _flags_are_known
    before, _flags_are_known = _flags_are_known, True
    try:
        yield
    finally:
        _flags_are_known = before


def with_arguments(text: str) -> str:
    """A message for Python: flags by the names of the arguments, commands as they are.

    >>> with_arguments("use --img-size 64 or --no-pretrained; probecache repair STORE --layer l mends it")
    'use img_size 64 or pretrained=False; probecache repair STORE --layer l mends it'
    """
    parts = _COMMAND.split(text)
    parts[::2] = [_FLAG.sub(lambda m: _ARGUMENTS.get(m[1], m[1].replace("-", "_")), p) for p in parts[::2]]
    return "".join(parts)


class ProbecacheError(Exception):
    """Base of all deliberate errors; `exit_code` is what the command line returns.

    Examples
    --------
    >>> issubclass(pc.DamagedStore, pc.ProbecacheError), pc.ProbecacheError.exit_code
    (True, 1)
    """

    exit_code = 1

    def __str__(self) -> str:
        text = super().__str__()
        return text if _flags_are_known else with_arguments(text)


class DamagedStore(ProbecacheError):
    """Bytes that must be there are missing, short or changed.

    Parameters
    ----------
    message : str
        One line: what, where, what to do.
    why : str
        The message without the place.
    shard : int or None
        Which shard, where it is one.

    Examples
    --------
    >>> pc.DamagedStore("features.zarr: shard 3 is missing", "is missing", 3).shard
    3
    """

    def __init__(self, message: str, why: str = "", shard: int | None = None) -> None:
        super().__init__(message)
        self.why, self.shard = why, shard


class UnfinishedSplit(ProbecacheError):
    """A read met shards that no writer has committed yet.

    Examples
    --------
    >>> half = pc.write_arrays("half.zarr", split="train", layer="late", activations=np.eye(8), shard_rows=4,
    ...                        rows=(0, 4))
    >>> try:
    ...     pc.open_store("half.zarr").matrix("train", "late")
    ... except pc.UnfinishedSplit:
    ...     print("not yet")
    not yet
    """


class OutOfTime(ProbecacheError):
    """The hours that a run was given are over; what was committed is kept."""

    exit_code = 130


class InputError(ProbecacheError, ValueError):
    """The caller asked for something that cannot be; also a ValueError.

    Examples
    --------
    >>> try:
    ...     pc.open_store("features.zarr").matrix("train", "lat")
    ... except pc.InputError as error:
    ...     print(str(error).partition("; ")[2])
    close names: late
    """

    exit_code = 2


class NotAStore(InputError):
    """The path holds no probecache store.

    Examples
    --------
    >>> try:
    ...     pc.open_store("photos")
    ... except pc.NotAStore as error:
    ...     print(error.exit_code)
    2
    """


class FingerprintMismatch(InputError):
    """The store holds features, labels or settings that were made in another way.

    Examples
    --------
    >>> x = np.zeros((60, 8), np.float32)
    >>> try:
    ...     pc.write_arrays("features.zarr", split="train", layer="late", activations=x)
    ... except pc.FingerprintMismatch as error:
    ...     print(error.exit_code)
    2
    """


def first_line(error: BaseException, silent: str | None = None) -> str:
    """The first line of what an error says; `silent`, or its type, where it says nothing.

    >>> first_line(ValueError("no such file\\nTraceback ...")), first_line(KeyError())
    ('no such file', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else silent or type(error).__name__


def close_names(got: str, allowed: Iterable[str], n: int = 3) -> str:
    """The end of an error message: the names nearest to `got`, or all of them where they are few.

    Where there are none, that is said.

    >>> close_names("layer33", ["layer3", "layer4", "stem"])
    'close names: layer3, layer4'
    >>> close_names("zzz", ["a", "b"])
    'allowed: a, b'
    """
    names = sorted(set(allowed))
    if not names:
        return "there is none to choose from"
    near = get_close_matches(got, names, n=n, cutoff=0.5)
    if near:
        return "close names: " + ", ".join(near)
    return "allowed: " + ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
