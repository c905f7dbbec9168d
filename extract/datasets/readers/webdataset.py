"""WebDataset shards on disk, read by row: every tar is indexed once, so that any process reads any image.

A sample is a run of neighbouring files that share their name up to its first dot: `000123.jpg`, `000123.cls`.
timm's reader passes over the shards from the front and drops what it cannot read, which moves all later
rows; from an index rows keep their place, a resumed run starts where it stopped, and decoding is parallel.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probecache.extract.datasets.classes import Choices
from probecache.extract.datasets.images import Images, digest_content
from probecache.extract.datasets.inventory import (
    Inventory,
    image_suffixes,
    is_hidden,
    printable,
    unique_names,
)
from probecache.extract.datasets.labels import labels_from_text, to_labels
from probecache.extract.datasets.readers.folders import SliceImages
from probecache.extract.datasets.readers.tar import Member, Slices, read_members
from probecache.store.errors import InputError

IMAGES = ("jpg", "png", "webp", "jpeg")  # of several, the first of these is the sample's image
MAX_LABEL = 1 << 20  # bytes of a .cls or .json file
_MEMBER = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def open_shards(spec: str, data_dir: str | Path | None, split: str, choices: Choices = Choices()) -> Images:
    """The samples of `split` in the order of the shards and within them.

    spec 'wds/PATTERN.tar' names the shards in `data_dir` (`*`, `?`, `{000..127}`); any other 'wds/NAME' takes
    those that `_info.json` or `info.json` lists for the split, as timm does, else SPLIT.tar, SPLIT-0000.tar
    and so on. A row is identified by shard and key. Labels come from `.cls`, or, where the info file has an
    `alt_label`, from that field of `.json`, or from what `choices.target_key` names: the suffix of a text
    file, or json.FIELD; -1 where a sample has none; names become classes. `choices.input_key` names the
    suffix of the image. Raises InputError for shards that are missing, remote or compressed, whose keys
    repeat, and where their number of samples is not that of the info file.
    """
    found = _find(spec.removeprefix("wds/"), data_dir, split)
    where = f"dataset {spec!r}"
    inventory = Inventory(where)
    target = choices.target_key or (f"json.{found.label_field}" if found.label_field else "cls")
    parts = [_index(path, choices.input_key, target, inventory) for path in found.paths]
    kinds = set().union(*(part.kinds for part in parts))
    for key, option in ((choices.input_key, "--input-key"), (choices.target_key, "--target-key")):
        if key is not None and key != "none" and not {key, key.split(".")[0]} & kinds:
            has = ", ".join(sorted(kinds))
            raise InputError(f"{where} has no files of kind {key!r} ({option}); its samples hold {has}")
    names = unique_names(
        (
            f"{name}/{key}"
            for name, part in zip(_shard_names(found.paths), parts, strict=True)
            for key in part.keys
        ),
        where,
    )
    if found.count not in (None, len(names)):
        raise InputError(
            f"dataset {spec!r}: its info file says {found.count} samples for split {split!r}, the "
            f"{len(parts)} shards in {str(data_dir)!r} hold {len(names)}; fetch what is missing, or correct "
            "the info file"
        )
    if not names:
        raise inventory.nothing(f"no samples in {', '.join(p.name for p in found.paths[:3])}")
    slices = Slices(
        tuple(str(path) for path in found.paths),
        np.repeat(np.arange(len(parts)), [len(part.keys) for part in parts]),
        np.concatenate([np.asarray(part.places, np.int64).reshape(-1, 2) for part in parts]),
    )
    labels, classes = _labels([label for part in parts for label in part.labels], where)
    if missing := int((labels < 0).sum()):
        others = sorted(
            "json.FIELD" if kind == "json" else kind for kind in kinds - {"cls"} if not _is_image(kind)
        )
        inventory.note(
            f"{missing} of {len(labels)} samples have no label: they are unlabelled (-1)"
            + (f"; --target-key may name one of {', '.join(others[:4])}" if others else "")
        )
    for row in np.flatnonzero(slices.places[:, 1] == 0):
        inventory.leave_out("samples without an image (their rows are marked failed)", names[row])
    content = digest_content(len(names), slices.read, slices.size, how=choices.how)
    return Images(SliceImages(slices), spec, names, labels, classes, content, inventory)


def _shard_names(paths: Sequence[Path]) -> list[str]:
    """Shards by their names, with their folders where two share one."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [path.as_posix() for path in paths]


def _labels(values: Sequence[Any], where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    if any(isinstance(value, str) for value in values):
        return labels_from_text([None if v is None else str(v) for v in values], where)
    return to_labels(list(values), where), ()


@dataclass(frozen=True)
class _Found:
    """Which shards, how many samples they should hold (None: unknown), and the JSON field of the label."""

    paths: Sequence[Path]
    count: int | None = None
    label_field: str = ""


@dataclass(frozen=True)
class _Index:
    """One shard: keys, (offset, size) of the images with (0, 0) where there is none, labels as they stand,
    and what kinds of file there are."""

    keys: list[str]
    places: list[tuple[int, int]]
    labels: list[Any]
    kinds: set[str]


def _find(name: str, data_dir: str | Path | None, split: str) -> _Found:
    if not data_dir:
        raise InputError("dataset 'wds/...' needs --data-dir: the folder that holds the shards, or one .tar")
    if "://" in str(data_dir) or str(data_dir).startswith("pipe:"):
        raise InputError(
            f"--data-dir {str(data_dir)!r}: shards are read by row and must lie on a disk; fetch them first"
        )
    root = Path(data_dir).expanduser()
    if root.is_file():
        return _Found([root])
    if not root.is_dir():
        raise InputError(f"--data-dir {str(root)!r} is neither a folder of shards nor a .tar file")
    if name.endswith(".tar"):
        shards = {pattern: sorted(root.glob(pattern)) for pattern in _expand(name)}
        absent = [pattern for pattern, paths in shards.items() if not paths]
        if len(absent) == len(shards):
            raise InputError(f"no shard {name!r} in {str(root)!r}; it holds {_some_tars(root)}")
        if absent:
            raise InputError(
                f"{len(absent)} of the {len(shards)} shards of {name!r} are not in {str(root)!r}, the first "
                f"{absent[0]!r}: fetch them, or name those that are to be read"
            )
        return _Found([path for paths in shards.values() for path in paths])
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
                splits = json.loads(path.read_text(encoding="utf-8-sig"))["splits"]
                if all(isinstance(info["filenames"], list) for info in splits.values()):
                    return splits
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
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


def _index(path: Path, input_key: str | None, target: str, inventory: Inventory) -> _Index:
    """Keys, image places and labels of one shard, from the headers of its files."""
    index = _Index([], [], [], set())
    known: set[str] = set()
    with open(path, "rb") as shard:
        for key, files in _samples(path, inventory):
            where = f"shard {printable(str(path))!r}, sample {printable(key)!r}"
            if key in known:
                raise InputError(
                    f"{where}: its files are not neighbours, so that it would be several samples; sort the "
                    "shard by name"
                )
            known.add(key)
            image = files.get(input_key) if input_key else _image(files, where, inventory)
            index.kinds.update(files)
            index.keys.append(key)
            index.places.append((image.offset, image.size) if image else (0, 0))
            index.labels.append(_label(shard, files, target, where))
    return index


def _samples(path: Path, inventory: Inventory) -> Iterator[tuple[str, dict[str, Member]]]:
    """(key, files by extension) of neighbouring files with one key."""
    key, files = "", dict[str, Member]()
    for member in read_members(path, inventory):
        parts = _MEMBER.fullmatch(member.name)
        if any(map(is_hidden, member.name.split("/"))):
            inventory.leave_out("hidden or system files", member.name)
            continue
        if parts is None:
            inventory.leave_out("files without a suffix", member.name)
            continue
        if parts[1] != key and files:
            yield key, files
            files = {}
        key, kind = parts[1], parts[2].lower()
        if kind in files:
            raise InputError(
                f"shard {printable(str(path))!r} holds {printable(member.name)!r} twice (in large or small "
                "letters): one sample has one file of a kind"
            )
        files[kind] = member
    if files:
        yield key, files


def _image(files: Mapping[str, Member], where: str, inventory: Inventory) -> Member | None:
    """The sample's image: of the usual kinds the first, else the one of another kind."""
    usual = [kind for kind in IMAGES if kind in files]
    if len(usual) > 1:
        inventory.note(f"samples hold several images: of {', '.join(usual)}, {usual[0]} is taken")
    if usual:
        return files[usual[0]]
    others = [kind for kind in files if _is_image(kind)]
    plain = [kind for kind in others if "." not in kind]
    if len(plain) == 1:
        return files[plain[0]]
    if others:
        kinds = ", ".join(f".{printable(kind)}" for kind in others[:3])
        raise InputError(
            f"{where}: its images are {kinds}; the name of a sample ends at its first dot: rename the files "
            "so that each sample has one image of a plain kind"
        )
    return None


def _is_image(kind: str) -> bool:
    return f".{kind.rsplit('.', 1)[-1]}" in image_suffixes()


def _label(shard: Any, files: Mapping[str, Member], target: str, where: str) -> Any:
    """What is written as the sample's label: the text of its file of kind `target`, or of a JSON file the
    field behind the dot; None without one."""
    kind, _, field = target.partition(".") if target.startswith("json.") else (target, "", "")
    member = files.get(kind)
    if member is None:
        return None
    if member.size > MAX_LABEL:
        raise InputError(f"{where}: its label file holds {member.size} bytes; at most {MAX_LABEL} are read")
    shard.seek(member.offset)
    text = shard.read(member.size)
    try:
        plain = text.decode("utf-8-sig").strip()
        if "\0" in plain:
            raise ValueError("no text")
        return json.loads(plain)[field] if field else plain
    except KeyError as error:
        raise InputError(f"{where}: its .json has no field {field!r}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{where}: its label {text[:40]!r} is neither a whole number nor text") from error
