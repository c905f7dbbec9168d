"""A folder or a .tar of class folders, through timm's readers.

timm's own data sets put the next image in the place of one that they cannot read; here a failure stays with
its row.
"""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from probecache.extract.datasets.images import Images, names_by_label
from probecache.extract.datasets.tar import BLOCK, require_whole
from probecache.store.errors import InputError, close_names

SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "eval", "evaluation"),
    "test": ("test", "testing"),
}
KNOWN_SPLITS = {name for names in SPLITS.values() for name in names}


def open_folder(data_dir: str | Path | None, split: str, mode: str) -> Images:
    """`data_dir/split` (or one of timm's synonyms of `split`) where it is there, else `data_dir` itself."""
    root = _check_folder(data_dir, split)
    from timm.data import create_dataset

    try:
        reader = create_dataset("", root=str(root), split=split, is_training=False).reader
        if root.is_file():
            require_whole(root, _end_of_images(reader))
    except tarfile.TarError as error:
        raise InputError(
            f"--data-dir {str(root)!r} cannot be read ({error}); it must be a whole, uncompressed .tar"
        ) from error
    except (RuntimeError, OSError, ValueError) as error:
        reason = (str(error).strip() or "nothing found").split("\n")[0]
        raise InputError(f"--data-dir {str(root)!r}, split {split!r}, cannot be opened: {reason}") from error
    # the reader of a .tar has other names for these
    targets = getattr(reader, "targets", None)
    if targets is None:
        targets = [target for _, target in reader.samples]
    classes = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    labels = np.asarray(targets, dtype=np.int64)
    return Images(_Files(reader, mode), "", tuple(reader.filenames()), labels, names_by_label(classes))


def _end_of_images(reader: Any) -> int:
    """First byte behind the last image of a .tar: timm has read every header up to there."""
    ends = [0]
    for image, _, inner in reader.samples:  # `inner`: the archive within the archive that holds the image
        member = image if inner is None else inner
        ends.append(member.offset_data + -(-member.size // BLOCK) * BLOCK)
    return max(ends)


class _Files:
    """timm's reader as a sequence of (PIL image, label); what cannot be read raises."""

    def __init__(self, reader: Any, mode: str) -> None:
        self.reader = reader
        self.mode = mode

    def __getitem__(self, row: int) -> tuple[Any, int]:
        from PIL import Image

        stream, label, *_ = self.reader[row]
        with stream, Image.open(stream) as image:
            return image.convert(self.mode), label

    def close_files(self) -> None:
        state = getattr(self.reader, "tar_state", None)  # timm keeps archives open
        for archive in state.values() if isinstance(state, dict) else [state]:
            if archive is not None and archive.tf is not None:
                archive.tf.close()
                archive.reset()


def _check_folder(data_dir: str | Path | None, split: str) -> Path:
    if data_dir is None or str(data_dir) == "":
        raise InputError(
            "no data given; name a folder or .tar of class folders with --data-dir, or a --dataset"
        )
    root = Path(data_dir)
    if root.is_file() and root.suffix == ".tar":
        return root
    if not root.is_dir():
        near = close_names(root.name, [p.name for p in root.parent.iterdir()]) if root.parent.is_dir() else ""
        raise InputError(
            f"--data-dir {str(root)!r} is neither a folder nor a .tar file" + (f"; {near}" if near else "")
        )
    splits = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name in KNOWN_SPLITS)
    same = next((names for names in SPLITS.values() if split in names), (split,))
    # timm would read all splits as one here.
    if splits and not (root / split).is_dir() and not set(same) & set(splits):
        raise InputError(f"--data-dir {str(root)!r} has no split {split!r}; it has: {', '.join(splits)}")
    return root
