"""What stands for SIGKILL within a test's own process, and for the mark of a writer that is dead."""

import contextlib
import uuid
from unittest import mock

from probecache.store.storage import local, writer_identity

CALLS = ("replace", "unlink", "link", "fsync", "makedirs")  # that change the disk


class Killed(BaseException):
    """Nothing catches it, and nothing is tidied up afterwards: each call that would raises it again."""


def dead_mark():
    """Of this machine, of no process: what it leaves is a dead writer's."""
    return f"{writer_identity._here()}-4194399-0-{uuid.uuid4().hex[:8]}"


@contextlib.contextmanager
def dead_marks():
    """All that is written meanwhile is a dead writer's."""
    with (
        mock.patch("probecache.store.storage.local.mark", dead_mark),
        mock.patch("probecache.store.claims.mark", dead_mark),
    ):
        yield


@contextlib.contextmanager
def dying(kill):
    """The kill-th call that changes the disk raises Killed, as does every one after it; None: none does."""
    left = kill

    def counted(call):
        def counting(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return call(*arguments, **options)

        return counting

    with contextlib.ExitStack() as stack:
        for name in CALLS if kill is not None else ():
            stack.enter_context(mock.patch.object(local.os, name, counted(getattr(local.os, name))))
        yield
