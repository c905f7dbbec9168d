"""Run the backbone again on some rows of a store and compare: does the store hold what it says?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
from torch import nn
from torch.utils.data import Dataset

from probecache.extract.backbone.features import Feature
from probecache.extract.pipeline.loader import open_batches
from probecache.extract.pipeline.loop import Forward
from probecache.extract.prepare import Setup, build_features, prepare
from probecache.extract.settings import Settings
from probecache.extract.surroundings import undisturbed
from probecache.store.errors import InputError
from probecache.store.fingerprint import canonical
from probecache.store.layout import OK
from probecache.store.reader import Store
from probecache.store.writing.cast import numpy_of

# Half a unit in the last place of the dtype stored or computed in, the coarser one, several times over:
# kernels may differ between machines.
TOLERANCE = {"float32": 1e-3, "float16": 4e-3, "bfloat16": 3e-2}


@dataclass(frozen=True)
class Recomputed:
    """One layer of one split: the largest relative error over the rows looked at.

    The error of a row is max |stored - again| / max |again|; `tolerance` is what rounding explains.
    """

    split: str
    layer: str
    rows: int
    error: float
    worst_row: int
    tolerance: float

    @property
    def good(self) -> bool:
        return self.error <= self.tolerance


@undisturbed
def recompute(
    store: Store,
    split: str,
    n: int,
    *,
    seed: int = 0,
    model: "str | nn.Module | None" = None,
    dataset: "str | Dataset[Any] | None" = None,
    device: str = "auto",
) -> list[Recomputed]:
    """Compute `n` rows of `split`, drawn under `seed` from those marked ok, again from the images.

    Model, data and options are the recorded ones, layer by layer; give `model` or `dataset` where they were
    Python objects. Raises InputError where the record does not say how the features were made, or the images
    are no longer there.
    """
    rows = _draw(store.status(split), n, seed)
    found = []
    for summary, layers in _runs(store, split):
        name = _recorded_model(store) if model is None else model
        spec = _recorded_dataset(summary["dataset"]) if dataset is None else dataset
        # In the precision of the run, on whatever device: 'auto' may mean another one here.
        recorded = store.fingerprint.compute.get("amp_dtype", summary["settings"]["amp_dtype"])
        chosen = {**summary["settings"], "device": device, "amp_dtype": recorded}
        setup = prepare(name, spec, Settings.of(**chosen))
        _require_weights(setup, store)
        wanted = [feature for feature in setup.features if feature.name in layers]
        again = _run(setup, wanted, rows, int(summary["batch_size"]))
        found += [_compare(store, split, f.name, rows, again[f.name], setup) for f in wanted]
    return found


def _runs(store: Store, split: str) -> list[tuple[dict[str, Any], list[str]]]:
    """What each extraction into `split` recorded about itself, with the layers that it finished."""
    runs: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for layer in store.layers_of(split):
        summary = store.report(split, layer).get("summary") or {}
        if "settings" not in summary:
            raise InputError(
                f"layer {layer!r} of split {split!r} in {store.path} was not made by extract: "
                "there is nothing to compute it from"
            )
        runs.setdefault(canonical(summary["settings"]), (summary, []))[1].append(layer)
    return list(runs.values())


def _recorded_model(store: Store) -> str:
    made = store.fingerprint.backbone
    module = made.get("source") == "checkpoint" and not (":" in made["model"] or timm.is_model(made["model"]))
    if made.get("source") == "given" or module:
        raise InputError(
            f"{store.path} was made from a Python module ({made['model']}), which no record can bring back; "
            "recompute from Python: probecache.extract.recompute.recompute(store, split, n, model=the module)"
        )
    return str(made["model"])


def _recorded_dataset(spec: str) -> str:
    if spec and "/" not in spec:
        raise InputError(
            f"the images came from a Python data set ({spec}), which no record can bring back; recompute "
            "from Python: probecache.extract.recompute.recompute(store, split, n, dataset=the data set)"
        )
    return spec


def _require_weights(setup: Setup, store: Store) -> None:
    stored = store.fingerprint.backbone["weights"]
    if setup.backbone.weights != stored:
        raise InputError(
            f"the backbone's weights are {setup.backbone.weights[:12]}, the store's {stored[:12]}: "
            "the same weights are needed to compare"
        )


def _draw(status: np.ndarray, n: int, seed: int) -> list[int]:
    readable = np.flatnonzero(status == OK)
    if n < 1 or not len(readable):
        raise InputError(f"{n} rows to recompute of {len(readable)} that are ok; give at least 1")
    chosen = np.random.default_rng(seed).choice(readable, min(n, len(readable)), replace=False)
    return sorted(int(row) for row in chosen)


def _run(
    setup: Setup, wanted: Sequence[Feature], rows: Sequence[int], batch_size: int
) -> dict[str, np.ndarray]:
    features = build_features(setup, wanted)
    forward = Forward(features, setup.compute, batch_size)
    found: dict[str, list[np.ndarray]] = {feature.name: [] for feature in wanted}
    groups = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    try:
        with setup.compute.precision():
            for batch in open_batches(setup.images, setup.preprocess, groups):
                for reason in batch.errors.values():
                    raise InputError(f"an image that the store marks ok cannot be read now: {reason}")
                for _, outputs in forward(batch.images.to(setup.compute.device)):
                    for feature, output in zip(wanted, outputs, strict=True):
                        found[feature.name].append(numpy_of(output).astype(np.float32))
    finally:
        features.close()
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _compare(
    store: Store, split: str, layer: str, rows: Sequence[int], again: np.ndarray, setup: Setup
) -> Recomputed:
    stored = np.concatenate([store.matrix(split, layer, rows=(r, r + 1)) for r in rows]).astype(np.float32)
    scale = np.maximum(np.abs(again).max(1), np.finfo(np.float32).tiny)
    errors = np.abs(stored - again).max(1) / scale
    errors = np.where(np.isfinite(errors), errors, np.inf)
    worst = int(np.argmax(errors))
    computed = {str(p.dtype).removeprefix("torch.") for p in setup.backbone.model.parameters()}
    types = {setup.settings.dtype, str(setup.compute.amp_dtype).removeprefix("torch."), *computed}
    tolerance = max(TOLERANCE.get(name, 0) for name in types)
    return Recomputed(split, layer, len(rows), float(errors[worst]), rows[worst], tolerance)
