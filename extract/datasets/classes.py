"""Classes from folders: which part of a path is the class, and which folders are none."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from probecache.extract.datasets.inventory import Inventory, printable
from probecache.store.errors import InputError

CONTENT = ("auto", "all")
CLASS_FROM = ("auto", "leaf", "top", "path")
# Folders that hold pictures and folders of other kinds of file; none is a class.
_HOLDERS = {"image", "images", "img", "imgs", "jpegimages", "jpeg", "jpg", "jpgs", "png", "pngs", "photo"} | {
    "photos",
    "pic",
    "pics",
    "picture",
    "pictures",
    "raw",
    "data",
    "files",
}
_NO_PHOTOS = {"annotation", "annotations", "depth", "edges", "ground_truth", "groundtruth", "gt", "label"} | {
    "labels",
    "labelids",
    "mask",
    "masks",
    "segmentation",
    "segmentations",
    "segmentationclass",
    "trimaps",
}


@dataclass(frozen=True)
class Choices:
    """What the caller decides where the data alone do not say it.

    split_folders  folders named like splits are splits (True) or classes (False); None: where it is plain
    class_from     'leaf' (a class is the innermost folder, as timm has it), 'top' (the outermost, as
                   torchvision has it), 'path' (all of them); 'auto': leaf, or path where leaves share names
    input_key, target_key  columns of the image and of the label; None: those of usual names
    content        what of the images is digested: 'auto' or 'all' (every byte)
    digested       how the content is digested where the split is there already (`content_asked`): as it was
    """

    split_folders: bool | None = None
    class_from: str = "auto"
    input_key: str | None = None
    target_key: str | None = None
    content: str = "auto"
    digested: str | None = None

    def __post_init__(self) -> None:
        if self.content not in CONTENT:
            raise InputError(f"unknown --content {self.content!r}; allowed: {', '.join(CONTENT)}")
        if self.class_from not in CLASS_FROM:
            raise InputError(f"unknown --class-from {self.class_from!r}; allowed: {', '.join(CLASS_FROM)}")

    @property
    def how(self) -> str:
        """How `digest_content` digests the images."""
        return self.digested or self.content


def quoted(names: Iterable[str]) -> str:
    """The first three names of folders, for a message."""
    return ", ".join(map(repr, map(printable, sorted(names)[:3])))


def class_names(
    chosen: Mapping[str, str], everywhere: Iterable[str], choices: Choices, inventory: Inventory
) -> dict[str, str | None]:
    """Class of each folder of the split; folders of stray images are missing. Whether leaves tell classes
    apart is asked of all splits, so that they agree."""
    if not any(chosen.values()):
        return dict.fromkeys(chosen)
    how = choices.class_from
    if how == "auto":
        chosen, everywhere = _inside_holders(chosen, set(everywhere), inventory)
        if not any(chosen.values()):
            return dict.fromkeys(chosen)
    labelled = sorted(path for path in everywhere if path)
    if how == "auto":
        _require_one_depth(labelled, inventory)
        how = "leaf" if len({path.rsplit("/", 1)[-1] for path in labelled}) == len(labelled) else "path"
        if how == "path":
            _require_not_crossed(labelled, inventory)
            inventory.note("class folders share their last name: classes are named by their paths")
    if how == "leaf":
        leaves = {folder: path.rsplit("/", 1)[-1] for folder, path in chosen.items() if path}
        return _without_holders(leaves, inventory) if choices.class_from == "auto" else dict(leaves)
    shared = _shared(labelled)
    inner = {folder: path.split("/")[shared:] for folder, path in chosen.items() if path}
    return {folder: parts[0] if how == "top" else "/".join(parts) for folder, parts in inner.items()}


def _shared(paths: Sequence[str]) -> int:
    """How many leading folders all of these paths, in order, lie in."""
    first, last = (path.split("/")[:-1] for path in (paths[0], paths[-1]))  # in order: the least alike
    pairs = enumerate(zip(first, last, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))


def _inside_holders(
    chosen: Mapping[str, str], everywhere: set[str], inventory: Inventory
) -> tuple[Mapping[str, str], set[str]]:
    """The paths without an `images` that every class folder has inside. InputError where outermost or
    innermost folders say that some hold photos and others something else (`images` beside `masks`)."""
    own = sorted(set(chosen.values()) - {""})
    at = _shared(own)
    for level in ({path.split("/")[at] for path in own}, {path.split("/")[-1] for path in own}):
        folded = {name.casefold() for name in level}
        if folded & _HOLDERS and folded & _NO_PHOTOS:
            raise InputError(_like_parts(level, inventory))
    parts = [path.split("/") for path in sorted(everywhere - {""})]
    inner = {part[-1] for part in parts}
    held = ["/".join(part) for part in parts if len(part) > 1 and part[-1].casefold() in _HOLDERS]
    if held and len(held) < len(parts) and any(part[-1].casefold() not in _HOLDERS for part in parts):
        raise InputError(
            f"{inventory.where}: images lie in {printable(held[0])!r} and not so in other class folders: "
            "move them to the folder above, or say that the class is the inner folder (--class-from leaf)"
        )
    if len(inner) > 1 or max(map(len, parts)) == 1 or not {name.casefold() for name in inner} <= _HOLDERS:
        return chosen, everywhere
    inventory.note(
        f"the folders {printable(min(inner))!r} inside others are taken for no classes (--class-from leaf "
        "makes them ones)"
    )
    outer = {path: path.rpartition("/")[0] for path in everywhere}
    return {folder: outer[path] for folder, path in chosen.items()}, set(outer.values())


def _like_parts(names: Iterable[str], inventory: Inventory) -> str:
    return (
        f"{inventory.where}: the folders {quoted(names)} are named like parts of a data set, not "
        "like classes: name the one with the images as --data-dir, or say --class-from leaf"
    )


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


def _require_not_crossed(paths: Sequence[str], inventory: Inventory) -> None:
    """InputError where every outer folder holds the same several classes: folds, domains, splits by other
    names, or a part of the class."""
    inside: dict[str, set[str]] = {}
    for path in paths:
        outer, _, inner = path.partition("/")
        inside.setdefault(outer, set()).add(inner)
    every = set().union(*inside.values())
    if len(inside) < 2 or len(every) < 2 or any(len(inner) < 0.75 * len(every) for inner in inside.values()):
        return
    raise InputError(
        f"{inventory.where}: the folders {quoted(inside)} each hold the same classes, {len(every)} of them: "
        f"read one (--split {printable(min(inside))}), all as one (--class-from leaf), or the classes "
        "of each apart (--class-from path)"
    )


def _without_holders(names: Mapping[str, str | None], inventory: Inventory) -> dict[str, str | None]:
    """Folders that only say that pictures are in them (`images`) are no classes; beside others that say what
    else there is (`masks`) they are asked for."""
    found = {name for name in names.values() if name is not None}
    if not found or not {name.casefold() for name in found} <= _HOLDERS | _NO_PHOTOS:
        return dict(names)
    if len(found) > 1:
        raise InputError(_like_parts(found, inventory))
    inventory.note(
        f"the folder {printable(min(found))!r} is taken for no class (--class-from leaf makes it one)"
    )
    return dict.fromkeys(names)


def note_alike(classes: Sequence[str], inventory: Inventory) -> None:
    """A note for classes that a reader may take for one."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(unicodedata.normalize("NFKC", name).casefold().strip(), []).append(printable(name))
    for names in alike.values():
        if len(names) > 1:
            inventory.note(
                f"{', '.join(map(repr, names))} are {len(names)} classes: they differ in case, blanks or the "
                "coding of letters only"
            )
