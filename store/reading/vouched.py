"""The shards of some rows that may be read: those whose commits are there and whole; the rest is named."""

from collections.abc import Sequence

from probecache.store.errors import UnfinishedSplit
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Layer, Split
from probecache.store.layout import Shard
from probecache.store.reading.commits import Committed, Vouched, damaged
from probecache.store.storage.files import Files


def require_committed(
    files: Files,
    owner: Split | Layer,
    found: Sequence[tuple[Shard, Committed]],
    finished: bool,
    partial: bool,
) -> list[Vouched]:
    """Each shard with the rows and crc32c words that its commit vouches for.

    Parameters
    ----------
    found : sequence of (Shard, Committed)
    finished : bool
        A run said that all is written: a commit that is missing is damage.
    partial : bool
        Rows that no commit covers are left out instead of refused.
    """
    out: list[Vouched] = []
    for shard, committed in found:
        if isinstance(committed, BadChunk):
            raise damaged(files, owner, shard, f"commit: {committed}")
        if committed[0] < shard.rows:
            if finished:
                raise damaged(files, owner, shard, "its commit is missing")
            if not partial:
                raise _unfinished(files, owner, shard, committed[0])
        out.append((shard, *committed))
    return out


def require_ended(files: Files, split: Split, partial: bool) -> None:
    """UnfinishedSplit where rows are still streamed into the split, unless `partial`."""
    if split.streaming and not partial:
        raise UnfinishedSplit(
            f"split {split.name!r} in {files.url} is being streamed and was not finished: run what writes "
            "it again, or read its first rows with open_store(..., partial=True)"
        )


def _unfinished(files: Files, owner: Split | Layer, shard: Shard, rows: int) -> UnfinishedSplit:
    lacking = f"rows {shard.start + rows}:{shard.stop} (shard {shard.index})"
    what = f"layer {owner.spec.name!r} of " if isinstance(owner, Layer) else ""
    split = owner.split if isinstance(owner, Layer) else owner.name
    return UnfinishedSplit(
        f"{what}split {split!r} in {files.url} is unfinished: {lacking} and "
        "perhaps more are not written; run the command that writes it again, or read what is "
        "there with open_store(..., partial=True)"
    )
