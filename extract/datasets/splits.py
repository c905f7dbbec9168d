"""Which of a data set's folders are splits and which are classes, from the paths of its images."""

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from probecache.extract.datasets.classes import Choices, class_names, note_alike, quoted
from probecache.extract.datasets.inventory import Inventory, natural_order, printable
from probecache.store.errors import InputError

_WORDS = {
    "trainval": "trainval train_val train-val",
    "train": "train training trn",
    "validation": "val valid validation eval evaluation dev",
    "test": "test testing tst",
    "holdout": "holdout hold-out hold_out heldout held-out held_out",
    "unlabelled": "unlabelled unlabeled",
}
SPLITS = {word: split for split, words in _WORDS.items() for word in words.split()}
_SUFFIX = r"(?:[ _.-]*(?:set|data|dataset|images?|imgs?|split|samples|folder|\d+))*"
_PREFIX = r"(?:(?:\d+|data|dataset|images?|imgs?|splits?)[ _.-]+)*"
_ANY = "|".join(sorted(SPLITS, key=len, reverse=True))
_SPLIT = re.compile(f"{_PREFIX}(?:(.+?)[ _.-])??({_ANY}){_SUFFIX}")
_MASK = re.compile(r"(.+?)[ _.-](?:masks?|gt|seg(?:mentation)?|depth)(?:[ _.-]?\d+)?", re.IGNORECASE)
_AND_MORE = re.compile(f"({_ANY})[ _.-]*(.+)")


@dataclass(frozen=True)
class Sorted:
    """Images of one split in their order: position in the given paths, name inside the split, class name.

    `classes` are sorted; a class is None where an image lies in no class folder.
    """

    rows: tuple[int, ...]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


def split_of(name: str) -> str | None:
    """The split that a folder's name stands for: 'trainval', 'train', 'validation', 'test' or None.

    >>> [split_of(n) for n in ("Training_Set", "val2017", "02_test ", "bullet train")]
    ['train', 'validation', 'test', None]
    """
    found = _SPLIT.fullmatch(name.casefold().strip())
    return SPLITS[found[2]] if found and found[1] is None else None


def _of_one_stem(names: Iterable[str]) -> set[str]:
    """Names that differ in the split only: seg_train beside seg_test, but not bullet_train beside crash_test.

    >>> sorted(_of_one_stem(["seg_train", "seg_test", "bullet_train", "cat"]))
    ['seg_test', 'seg_train']
    """
    stems: dict[str, dict[str, str]] = {}
    for name in names:
        found = _SPLIT.fullmatch(name.casefold().strip())
        if found and found[1] is not None:
            stems.setdefault(found[1], {})[name] = SPLITS[found[2]]
    return {name for kinds in stems.values() if len(set(kinds.values())) > 1 for name in kinds}


def _of_one_rest(names: Iterable[str]) -> list[str]:
    """Names that say a split and the same thing more, under several splits.

    >>> _of_one_rest(["trainA", "testA", "trainB", "tester", "test"])
    ['testA', 'trainA']
    """
    rests: dict[str, dict[str, str]] = {}
    for name in names:
        found = _AND_MORE.fullmatch(name.casefold().strip())
        if found and split_of(name) is None:
            rests.setdefault(found[2], {})[name] = SPLITS[found[1]]
    return sorted(name for kinds in rests.values() if len(set(kinds.values())) > 1 for name in kinds)


def sort_out(paths: Sequence[str], split: str, choices: Choices, inventory: Inventory) -> Sorted:
    """The images of `split` among `paths`. InputError where it is missing, or can be read in two ways."""
    folders: dict[str, list[int]] = {}
    for row, path in enumerate(paths):
        folders.setdefault(os.path.dirname(path), []).append(row)
    around = _around(folders)
    folders = {folder[around:]: rows for folder, rows in folders.items()}
    chosen, everywhere, beside = _of_split(folders, split, choices, inventory)
    for folder in beside:
        for row in folders[folder]:
            inventory.leave_out("images outside the split folders", paths[row])
    names = class_names(chosen, everywhere, choices, inventory)
    found = []
    for folder, inside in chosen.items():
        for row in folders[folder]:
            if folder not in names:
                inventory.leave_out("stray images beside the class folders", paths[row])
                continue
            path = os.path.basename(paths[row])
            found.append(
                (natural_order(paths[row]), row, f"{inside}/{path}" if inside else path, names[folder])
            )
    if not found:
        raise inventory.nothing(f"no image of split {split!r}")
    found.sort(key=lambda item: item[0])
    _note_masks([paths[row] for _, row, _, _ in found], inventory)
    classes = sorted({name for name in names.values() if name is not None}, key=natural_order)
    note_alike(classes, inventory)
    position: dict[str | None, int] = {name: i for i, name in enumerate(classes)} | {None: -1}
    if not classes:
        inventory.note(f"{len(found)} images lie in no class folder: they are unlabelled (-1)")
    return Sorted(
        tuple(row for _, row, _, _ in found),
        tuple(name for _, _, name, _ in found),
        tuple(position[label] for *_, label in found),
        tuple(map(printable, classes)),
    )


def _note_masks(paths: Sequence[str], inventory: Inventory) -> None:
    """A note for `1_mask.png` beside `1.png`, which are rows like all others."""
    stems = {os.path.splitext(path)[0] for path in paths}
    masks = [
        path
        for path in paths
        if (found := _MASK.fullmatch(os.path.splitext(path)[0])) is not None and found[1] in stems
    ]
    if masks:
        inventory.note(
            f"{len(masks)} images are named like the mask of another one, such as {printable(masks[0])!r}: "
            "they are rows too; move them away if they are no photos"
        )


def _around(folders: Iterable[str]) -> int:
    """Length of the leading folders that all images share, and that name no split, with their last '/'."""
    parts = [folder.split("/") for folder in folders]
    first, last = min(parts), max(parts)
    most = min(map(len, parts)) - 1
    shared = itertools.takewhile(
        lambda pair: pair[0] == pair[1] and split_of(pair[0]) is None, zip(first[:most], last, strict=False)
    )
    return sum(len(name) + 1 for name, _ in shared)


def _of_split(
    folders: Iterable[str], split: str, choices: Choices, inventory: Inventory
) -> tuple[dict[str, str], set[str], list[str]]:
    """Folders of the split, mapped to their path without the split's own; those paths in all splits; folders
    of images that are in no split."""
    if choices.split_folders is False:
        return {folder: folder for folder in folders}, set(folders), []
    marked = _once(_marked(folders), inventory)
    if choices.split_folders is None:
        _require_one_meaning(folders, inventory)
    plain = [folder for folder in folders if folder not in marked]
    own = {f: f[len(split) :].lstrip("/") for f in plain if f == split or f.startswith(f"{split}/")}
    if not marked:  # `split` may name a folder that no one would take for a split
        whole = own or {folder: folder for folder in plain}
        return whole, set(whole.values()), []
    around = {"/".join(folder.split("/")[:i]) for folder in marked for i in range(folder.count("/") + 1)}
    beside = [folder for folder in plain if folder not in around]
    names = {name for name, _, _ in marked.values()}
    if beside and choices.split_folders is None and not _plainly_splits(marked):
        others = ", ".join(sorted({printable(folder.split("/")[0]) for folder in beside})[:3])
        raise InputError(
            f"{inventory.where}: the folder {printable(min(names))!r} is named like a split but lies beside "
            f"{others}: say --no-split-folders if it is a class, --split-folders if it is a split and the "
            "others are neither"
        )
    everywhere = {path for _, _, path in marked.values()}
    if split not in names and own:
        return own, everywhere | set(own.values()), []
    asked = split_of(split)
    wanted = {split} & names or {n for n, kind, _ in marked.values() if kind == asked}
    if not wanted:
        has = ", ".join(sorted(map(printable, names)))
        raise InputError(f"{inventory.where} has no split {split!r}; it has: {has}")
    if len(wanted) > 1:
        raise InputError(
            f"{inventory.where}: {' and '.join(map(repr, map(printable, sorted(wanted))))} could both be "
            f"split {split!r}; name one of them with --split"
        )
    chosen = {folder: path for folder, (name, _, path) in marked.items() if name in wanted}
    if choices.class_from == "auto":
        _require_one_data_set(chosen, min(wanted), inventory)
        _require_no_splits_inside(chosen, min(wanted), inventory)
    return chosen, everywhere, plain


def _require_one_data_set(chosen: Mapping[str, str], name: str, inventory: Inventory) -> None:
    """InputError where a split's folder lies in several others and has folders inside: whether those around
    it are data sets or a part of the classes is not said."""
    around = {folder: folder.split("/").index(name) for folder in chosen if name in folder.split("/")}
    outer = {"/".join(folder.split("/")[:at]) for folder, at in around.items()}
    if len(outer) > 1 and any(folder.count("/") > at for folder, at in around.items()):
        raise InputError(
            f"{inventory.where}: split {printable(name)!r} lies in {len(outer)} folders, {quoted(outer)}, "
            "and has folders inside: name one of them as --data-dir, or say what the class is (--class-from "
            "leaf, top or path)"
        )


def _marked(folders: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Folders in a split, by the outermost named like one: its name, split, and the path without it."""
    below: dict[str, set[str]] = {}
    for folder in folders:
        parts = folder.split("/")
        for i, part in enumerate(parts):
            below.setdefault("/".join(parts[:i]), set()).add(part)
    kinds = {
        (parent, name): split_of(name)
        or (SPLITS[_SPLIT.fullmatch(name.casefold().strip())[2]] if name in stems else None)  # type: ignore[index]
        for parent, names in below.items()
        for stems in [_of_one_stem(names)]
        for name in names
    }
    marked = {}
    for folder in folders:
        parts = folder.split("/")
        for i, part in enumerate(parts):
            kind = kinds["/".join(parts[:i]), part]
            if kind is not None:
                marked[folder] = part, kind, "/".join(parts[:i] + parts[i + 1 :])
                break
    return marked


def _once(
    marked: Mapping[str, tuple[str, str, str]], inventory: Inventory
) -> dict[str, tuple[str, str, str]]:
    """`marked`, where a split that holds nothing but a folder of its own name (`train/train`, as an archive
    was unpacked into a folder) is one split."""
    inside: dict[str, set[str]] = {}
    for name, _, path in marked.values():
        inside.setdefault(name, set()).add(path.split("/")[0])
    twice = {
        name: next(iter(firsts))
        for name, kind, _ in marked.values()
        if len(firsts := inside[name]) == 1 and split_of(next(iter(firsts))) == kind
    }
    for name, first in twice.items():
        inventory.note(f"the folder {printable(f'{name}/{first}')!r} is taken for split {printable(name)!r}")
    return {
        folder: (name, kind, path[len(twice[name]) :].lstrip("/") if name in twice else path)
        for folder, (name, kind, path) in marked.items()
    }


def _require_no_splits_inside(chosen: Mapping[str, str], name: str, inventory: Inventory) -> None:
    """InputError where a split's folder holds what look like splits, each with folders inside."""
    inner = {path.split("/")[0] for path in chosen.values()}
    kinds = {split_of(first) for first in inner}
    if None not in kinds and len(kinds) > 1 and all("/" in path for path in chosen.values()):
        raise InputError(
            f"{inventory.where}: split {printable(name)!r} holds folders that are named like splits, "
            f"{quoted(inner)}: name it as --data-dir, or say what the class is (--class-from leaf, top or "
            "path)"
        )


def _plainly_splits(marked: Mapping[str, tuple[str, str, str]]) -> bool:
    """Two kinds of split at least, each with folders below: no class list looks like that."""
    kinds = {kind for _, kind, _ in marked.values()}
    return len(kinds) > 1 and all(path for _, _, path in marked.values())


def _require_one_meaning(folders: Iterable[str], inventory: Inventory) -> None:
    """InputError for `trainA` beside `testA`: whether A is a class or a data set of its own is not said."""
    tops = {folder.split("/")[0] for folder in folders}
    if both := _of_one_rest(tops):
        raise InputError(
            f"{inventory.where}: the folders {quoted(both)} are named like a split and more: move them to "
            "train/..., test/..., name one as --data-dir, or say --no-split-folders if they are classes"
        )
