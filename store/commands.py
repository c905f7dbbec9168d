"""The subcommands of `store`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from probecache.store.importing import commands as importing


@dataclass(frozen=True)
class Lent:
    """What the other folders do for these commands, which import neither backbones nor results.

    recompute         layers of a split computed again in so many rows: (store, split, rows)
    check_results     damages of RESULTS at a path, in words; None where it holds none
    describe_results  RESULTS at a path as JSON values and as lines; None where it holds none
    """

    recompute: Callable[..., list[Any]]
    check_results: Callable[[str], list[str] | None]
    describe_results: Callable[[str], tuple[dict[str, Any], list[str]] | None]


def info(
    context: typer.Context,
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="A store, or RESULTS that `sweep` or `cka` wrote.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a store or RESULTS hold.

    The splits, layers, targets and fingerprint of a store, or the plan and the state of a sweep.
    """
    from probecache.store.info import describe, print_description
    from probecache.store.reader import open_store

    lent: Lent = context.obj
    if (found := lent.describe_results(store)) is not None:
        print(json.dumps(found[0], indent=2) if as_json else "\n".join(found[1]))
        return
    description = describe(open_store(store, partial=True))
    if as_json:
        print(json.dumps(description, indent=2))
    else:
        print_description(description)


def verify(
    context: typer.Context,
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="A store, or RESULTS that `sweep` or `cka` wrote.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    recompute: Annotated[
        int, typer.Option(min=0, help="Also run the backbone again on N random rows and compare.")
    ] = 0,
) -> int:
    """Read every byte and name what is damaged or missing. The exit code is 1 if anything is."""
    from probecache.store.reader import open_store
    from probecache.store.verification.verify import verify as check

    lent: Lent = context.obj
    named = lent.check_results(store)
    if named is not None:
        return _tell_results(store, named, as_json)
    damages = list(check(store))
    again = []
    if recompute and not damages:
        opened = open_store(store)
        for split in opened.splits:
            again += lent.recompute(opened, split, recompute)
    good = not damages and all(result.good for result in again)
    if as_json:
        found = {
            "good": good,
            "damages": [damage.as_json() for damage in damages],
            "recomputed": [{**vars(result), "good": result.good} for result in again],
        }
        print(json.dumps(found, indent=2))
        return 0 if good else 1
    for damage in damages:
        print(damage)
    for result in again:
        verdict = "agree" if result.good else "DIFFER"
        print(
            f"split {result.split}, layer {result.layer}: {result.rows} rows computed again "
            f"{verdict}: relative "
            f"error {result.error:.2g} (row {result.worst_row}), {result.tolerance:.2g} allowed"
        )
    if damages:
        damaged = sum(damage.harmful for damage in damages)
        if damaged:
            print(f"{store}: {damaged} damaged or missing pieces (probecache repair drops what is damaged)")
        else:
            print(
                f"{store}: {len(damages)} pieces are not written yet, what is there is whole (the command "
                "that writes them continues)"
            )
    elif good:
        print(f"{store}: every byte is as it was written")
    return 0 if good else 1


def _tell_results(path: str, named: list[str], as_json: bool) -> int:
    if as_json:
        print(json.dumps({"good": not named, "damages": named}, indent=2))
    elif named:
        print("\n".join(f"{path}: {line}" for line in named))
    else:
        print(f"{path}: every byte is as it was written")
    return 1 if named else 0


def repair(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder or URL of the store.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Drop the damaged shards of a store.

    The command that wrote them then writes exactly those again.
    """
    from probecache.store.verification.repair import repair as mend

    damages = mend(store)
    if as_json:
        print(json.dumps([damage.as_json() for damage in damages], indent=2))
        return
    for damage in damages:
        print(damage)
    dropped = sum(damage.kind in ("rows", "shard") for damage in damages)
    if dropped:
        print(f"{store}: dropped; run the extract or import command again to write them")
    else:
        print(f"{store}: {'mended' if damages else 'nothing is damaged'}")


def subset(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder or URL of the store.")],
    indices: Annotated[
        Path, typer.Option("--indices", help="File of the neurons to keep: text, one a line, or .npy.")
    ],
    out: Annotated[str, typer.Option("--out", help="Store to write.")],
    layer: Annotated[
        str | None, typer.Option("--layer", "--layers", help="Layer; needed if the store has several.")
    ] = None,
) -> None:
    """Write a store with only some neurons of one layer.

    For every split of the store.
    """
    from probecache.store.reader import open_store
    from probecache.store.writing.subset import only_layer, read_indices, write_subset

    source = open_store(store)
    name = only_layer(source, layer)
    split = next((s for s in source.splits if name in source.layers_of(s)), source.splits[0])
    columns = read_indices(indices, source.shape(split, name)[1])
    made = write_subset(source, columns, out, layer=name)
    kept = f"{len(columns)} of {source.shape(split, name)[1]} neurons"
    print(f"{out}: layer {name}, {kept}, {', '.join(made.splits)}")


COMMANDS: dict[str, Callable[..., object]] = {
    **importing.COMMANDS,
    "info": info,
    "verify": verify,
    "repair": repair,
    "subset": subset,
}
