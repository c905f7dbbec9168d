"""What `probecache info` says about a store."""

import html
from typing import Any

from probecache.store import catalog
from probecache.store.errors import ProbecacheError
from probecache.store.format.chunks import BadChunk

_NAMES = 10  # of classes that are shown


def describe(store: Any) -> dict[str, Any]:
    """Splits, layers, shapes, progress and fingerprint of an open Store as JSON values."""
    splits: dict[str, Any] = {}
    for name in store.splits:
        split = store.split_info(name)
        layers: dict[str, Any] = {}
        for layer in store.layers_of(name):
            found = store.layer_info(name, layer)
            shards = list(found.geometry.shards())
            committed = store.commits(found, shards)
            rows = sum(0 if isinstance(c, BadChunk) else c[0] for c in committed)
            layers[layer] = {
                "samples": found.geometry.n_samples,
                "neurons": found.spec.neurons,
                "dtype": found.spec.dtype,
                "compression": found.compression,
                "rows_written": rows,
                "finished": found.complete == found.geometry.n_samples and rows == found.geometry.n_samples,
                "fingerprint": dict(found.spec.attrs),
                **found.report,
            }
        splits[name] = {
            "samples": split.geometry.n_samples,
            "classes": len(split.class_names),
            "shard_rows": split.geometry.shard_rows,
            "fingerprint": split.data,
            "streaming": split.streaming,
            "class_names": list(split.class_names[:_NAMES]),
            "unlabelled": int((store.labels(name) < 0).sum()),
            "targets": {t: _target(store, name, t) for t in store.targets(name)[1:]},
            "layers": layers,
        }
    fingerprint = store.fingerprint
    return {
        "path": store.path,
        "fingerprint": {"backbone": fingerprint.backbone, "compute": fingerprint.compute},
        "splits": splits,
    }


def _target(store: Any, split: str, name: str) -> dict[str, Any]:
    """Kind, names (how many), rows that are written of a target, and how many of the split's have none."""
    stored = catalog.read_target(store.files, store.split_info(split), name)
    written = sum(rows for rows, _ in stored.commits)
    return {
        "kind": stored.kind,
        "names": len(stored.names),
        "rows_written": written,
        "unlabelled": int((~store.target(split, name).labelled).sum()),
    }


def print_description(description: dict[str, Any]) -> None:
    """The same for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    console.print(description["path"])
    table = Table("split", "layer", "samples", "neurons", "dtype", "state", box=None)
    for name, split in description["splits"].items():
        for layer, found in split["layers"].items():
            state = "finished" if found["finished"] else f"{found['rows_written']} of {found['samples']} rows"
            table.add_row(name, layer, str(found["samples"]), str(found["neurons"]), found["dtype"], state)
    console.print(table)
    for name, split in description["splits"].items():
        if split["classes"]:
            shown = ", ".join(split["class_names"]) + (", ..." if split["classes"] > _NAMES else "")
            found = f"{split['classes']} classes ({shown}){_without(split)}"
            console.print(f"label of {name}: {found}", markup=False)
        else:
            console.print(f"label of {name}: none", markup=False)
        for target, of in split["targets"].items():
            rows = of["rows_written"]
            state = _without(of) if rows == split["samples"] else f", {rows} of {split['samples']} rows"
            console.print(f"target {target} of {name}: {of['kind']} ({of['names']}){state}", markup=False)
        if split["streaming"]:
            console.print(f"split {name} is being streamed and was not finished", markup=False)
    parts = dict(description["fingerprint"])
    parts |= {f"data of {name}": split["fingerprint"] for name, split in description["splits"].items()}
    for part, fields in parts.items():
        for key, value in fields.items():
            console.print(f"{part}: {key} = {value}", markup=False)


def _without(of: dict[str, Any]) -> str:
    return f", {of['unlabelled']:,} rows unlabelled" if of["unlabelled"] else ""


def as_html(store: Any) -> str:
    """The store as a table for a notebook: path, backbone, and what each split holds of each layer.

    Of a damaged store, what is wrong with it: a notebook shows an object even where reading it fails.
    """
    try:
        about = describe(store)
    except ProbecacheError as error:
        return f"<b>{html.escape(repr(store.path))}</b>: {html.escape(str(error))}"
    rows = []
    for name, split in about["splits"].items():
        for layer, found in split["layers"].items():
            state = (
                "finished" if found["finished"] else f"{found['rows_written']:,} of {found['samples']:,} rows"
            )
            size = (f"{found['samples']:,}", f"{found['neurons']:,}", f"{split['classes']:,}")
            cells = "".join(f"<td>{html.escape(v)}</td>" for v in (name, layer, *size, found["dtype"], state))
            rows.append(f"<tr>{cells}</tr>")
    heads = ("split", "layer", "samples", "neurons", "classes", "dtype", "state")
    backbone = ", ".join(f"{k} = {v}" for k, v in about["fingerprint"]["backbone"].items())
    return (
        f"<div><b>probecache store</b> <code>{html.escape(about['path'])}</code>"
        f"<div>{html.escape(backbone)}</div><table><thead><tr>"
        + "".join(f"<th>{h}</th>" for h in heads)
        + f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
