"""Whose fault it is that an image cannot be read: its own, and its row fails for good, or the machine's."""

import errno

from probecache.store.errors import first_line

# Too many open files, no memory, a network disk that is gone for now: they say nothing of an image.
_OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}


def reason_of(error: Exception) -> str:
    """What an image's reader threw, in one line."""
    return f"{type(error).__name__}: {first_line(error, 'no reason given')[:200]}"


def machines_fault(error: Exception, row: int) -> str:
    """Why the run ends at this error instead of failing the row; '' where the image is at fault."""
    if not isinstance(error, OSError) or error.errno not in _OF_THE_MACHINE:
        return ""
    return (
        f"image {row} cannot be read now ({reason_of(error)}), for which the machine or its disk is at "
        "fault: mend that, the same command continues"
    )
