"""The study of the paper's findings on stored features: sweeps, CKA, a report, and what agrees with the
paper.

    python -m benchmarks.paper FEATURES --out STUDY --device cuda

FEATURES: a folder of stores, one for each backbone, with the splits cifar10-train, cifar10-test,
flowers102-train, ... (benchmarks/paper_features.py makes them); `random` in a store's name marks the control
with random weights, and `-128px` at its end an image size other than the backbone's own. STUDY:
results/*.zarr (RESULTS), critical/*.zarr (RESULTS of the adaptive search), cka/*.zarr, attribution/*.zarr,
geometry/*.zarr, report/index.html, summary.json, and study.tar.gz with all but the page.

20 fractions from 0.005 to 1 with the successors' cuts at 0.5%, 25% and 50%, five seeds, logistic probes, l2
1e-4; the late layer's critical mass to 1% of it; leave-one-out of its neurons for a ridge probe, l2 0.1; the
geometry of every layer. The same command continues after any stop and computes only what is missing;
`--minutes M` stops starting sweeps after M minutes, the most telling ones come first. `--tasks` sweeps some
tasks only, the report is of all that is there. `--quick`: 6 fractions, the cuts and 2 seeds, for a trial.
"""

import argparse
import json
import re
import tarfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

import probecache as pc
from benchmarks.record import record
from probecache.analyze.findings.claims import findings
from probecache.analyze.findings.redundancy import redundancy
from probecache.analyze.findings.summary import late_layer_last, usual_task
from probecache.analyze.geometry.geometry import MEASURES
from probecache.analyze.geometry.relation import relation
from probecache.analyze.probes.fit import pick_device
from probecache.analyze.report.write import write_report
from probecache.analyze.results.saved import save_dataset
from probecache.analyze.similarity.cka import cka

TASKS = ("pets37", "flowers102", "cifar10")
# The paper's table (first version, delta 0.9): ResNet18, ViT-S/16, ViT-S/32 span these on the same data sets.
GREEDY = ("greedy", "greedy-worst")
CUTS = (0.005, 0.25, 0.5)  # what the paper's successors keep
DELTAS = (0.9, 0.95)
RIDGE_L2 = 0.1  # as many neurons as images: less would fit the noise
PAPER_DR = {"cifar10": (0.70, 0.80), "flowers102": (0.50, 0.50), "pets37": (0.70, 0.90)}


@dataclass(frozen=True)
class Study:
    """One store: a backbone on a task."""

    path: Path
    backbone: str
    task: str

    @property
    def name(self) -> str:
        return f"{self.backbone} / {self.task}"

    @property
    def file(self) -> str:
        return f"{self.backbone}__{self.task}.zarr"

    @property
    def is_control(self) -> bool:
        return "random" in self.backbone

    @property
    def image_size(self) -> int | None:
        """Pixels, where the store says how its features were computed."""
        preprocess = pc.open_store(self.path).fingerprint.compute.get("preprocess", {})
        return preprocess.get("input_size", [None])[-1]


def find_studies(features: Path) -> list[Study]:
    """Every backbone's tasks: stores of a folder that have the splits TASK-train and TASK-test.

    Splits that are still being written are left out: the same command takes them up when they are there.
    Pretrained backbones come first, and small tasks first: what is told soonest is worth most where time is
    short.
    """
    found = []
    for path in sorted(p.parent for p in features.glob("*/zarr.json")):
        store = pc.open_store(path)
        backbone = re.sub(r"(-\d+px)?\.zarr$", "", path.name).replace("tf_efficientnet_", "")
        for study in (Study(path, backbone, task) for task in TASKS):
            splits = {f"{study.task}-train", f"{study.task}-test"} & set(store.splits)
            if len(splits) == 2 and all(is_finished(store, split) for split in splits):
                found.append(study)
            elif splits:
                print(f"left out, its extraction is not finished: {study.name}", flush=True)
    if not found:
        raise pc.InputError(f"{features} holds no store with splits such as cifar10-train and cifar10-test")
    names = [s.name for s in found]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise pc.InputError(f"{features} holds more than one store of {twice[0]}: keep one image size")
    return sorted(found, key=lambda s: (s.is_control, TASKS.index(s.task), s.backbone))


def is_finished(store: pc.Store, split: str) -> bool:
    """Whether every row of every layer of a split is there."""
    n = store.split_info(split).geometry.n_samples
    return all(store.layer_info(split, layer).complete == n for layer in store.layers_of(split))


def plans(layers: list[str], seeds: int) -> Iterator[dict[str, object]]:
    """Layers, selections and seeds of the sweeps of one store, the most telling first.

    A random projection costs a fit per seed, so one of them comes early and the others late.
    """
    late, chosen = layers[-1], ["random", "pca", "pca-least"]
    yield {"layer": late, "selection": "random", "seeds": seeds}
    yield {"layer": late, "selection": chosen, "seeds": seeds}
    yield {"layer": late, "selection": "randproj", "seeds": 1}
    if len(layers) > 1:
        yield {"layer": layers[:-1], "selection": "random", "seeds": seeds}
    yield {"layer": late, "selection": [*chosen, "randproj", "variance", *GREEDY], "seeds": seeds}


def run(arguments: argparse.Namespace) -> None:
    begun = time.perf_counter()
    out = Path(arguments.out)
    grid = np.geomspace(0.005, 1, 6 if arguments.quick else 20).round(5)
    grid[np.abs(grid - 0.2).argmin()] = 0.2  # the paper's headline is exactly a fifth
    fractions = sorted({*grid.tolist(), *CUTS})
    seeds = 2 if arguments.quick else 5
    everything = find_studies(Path(arguments.features))
    studies = [s for s in everything if s.task in arguments.tasks]
    stores = {s.name: pc.open_store(s.path) for s in everything}
    steps = max((len(list(plans(ordered_layers(stores[s.name]), seeds))) for s in studies), default=0)
    for step in range(steps):
        for study in studies:
            store = stores[study.name]
            todo = list(plans(ordered_layers(store), seeds))
            left = arguments.minutes * 60 - (time.perf_counter() - begun)
            if step >= len(todo) or left <= 0:
                continue
            start = time.perf_counter()
            pc.sweep(
                store,
                **todo[step],
                train=f"{study.task}-train",
                test=f"{study.task}-test",
                fractions=fractions,
                l2=1e-4,
                device=arguments.device,
                out=out / "results" / study.file,
            )
            took = time.perf_counter() - start
            total = time.perf_counter() - begun
            print(f"{total:6.0f} s  {study.name:32} {todo[step]}  {took:.1f} s", flush=True)
    measured = [s for s in everything if (out / "results" / s.file).exists()]
    for study in measured:
        store, target = stores[study.name], out / "cka" / study.file
        if not target.exists():
            split, layer = f"{study.task}-test", ordered_layers(store)[-1]
            save_dataset(cka(store, layer=layer, split=split, fractions=fractions, seeds=seeds), target)
    masses = {}
    for study in measured:
        masses[study.name] = beyond(study, stores[study.name], out, arguments, seeds)
        print(
            f"{time.perf_counter() - begun:6.0f} s  {study.name:32} critical mass, neurons, geometry",
            flush=True,
        )
    summarise(measured, masses, out, arguments)
    print(f"{time.perf_counter() - begun:6.0f} s in all")


def beyond(study: Study, store: pc.Store, out: Path, arguments: argparse.Namespace, seeds: int) -> xr.Dataset:
    """The late layer's critical mass, which is returned; what each neuron does and the geometry, on disk."""
    layer, splits = ordered_layers(store)[-1], {k: f"{study.task}-{k}" for k in ("train", "test")}
    mass = pc.critical_mass(
        store,
        layer=layer,
        delta=DELTAS,
        precision=0.05 if arguments.quick else 0.01,
        seeds=seeds,
        out=out / "critical" / study.file,
        device=arguments.device,
        **splits,
    )
    if not (out / "attribution" / study.file).exists():
        found = pc.attribution(store, layer=layer, l2=RIDGE_L2, **splits)
        save_dataset(found, out / "attribution" / study.file)
    if not (out / "geometry" / study.file).exists():
        save_dataset(
            pc.geometry(store, ordered_layers(store), splits["train"]), out / "geometry" / study.file
        )
    return mass


def summarise(
    studies: list[Study], masses: dict[str, xr.Dataset], out: Path, arguments: argparse.Namespace
) -> None:
    """Report, summary.json, the archive, and the verdicts on stdout; from what is on disk."""
    results, similarities, attributions, shapes = {}, {}, {}, {}
    for study in studies:
        results[study.name] = xr.open_zarr(out / "results" / study.file, consolidated=False).load()
        similarities[study.name] = xr.open_zarr(out / "cka" / study.file, consolidated=False).load()
        attributions[study.name] = xr.open_zarr(out / "attribution" / study.file, consolidated=False).load()
        shapes[study.name] = xr.open_zarr(out / "geometry" / study.file, consolidated=False).load()
    line = (
        f"python -m benchmarks.paper {Path(arguments.features).name} --out STUDY --device {arguments.device}"
    )
    write_report(
        results,
        out / "report",
        similarities=similarities,
        attributions=attributions,
        tasks={s.name: s.task for s in studies},
        title="Diffused redundancy in EfficientNet-Lite features",
        commands=[line, "probecache report STUDY/results/*.zarr STUDY/cka/*.zarr --out REPORT"],
    )
    summary = {
        s.name: outline(s, results[s.name], similarities[s.name])
        | extras(masses[s.name], attributions[s.name], shapes[s.name], results[s.name])
        for s in studies
    }
    summary |= {"geometry and DR": related({s.name: (shapes[s.name], results[s.name]) for s in studies})}
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    if not arguments.quick:
        device = pick_device(arguments.device).type
        print(f"record: {record(f'study-{device}', summary, folder=arguments.record)}")
    with tarfile.open(out / "study.tar.gz", "w:gz") as archive:
        parts = ("results", "critical", "cka", "attribution", "geometry", "summary.json")
        for part in (*parts, "report/tables", "report/figures"):
            archive.add(out / part, arcname=part)
    tell(studies, summary)


def outline(study: Study, results: xr.Dataset, similarity: xr.Dataset) -> dict[str, object]:
    """The numbers of one store for the tables, and its findings."""
    results = usual_task(late_layer_last(results))
    layer = str(results["layer"].values[-1])
    found = redundancy(results, [0.9, 0.95]).sel({"selection": "random"}).squeeze(drop=True)
    main = found.sel(layer=layer) if "layer" in found.dims else found
    curves = results["accuracy"].sel(layer=layer).mean("seed").isel(l2=0, drop=True)
    near = curves.sel(fraction=0.2, method="nearest")
    at = similarity.sel(fraction=0.2, method="nearest")
    done = results["accuracy"].notnull()
    return {
        "image_size": study.image_size,
        "layer": layer,
        "neurons": int(main["layer_size"]),
        "full_accuracy": float(main["full_score"]),
        "accuracy_at_20%": float(near.sel({"selection": "random"})),
        "fraction": float(near["fraction"]),
        "methods_at_20%": {str(m): _plain(near.sel({"selection": m})) for m in near["selection"].values},
        "critical_mass": {str(float(d)): float(main["critical_mass"].sel(delta=d)) for d in (0.9, 0.95)},
        "dr": {str(float(d)): float(main["dr"].sel(delta=d)) for d in (0.9, 0.95)},
        "dr_interval_0.9": [float(main["dr_low"].sel(delta=0.9)), float(main["dr_high"].sel(delta=0.9))],
        "dr_of_layers": {
            str(name): _plain(redundancy(results.sel(layer=name), 0.9)["dr"].sel({"selection": "random"}))
            for name in results["layer"].values
        },
        "cka_at_20%": float(at["cka"].mean()),
        "cka_dr_0.9": float(redundancy(similarity, 0.9)["dr"]),
        "probes": int(done.sum()),
        "probes_not_converged": int((done & (results["converged"].astype(int) == 0)).sum()),
        "seconds": float(results.attrs.get("seconds", np.nan)),
        "findings": [
            {"topic": f.topic, "text": f.text, "claim": f.claim, "agrees": f.agrees}
            for f in findings(results)
        ],
    }


def extras(
    mass: xr.Dataset, neurons: xr.Dataset, shape: xr.Dataset, results: xr.Dataset
) -> dict[str, object]:
    """What the study has beyond the paper's: f* to 1%, the successors' cuts, degrading neurons, geometry."""
    late = usual_task(late_layer_last(results)).isel(layer=-1, l2=0)
    curve = late["accuracy"].sel({"selection": "random"}).mean("seed")
    full = float(curve.sel(fraction=1.0))
    return {
        "critical": {
            str(float(d)): {
                "neurons": float(mass["critical_mass"].sel(delta=d)),
                "interval": [float(mass[f"critical_mass_{end}"].sel(delta=d)) for end in ("low", "high")],
                "dr": float(mass["dr"].sel(delta=d)),
                "dr_interval": [float(mass[f"dr_{end}"].sel(delta=d)) for end in ("low", "high")],
            }
            for d in mass["delta"].values
        },
        "critical_probes": [int(mass.attrs["n_probes"]), int(mass.attrs["n_grid"])],
        "kept_at": {str(cut): float(curve.sel(fraction=cut)) / full for cut in CUTS},
        "neurons_alone": {
            name: float(neurons[name])
            for name in ("full_score", "degrading_share", "helping_share", "degrading_beyond_noise")
        }
        | {"loss_degrading_share": float((neurons["loss_change"] < 0).mean())},
        "geometry": {
            str(layer): {m: float(shape[m].sel(layer=layer)) for m in MEASURES}
            for layer in shape["layer"].values
        },
    }


def related(studies: dict[str, tuple[xr.Dataset, xr.Dataset]]) -> dict[str, object]:
    """Rank correlation of geometry with DR over all layers of all stores, with its interval."""
    drs = {
        name: (shape, redundancy(usual_task(results), 0.9)["dr"].sel({"selection": "random"}).isel(l2=0))
        for name, (shape, results) in studies.items()
    }
    if sum(int(np.isfinite(dr).sum()) for _, dr in drs.values()) < 3:
        return {}
    found = relation(drs)
    rows = {
        str(m): [float(found[v].sel(measure=m)) for v in ("rho", "rho_low", "rho_high")] for m in MEASURES
    }
    return {"layers": found.attrs["points"], "stores": found.attrs["studies"], "rho": rows}


def _plain(value: xr.DataArray) -> float | None:
    """A JSON number; None where nothing was measured."""
    number = float(value.squeeze())
    return number if np.isfinite(number) else None


def tell(studies: list[Study], summary: dict[str, dict]) -> None:
    """The table, then each claim of the paper with the stores that agree and that do not."""
    heads = ("full", "20%", "kept", "mass", "DR 0.9", "DR 0.95", "CKA 20%")
    titles = " ".join(f"{h:>{w}}" for h, w in zip(heads, (7, 7, 6, 6, 7, 8, 8), strict=True))
    print(f"\n{'':32} {titles}  paper's DR 0.9")
    for study in studies:
        s = summary[study.name]
        share = s["accuracy_at_20%"] / s["full_accuracy"]
        low, high = PAPER_DR[study.task]
        print(
            f"{study.name:32} {s['full_accuracy']:7.4f} {s['accuracy_at_20%']:7.4f} {share:6.1%} "
            f"{s['critical_mass']['0.9']:6.0f} {s['dr']['0.9']:7.3f} {s['dr']['0.95']:8.3f} "
            f"{s['cka_at_20%']:8.3f}  "
            f"{low:.2f} to {high:.2f}"
        )
    verdicts: dict[str, dict[bool, list[str]]] = {}
    for study in studies:
        for finding in summary[study.name]["findings"]:
            if finding["agrees"] is not None and not study.is_control:
                verdicts.setdefault(finding["claim"], {True: [], False: []})[finding["agrees"]].append(
                    study.name
                )
    print("\nThe paper's claims, on pretrained backbones:")
    for claim, sides in verdicts.items():
        print(f"- {claim}: agrees on {len(sides[True])}, differs on {len(sides[False])}", end="")
        print(f" ({', '.join(sides[False])})" if sides[False] else "")


def ordered_layers(store: pc.Store) -> list[str]:
    """Layers from early to late, the penultimate one last."""
    return sorted(store.layers, key=lambda name: (name == "penultimate", name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("features", help="folder of stores")
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--minutes", type=float, default=60, help="start no sweep after this time")
    parser.add_argument("--record", type=Path, help="folder of the record (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="6 fractions, 2 seeds")
    run(parser.parse_args())


if __name__ == "__main__":
    warnings.filterwarnings("error", category=xr.SerializationWarning)
    main()
