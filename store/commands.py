"""The subcommands of `store`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def import_arrays(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="Folder or URL of the store; made if missing.")
    ],
    split: Annotated[str, typer.Option("--split", help="Name of the split, such as train.")],
    layer: Annotated[str, typer.Option("--layer", help="Name of the layer, such as penultimate.")],
    activations: Annotated[Path, typer.Option("--activations", help=".npy file, (samples, neurons).")],
    labels: Annotated[Path, typer.Option("--labels", help=".npy file, (samples,) integers.")],
    samples: Annotated[
        Path | None, typer.Option(help="Text file: one line per row that identifies it.")
    ] = None,
    class_names: Annotated[Path | None, typer.Option(help="Text file: one class name per line.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float16, bfloat16 or float32 (default: as it is).")
    ] = None,
    rows: Annotated[str | None, typer.Option(help="a:b, whole shards: write only these rows.")] = None,
    shard_rows: Annotated[int | None, typer.Option(help="Rows per shard (default 8192).")] = None,
    compression: Annotated[str | None, typer.Option(help="zstd, or nothing.")] = None,
    allow_saturated: Annotated[
        bool, typer.Option("--allow-saturated", help="Keep non-finite values.")
    ] = False,
) -> None:
    """Put a .npy file of features into a store, as one layer of one split."""
    from store.arrays import load_npy, write_arrays

    written = write_arrays(
        store,
        split=split,
        layer=layer,
        activations=load_npy(activations, "--activations"),
        labels=load_npy(labels, "--labels"),
        samples=None if samples is None else _lines(samples, "--samples"),
        class_names=None if class_names is None else _lines(class_names, "--class-names"),
        dtype=dtype,
        rows=None if rows is None else parse_rows(rows),
        shard_rows=shard_rows,
        compression=compression,
        allow_saturated=allow_saturated,
    )
    n, d = written.shape(split, layer)
    print(f"{store}: split {split}, layer {layer}: {n} samples x {d} neurons")


def info(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder or URL of the store.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a store's splits, layers, shapes, progress and fingerprint."""
    from store.info import describe, print_description
    from store.reader import open_store

    description = describe(open_store(store, partial=True))
    if as_json:
        print(json.dumps(description, indent=2))
    else:
        print_description(description)


def parse_rows(text: str) -> tuple[int, int]:
    """'a:b' as two numbers.

    >>> parse_rows("8192:16384")
    (8192, 16384)
    """
    from store.errors import InputError

    start, colon, stop = text.partition(":")
    if not (colon and start.isdigit() and stop.isdigit()):
        raise InputError(f"--rows {text!r}: write a:b with whole numbers, such as 0:8192")
    return int(start), int(stop)


def _lines(path: Path, what: str) -> list[str]:
    from store.errors import InputError

    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{what}: cannot read {str(path)!r} as text: {error}") from None


COMMANDS: dict[str, Callable[..., object]] = {"import": import_arrays, "info": info}
