"""Sizes and times as people read them."""

import math


def size_of(count: float) -> str:
    """Bytes for a person.

    >>> size_of(20 * 2**30), size_of(1500)
    ('20.0 GiB', '1.5 KiB')
    """
    power = min(4, int(math.log(max(count, 1), 1024)))
    return f"{count / 1024**power:.{0 if power == 0 else 1}f} {['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}"


def duration(seconds: float) -> str:
    """Seconds for a person.

    >>> duration(3), duration(200), duration(9000)
    ('3 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
