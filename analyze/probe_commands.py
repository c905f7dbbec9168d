"""The subcommands of `analyze` for single probes: `fit`, `predict` and `online-code`."""

from pathlib import Path

import typer

from probecache.analyze.arguments import number_of, splits_named, weights_of
from probecache.analyze.out_file import require_new, require_new_table, write_table
from probecache.store.choose import choose, choose_layer, choose_layers, require_splits, split_names


def fit(
    store: str = typer.Argument(metavar="STORE", help="Store to read: a folder or URL."),
    layer: str = typer.Option(..., "--layer", "--layers", help="Layer, or a glob that matches one."),
    out: Path = typer.Option(..., "--out", help="File to write: PROBE.safetensors."),
    train: str = typer.Option("train", "--train", help="Split to fit on, or a union a+b."),
    target: str = typer.Option("label", "--target", help="What to predict."),
    l2: str = typer.Option("1e-4", "--l2", help="Penalty, or auto."),
    fraction: float = typer.Option(1.0, "--fraction", help="Share of the neurons to keep, in (0, 1]."),
    seed: int = typer.Option(0, "--seed", help="Draws the neurons, and the rows of --shots."),
    selection: str = typer.Option("random", "--selection", help="How neurons are picked, as in `sweep`."),
    shots: str = typer.Option("all", "--shots", help="Training rows per class, a share of them, or all."),
    probe: str = typer.Option("logistic", "--probe", help="Kind of probe: logistic, ridge or sgd."),
    class_weight: str = typer.Option(
        None, "--class-weight", help="Weights of the classes: balanced, or cat=2,dog=0.5."
    ),
    standardize: bool = typer.Option(
        True,
        "--standardize/--no-standardize",
        help="Scale neurons by the training rows' standard deviation.",
    ),
    device: str = typer.Option("auto", "--device", help="Where to compute: auto, cpu, cuda or cuda:N."),
) -> None:
    """Fit one probe and keep its weights.

    The probe that a sweep fits at these settings, for `predict` or your own code.
    """
    from probecache.store.reader import open_store

    opened, splits = open_store(store), splits_named(train)
    layer = choose_layer(opened, layer, splits)
    choose(opened, "target", [target], splits)
    require_new(out)
    from probecache.analyze.probes.deploy import fit_probe

    found = fit_probe(
        opened,
        layer=layer,
        train=train,
        target=target,
        l2=number_of(l2),
        fraction=fraction,
        seed=seed,
        selection=selection,
        shots=shots,
        probe=probe,
        class_weight=weights_of(class_weight),
        standardize=standardize,
        device=device,
    )
    found.save(out)
    about = found.provenance
    print(f"{found!r}: {about['rows']} rows of {about['split']}, l2 {about['l2']}")
    if about["converged"] != "True":
        print("the solver stopped before it met its tolerance")
    print(f"written: {out}")


def predict(
    probe: Path = typer.Argument(metavar="PROBE", help="File that `probecache fit` wrote."),
    store: str = typer.Argument(metavar="STORE", help="Store to read: a folder or URL."),
    split: str = typer.Option(..., "--split", help="Split to predict."),
    out: Path = typer.Option(..., "--out", help="File to write: FILE.csv or FILE.parquet."),
    layer: str = typer.Option(None, "--layer", "--layers", help="Layer to read  [the probe's own]"),
) -> None:
    """Predict a split with a fitted probe.

    Writes a table with one row per sample.
    """
    from probecache.store.reader import open_store

    opened = open_store(store)
    require_splits(opened, [split])
    layer = None if layer is None else choose_layer(opened, layer, [split])
    require_new_table(out)
    from probecache.analyze.probes.deploy import predict_split
    from probecache.analyze.probes.fitted import load_probe

    found = load_probe(probe)
    table = predict_split(found, opened, split, layer=layer)
    write_table(table, out)
    if found.kind == "classes" and "label" in table and table["label"].isin(found.classes).all():
        print(f"{len(table)} rows, {(table['label'] == table['predicted']).mean():.2%} as labelled")
    else:
        print(f"{len(table)} rows")
    print(f"written: {out}")


def online_code(
    store: str = typer.Argument(metavar="STORE", help="Store to read: a folder or URL."),
    layer: list[str] = typer.Option(
        ..., "--layer", "--layers", help="Layers: a,b or repeated; globs such as 'blocks.*'."
    ),
    train: str = typer.Option("train", "--train", help="Split whose labels are coded, or a union a+b."),
    target: list[str] = typer.Option(
        None, "--target", help="Targets to code: a,b or repeated; globs  [label]"
    ),
    shares: str = typer.Option(
        None, "--shares", help="Growing shares of the rows to train on, the last 1: 0.01,0.1,1."
    ),
    l2: float = typer.Option(1e-4, "--l2", help="Penalty of every probe."),
    seed: int = typer.Option(0, "--seed", help="Draws the order of the rows."),
    device: str = typer.Option("auto", "--device", help="Where to compute: auto, cpu, cuda or cuda:N."),
    out: Path = typer.Option(
        None, "--out", help="FILE.csv or FILE.parquet to write: a row per layer and target."
    ),
) -> None:
    """Code length of the labels given each layer, in bits.

    It combines a probe's accuracy and the data needed for it (Voita and Titov 2020).
    """
    from probecache.store.reader import open_store

    opened, splits = open_store(store), splits_named(train)
    layers = choose_layers(opened, layer, splits)
    targets = choose(opened, "target", split_names(target), splits) if target else ["label"]
    if out is not None:
        require_new_table(out)
    import pandas as pd

    from probecache.analyze.findings.online_code import code_of_store

    given = None if shares is None else [number_of(text) for text in shares.split(",")]
    rows = []
    for name in layers:
        for aim in targets:
            found = code_of_store(opened, name, train, aim, given, l2=l2, seed=seed, device=device)
            lengths = (float(found["code_length"]), float(found["uniform_length"]))
            rows.append([name, aim, *lengths, float(found["compression"])])
            print(
                f"{name}, {aim}: {lengths[0]:,.0f} bits, uniform {lengths[1]:,.0f}: {rows[-1][-1]:.2f} times"
            )
    if out is not None:
        names = ["layer", "target", "code_length", "uniform_length", "compression"]
        write_table(pd.DataFrame(rows, columns=names), out)
        print(f"written: {out}")
