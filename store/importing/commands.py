"""The subcommands that put what others made into a store: `import` and `target`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def target(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder or URL of the store.")],
    split: Annotated[str, typer.Option("--split", help="Name of the split whose rows are labelled.")],
    source: Annotated[Path, typer.Option("--from", help="CSV, TSV, parquet, JSON lines, .npy or .npz.")],
    key: Annotated[str | None, typer.Option(help="Column that holds sample names (default: sample).")] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN (a,b or a pattern), NAME=COLUMN, or NAME=A,B for several at once; or all."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="classes, labels or numbers, or NAME=KIND (default: by the cells)."),
    ] = None,
    by_position: Annotated[
        bool, typer.Option("--by-position", help="Rows of the file are the split's, in order.")
    ] = False,
    encoding: Annotated[str | None, typer.Option(help="Of a text file (default UTF-8, or its mark).")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in place of one that differs.")] = False,
) -> None:
    """Label a split's rows anew from a file, matched by sample name; several targets at once."""
    from probecache.store.importing.label_file import LabelFile, write_label_file

    kinds = {k.rpartition("=")[0]: k.rpartition("=")[2] for k in kind or ()}
    wanted = LabelFile(source, key, tuple(name or ()), kinds, by_position, encoding)
    print(f"{store}: {write_label_file(store, split, wanted, replace)}")


COMMANDS: dict[str, Callable[..., object]] = {"target": target}
