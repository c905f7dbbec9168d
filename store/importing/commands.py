"""The subcommands that put what others made into a store: `import` and `target`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def import_files(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="Folder or URL of the store; made if missing.")
    ],
    split: Annotated[str, typer.Option("--split", help="Name of the split, such as train.")],
    layer: Annotated[
        str, typer.Option("--layer", "--layers", help="Name of the layer, such as penultimate.")
    ],
    activations: Annotated[
        str,
        typer.Option(
            "--activations",
            help="FILE[:KEY] or pattern, samples x neurons: .npy .npz .pt .safetensors .h5 .parquet .zarr.",
        ),
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", help="FILE[:COLUMN] of integers or texts, one per sample; also .csv .tsv .jsonl."
        ),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(help="Names of the rows: FILE[:COLUMN] as for labels, or a text file of lines."),
    ] = None,
    class_names: Annotated[Path | None, typer.Option(help="Text file: one class name per line.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float16, bfloat16 or float32 (default: as it is).")
    ] = None,
    rows: Annotated[str | None, typer.Option(help="Write only rows a:b, in whole shards.")] = None,
    shard_rows: Annotated[int | None, typer.Option(help="Rows per shard (default 8192).")] = None,
    compression: Annotated[str | None, typer.Option(help="zstd; default: none.")] = None,
    allow_saturated: Annotated[
        bool,
        typer.Option(
            "--allow-saturated", help="Store values that overflow float16, instead of refusing them."
        ),
    ] = False,
) -> None:
    """Import features from files as a layer of a split.

    Bit for bit; the files may be larger than memory.
    """
    from probecache.store.choose import parse_rows
    from probecache.store.importing.features import import_features
    from probecache.store.importing.labels import read_names

    written = import_features(
        store,
        split=split,
        layer=layer,
        activations=activations,
        labels=labels,
        samples=None if samples is None else read_names(samples, "--samples"),
        class_names=None if class_names is None else _lines(class_names, "--class-names"),
        dtype=dtype,
        rows=None if rows is None else parse_rows(rows),
        shard_rows=shard_rows,
        compression=compression,
        allow_saturated=allow_saturated,
    )
    n, d = written.shape(split, layer)
    print(f"{store}: split {split}, layer {layer}: {n} samples x {d} neurons")


def _lines(path: Path, what: str) -> list[str]:
    from probecache.store.errors import InputError
    from probecache.store.importing.tables.text import read_lines

    try:
        return read_lines(path)
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def target(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder or URL of the store.")],
    split: Annotated[str, typer.Option("--split", help="Split whose rows get the labels.")],
    source: Annotated[
        Path, typer.Option("--from", help="File of labels: CSV, TSV, parquet, JSON lines, .npy or .npz.")
    ],
    key: Annotated[str | None, typer.Option(help="Column that holds sample names (default: sample).")] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="COLUMN (a,b or a pattern), NAME=COLUMN, or NAME=A,B for several labels (default: all)."
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="classes, labels or numbers, or NAME=KIND (default: as the cells suggest)."),
    ] = None,
    by_position: Annotated[
        bool,
        typer.Option(
            "--by-position", help="Match rows by position: those of the file are the split's, in order."
        ),
    ] = False,
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of a text file (default: its byte order mark, or UTF-8).")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a stored target that differs.")] = False,
) -> None:
    """Store more labels for a split's rows.

    From a file whose rows are matched by sample name; several targets at once.
    """
    from probecache.store.importing.label_file import LabelFile, write_label_file

    kinds = {k.rpartition("=")[0]: k.rpartition("=")[2] for k in kind or ()}
    wanted = LabelFile(source, key, tuple(name or ()), kinds, by_position, encoding)
    print(f"{store}: {write_label_file(store, split, wanted, replace)}")


COMMANDS: dict[str, Callable[..., object]] = {"import": import_files, "target": target}
