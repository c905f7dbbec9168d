"""What one write is made of: byte strings and arrays, one after the other, uncopied as long as possible."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Pieces = Sequence[bytes | np.ndarray[Any, Any]]


def joined(pieces: Iterable[bytes | np.ndarray[Any, Any]]) -> bytes:
    """The pieces of a write as one byte string."""
    return b"".join(p if isinstance(p, bytes) else p.reshape(-1).view(np.uint8).tobytes() for p in pieces)
