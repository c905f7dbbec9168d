"""WebDataset shards on disk, read by row: every tar is indexed once, so that any process reads any image.

A sample is a run of neighbouring files that share their name up to its first dot: `000123.jpg`, `000123.cls`.
timm's reader passes over the shards from the front and drops what it cannot read, which moves all later
rows; from an index rows keep their place, a resumed run starts where it stopped, and decoding is parallel.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probecache.extract.datasets.images import Images
from probecache.extract.datasets.tar import require_end
from probecache.store.errors import InputError

IMAGES = ("jpg", "png", "webp", "jpeg")  # of several, the first of these is the sample's image
_MEMBER = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def open_shards(spec: str, data_dir: str | Path | None, split: str, mode: str) -> Images:
    """The samples of `split` in the order of the shards and within them.

    spec 'wds/PATTERN.tar' names the shards in `data_dir` (`*`, `?`, `{000..127}`); any other 'wds/NAME' takes
    those that `_info.json` or `info.json` lists for the split, as timm does, else SPLIT.tar, SPLIT-0000.tar
    and so on. A row is identified by shard and key. Labels come from `.cls`, or, where the info file has an
    `alt_label`, from that field of `.json`; -1 where a sample has none. Raises InputError for shards that are
    missing, remote or compressed, and where their number of samples is not that of the info file.
    """
    found = _find(spec.removeprefix("wds/"), data_dir, split)
    parts = [_index(path, found.label_field) for path in found.paths]
    names = tuple(
        f"{path.name}/{key}" for path, part in zip(found.paths, parts, strict=True) for key in part.keys
    )
    if found.count not in (None, len(names)):
        raise InputError(
            f"dataset {spec!r}: its info file says {found.count} samples for split {split!r}, the "
            f"{len(parts)} shards in {str(data_dir)!r} hold {len(names)}; fetch what is missing, or correct "
            "the info file"
        )
    if not names:
        raise InputError(f"dataset {spec!r}: no samples in {', '.join(p.name for p in found.paths[:3])}")
    source = _Shards(
        tuple(str(path) for path in found.paths),
        np.repeat(np.arange(len(parts)), [len(part.keys) for part in parts]),
        np.concatenate([np.asarray(part.places, np.int64).reshape(-1, 2) for part in parts]),
        np.concatenate([np.asarray(part.labels, np.int64) for part in parts]),
        mode,
    )
    return Images(source, spec, names, source.labels, ())


@dataclass(frozen=True)
class _Found:
    """Which shards, how many samples they should hold (None: unknown), and the JSON field of the label."""

    paths: Sequence[Path]
    count: int | None = None
    label_field: str = ""


@dataclass(frozen=True)
class _Index:
    """One shard: keys, (offset, size) of the images with (0, 0) where there is none, labels."""

    keys: list[str]
    places: list[tuple[int, int]]
    labels: list[int]


@dataclass(frozen=True)
class _Shards:
    """A sequence of (PIL image, label); what cannot be read raises.

    Row i is the file at `places[i]` = (offset, size) in `paths[shard[i]]`.
    """

    paths: tuple[str, ...]
    shard: np.ndarray
    places: np.ndarray
    labels: np.ndarray
    mode: str

    def __getitem__(self, row: int) -> tuple[Any, int]:
        from PIL import Image

        offset, size = (int(v) for v in self.places[row])
        if not size:
            raise ValueError(f"the sample has no {', '.join(IMAGES)}, or an empty one")
        with open(self.paths[self.shard[row]], "rb") as file:
            file.seek(offset)
            content = file.read(size)
        with Image.open(io.BytesIO(content)) as image:
            return image.convert(self.mode), int(self.labels[row])


def _find(name: str, data_dir: str | Path | None, split: str) -> _Found:
    if not data_dir:
        raise InputError("dataset 'wds/...' needs --data-dir: the folder that holds the shards, or one .tar")
    if "://" in str(data_dir) or str(data_dir).startswith("pipe:"):
        raise InputError(
            f"--data-dir {str(data_dir)!r}: shards are read by row and must lie on a disk; fetch them first"
        )
    root = Path(data_dir)
    if root.is_file():
        return _Found([root])
    if not root.is_dir():
        raise InputError(f"--data-dir {str(root)!r} is neither a folder of shards nor a .tar file")
    if name.endswith(".tar"):
        paths = [path for pattern in _expand(name) for path in sorted(root.glob(pattern))]
        if not paths:
            raise InputError(f"no shard {name!r} in {str(root)!r}; it holds {_some_tars(root)}")
        return _Found(paths)
    splits = _info(root)
    if split in splits:
        info = splits[split]
        return _Found(
            [root / file for file in info["filenames"]], info.get("num_samples"), info.get("alt_label") or ""
        )
    numbered = re.compile(rf"{re.escape(split)}([-_.]?\d+([-_.]of[-_.]\d+)?)?\.tar")
    paths = sorted(path for path in root.iterdir() if numbered.fullmatch(path.name))
    if not paths:
        has = (
            f"its info file has the splits {', '.join(splits)}" if splits else f"it holds {_some_tars(root)}"
        )
        raise InputError(
            f"no shards of split {split!r} in {str(root)!r}; {has} (--dataset 'wds/PATTERN.tar' names shards)"
        )
    return _Found(paths)


def _info(root: Path) -> Mapping[str, Any]:
    """What the info file says of each split; nothing where there is none."""
    for path in (root / "_info.json", root / "info.json"):
        if path.is_file():
            try:
                splits = json.loads(path.read_text())["splits"]
                if all(isinstance(info["filenames"], list) for info in splits.values()):
                    return splits
            except (ValueError, KeyError, TypeError, AttributeError):
                pass
            raise InputError(f"{path} is no info file: it must map splits to their filenames and num_samples")
    return {}


def _expand(pattern: str) -> Iterator[str]:
    """Number ranges written out.

    >>> list(_expand("a-{08..10}.tar"))
    ['a-08.tar', 'a-09.tar', 'a-10.tar']
    """
    found = _RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expand(f"{pattern[: found.start()]}{number:0{len(first)}d}{pattern[found.end() :]}")


def _some_tars(root: Path) -> str:
    names = sorted(path.name for path in root.glob("*.tar"))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "no .tar"


def _index(path: Path, label_field: str) -> _Index:
    """Keys, image places and labels of one shard, from the headers of its files."""
    index = _Index([], [], [])
    try:
        with tarfile.open(path, "r:") as tar:
            for key, files in _samples(tar):
                image = next((files[kind] for kind in IMAGES if kind in files), None)
                index.keys.append(key)
                index.places.append((image.offset_data, image.size) if image else (0, 0))
                index.labels.append(_label(tar, files, label_field, f"{path}, sample {key!r}"))
            require_end(tar)
    except (tarfile.TarError, OSError) as error:
        raise InputError(
            f"shard {str(path)!r} cannot be read ({str(error) or type(error).__name__}); it must be a whole, "
            "uncompressed .tar on a disk"
        ) from error
    return index


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """(key, files by extension) of neighbouring files with one key."""
    key, files = "", dict[str, tarfile.TarInfo]()
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # else all headers pile up in memory
        parts = _MEMBER.fullmatch(member.name)
        if not member.isreg() or parts is None:
            continue
        if parts[1] != key and files:
            yield key, files
            files = {}
        key = parts[1]
        files[parts[2].lower()] = member
    if files:
        yield key, files


def _label(tar: tarfile.TarFile, files: Mapping[str, tarfile.TarInfo], field: str, where: str) -> int:
    member = files.get("json" if field else "cls")
    if member is None:
        return -1
    stream = tar.extractfile(member)
    assert stream is not None  # `_samples` gives regular files only
    text = stream.read()
    try:
        return int(json.loads(text)[field] if field else text)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: its label {text[:40]!r} is not a whole number") from error
