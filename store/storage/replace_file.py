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
    written to is an InputError; what the disk refuses is said as `writing` says it. A link stays one, and a
    pipe or device, such as /dev/stdout, is written to as it is.
    """
    stream = os.path.exists(path) and not os.path.isfile(path)
    place = path if stream else Path(os.path.realpath(path))
    made = path if stream else beside(place, f"{os.getpid()}.partial")
    try:
        with writing(path):
            yield made
            if not stream:
                with made.open("rb") as written:
                    os.fsync(written.fileno())  # before its name: a power failure leaves the old file or this
                made.replace(place)
    except OSError as error:
        raise InputError(f"got {path}, which cannot be written: {error.strerror or error}") from None
    finally:
        if not stream:
            with suppress(OSError):  # a read-only folder has none
                made.unlink(missing_ok=True)
