"""Put a finished file in the place of another, whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from probecache.store.errors import InputError
from probecache.store.storage.disk_errors import writing
from probecache.store.storage.replace_folder import beside


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write to; at the end what lies there takes the place of `path`.

    Where the block raises, `path` is as it was and nothing is left beside it. A name or folder that cannot be
    written to is an InputError; what the disk refuses is said as `writing` says it.
    """
    made = beside(path, f"{os.getpid()}.partial")
    try:
        with writing(path):
            yield made
            with made.open("rb") as written:
                os.fsync(written.fileno())  # before its name: a power failure leaves the old file or this one
            made.replace(path)
    except OSError as error:
        raise InputError(f"got {path}, which cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # a read-only folder has none
            made.unlink(missing_ok=True)
