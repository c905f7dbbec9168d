"""Which of a data set's folders are splits and which are classes, from the paths of its images."""

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from probecache.extract.datasets.inventory import Inventory, natural_order, printable
from probecache.store.errors import InputError

CLASS_FROM = ("auto", "leaf", "top", "path")
_WORDS = {
    "trainval": "trainval train_val train-val",
    "train": "train training trn",
    "validation": "val valid validation eval evaluation dev",
    "test": "test testing tst",
}
SPLITS = {word: split for split, words in _WORDS.items() for word in words.split()}
_SUFFIX = r"(?:[ _.-]*(?:set|data|dataset|images?|imgs?|split|samples|folder|\d+))*"
_SPLIT = re.compile(f"(?:(.+?)[ _.-])??({'|'.join(sorted(SPLITS, key=len, reverse=True))}){_SUFFIX}")


@dataclass(frozen=True)
class Choices:
    """What the caller decides where the data alone do not say it.

    split_folders  folders named like splits are splits (True) or classes (False); None: where it is plain
    class_from     'leaf' (a class is the innermost folder, as timm has it), 'top' (the outermost, as
                   torchvision has it), 'path' (all of them); 'auto': leaf, or path where leaves share names
    input_key, target_key  columns of the image and of the label; None: those of usual names
    """

    split_folders: bool | None = None
    class_from: str = "auto"
    input_key: str | None = None
    target_key: str | None = None

    def __post_init__(self) -> None:
        if self.class_from not in CLASS_FROM:
            raise InputError(f"unknown --class-from {self.class_from!r}; allowed: {', '.join(CLASS_FROM)}")


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

    >>> [split_of(n) for n in ("Training_Set", "val2017", "TEST", "bullet train")]
    ['train', 'validation', 'test', None]
    """
    found = _SPLIT.fullmatch(name.casefold())
    return SPLITS[found[2]] if found and found[1] is None else None


def _of_one_stem(names: Iterable[str]) -> set[str]:
    """Names that differ in the split only: seg_train beside seg_test, but not bullet_train beside crash_test.

    >>> sorted(_of_one_stem(["seg_train", "seg_test", "bullet_train", "cat"]))
    ['seg_test', 'seg_train']
    """
    stems: dict[str, dict[str, str]] = {}
    for name in names:
        found = _SPLIT.fullmatch(name.casefold())
        if found and found[1] is not None:
            stems.setdefault(found[1], {})[name] = SPLITS[found[2]]
    return {name for kinds in stems.values() if len(set(kinds.values())) > 1 for name in kinds}


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
    names = _class_names(chosen, everywhere, choices, inventory)
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
    classes = sorted({name for name in names.values() if name is not None}, key=natural_order)
    position: dict[str | None, int] = {name: i for i, name in enumerate(classes)} | {None: -1}
    if not classes:
        inventory.note(f"{len(found)} images lie in no class folder: they are unlabelled (-1)")
    return Sorted(
        tuple(row for _, row, _, _ in found),
        tuple(name for _, _, name, _ in found),
        tuple(position[label] for *_, label in found),
        tuple(map(printable, classes)),
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
    marked = _marked(folders)
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
    return {folder: path for folder, (name, _, path) in marked.items() if name in wanted}, everywhere, plain


def _marked(folders: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Folders in a split, by the outermost named like one: its name, split, and the path without it."""
    below: dict[str, set[str]] = {}
    for folder in folders:
        parts = folder.split("/")
        for i, part in enumerate(parts):
            below.setdefault("/".join(parts[:i]), set()).add(part)
    kinds = {
        (parent, name): split_of(name)
        or (SPLITS[_SPLIT.fullmatch(name.casefold())[2]] if name in stems else None)  # type: ignore[index]
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


def _plainly_splits(marked: Mapping[str, tuple[str, str, str]]) -> bool:
    """Two kinds of split at least, each with folders below: no class list looks like that."""
    kinds = {kind for _, kind, _ in marked.values()}
    return len(kinds) > 1 and all(path for _, _, path in marked.values())


def _class_names(
    chosen: Mapping[str, str], everywhere: Iterable[str], choices: Choices, inventory: Inventory
) -> dict[str, str | None]:
    """Class of each folder of the split; folders of stray images are missing. Whether leaves tell classes
    apart is asked of all splits, so that they agree."""
    if not any(chosen.values()):
        return dict.fromkeys(chosen)
    labelled = sorted(path for path in everywhere if path)
    how = choices.class_from
    if how == "auto":
        _require_one_depth(labelled, inventory)
        how = "leaf" if len({path.rsplit("/", 1)[-1] for path in labelled}) == len(labelled) else "path"
        if how == "path":
            inventory.note("class folders share their last name: classes are named by their paths")
    if how == "leaf":
        return {folder: path.rsplit("/", 1)[-1] for folder, path in chosen.items() if path}
    first, last = (path.split("/")[:-1] for path in (labelled[0], labelled[-1]))  # in order: the least alike
    shared = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )
    inner = {folder: path.split("/")[shared:] for folder, path in chosen.items() if path}
    return {folder: parts[0] if how == "top" else "/".join(parts) for folder, parts in inner.items()}


def _require_one_depth(paths: Sequence[str], inventory: Inventory) -> None:
    known = set(paths)
    for path in paths:
        parts = path.split("/")
        above = next((up for i in range(1, len(parts)) if (up := "/".join(parts[:i])) in known), None)
        if above is not None:
            raise InputError(
                f"{inventory.where}: images lie in {printable(above)!r} and below it in {printable(path)!r}: "
                "say whether the class is the inner folder (--class-from leaf) or the outer one (top)"
            )
