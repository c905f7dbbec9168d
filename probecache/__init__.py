"""probecache: extract a frozen backbone's features once, then probe them thousands of times.

    import probecache as pc
    store = pc.extract_features(model="resnet50", data_dir="photos/", split="train", layers=["penultimate"],
                                out="features.zarr")
    results = pc.sweep(store, layer="penultimate", train="train", test="test", fractions=[0.05, 0.2, 1.0])
    pc.redundancy(results, delta=0.9)

The names below are imported when first used, so that reading a store never imports a backbone.
`extract`, `store` and `analyze` are links to the folders of the same name at the top of the repository.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see of the names that are imported when first used
    from probecache.__main__ import main as main
    from probecache.analyze import plot as plot
    from probecache.analyze.attribution.attribution import attribution as attribution
    from probecache.analyze.comparison.compare import compare as compare
    from probecache.analyze.findings.critical.critical_mass import critical_mass as critical_mass
    from probecache.analyze.findings.redundancy import redundancy as redundancy
    from probecache.analyze.geometry.geometry import geometry as geometry
    from probecache.analyze.metrics import register_metric as register_metric
    from probecache.analyze.probes.deploy import fit_probe as fit_probe
    from probecache.analyze.probes.estimators import (
        LogisticProbe as LogisticProbe,
    )
    from probecache.analyze.probes.estimators import (
        RidgeProbe as RidgeProbe,
    )
    from probecache.analyze.probes.estimators import (
        RidgeRegressor as RidgeRegressor,
    )
    from probecache.analyze.probes.fitted import FittedProbe as FittedProbe
    from probecache.analyze.probes.fitted import load_probe as load_probe
    from probecache.analyze.probes.registry import register_probe as register_probe
    from probecache.analyze.results.join import concat as concat
    from probecache.analyze.results.join import open_results as open_results
    from probecache.analyze.results.join import tidy as tidy
    from probecache.analyze.similarity.cka import cka as cka
    from probecache.analyze.similarity.compare import similarity as similarity
    from probecache.analyze.sweeps.sweep import sweep as sweep
    from probecache.extract.run import extract_features as extract_features
    from probecache.store.errors import (
        DamagedStore as DamagedStore,
    )
    from probecache.store.errors import (
        FingerprintMismatch as FingerprintMismatch,
    )
    from probecache.store.errors import (
        InputError as InputError,
    )
    from probecache.store.errors import (
        NotAStore as NotAStore,
    )
    from probecache.store.errors import (
        ProbecacheError as ProbecacheError,
    )
    from probecache.store.errors import (
        UnfinishedSplit as UnfinishedSplit,
    )
    from probecache.store.importing.arrays import write_arrays as write_arrays
    from probecache.store.importing.features import import_features as import_features
    from probecache.store.importing.targets import write_targets as write_targets
    from probecache.store.reader import Store as Store
    from probecache.store.reader import open_store as open_store
    from probecache.store.streaming.open import open_writer as open_writer

__version__ = "0.2.0"

# Public name -> module that defines it.
_PUBLIC = {
    "DamagedStore": "store.errors",
    "FingerprintMismatch": "store.errors",
    "InputError": "store.errors",
    "NotAStore": "store.errors",
    "ProbecacheError": "store.errors",
    "UnfinishedSplit": "store.errors",
    "Store": "store.reader",
    "open_store": "store.reader",
    "open_writer": "store.streaming.open",
    "write_arrays": "store.importing.arrays",
    "import_features": "store.importing.features",
    "write_targets": "store.importing.targets",
    "main": "__main__",
    "extract_features": "extract.run",
    "attribution": "analyze.attribution.attribution",
    "cka": "analyze.similarity.cka",
    "compare": "analyze.comparison.compare",
    "critical_mass": "analyze.findings.critical.critical_mass",
    "geometry": "analyze.geometry.geometry",
    "FittedProbe": "analyze.probes.fitted",
    "fit_probe": "analyze.probes.deploy",
    "load_probe": "analyze.probes.fitted",
    "LogisticProbe": "analyze.probes.estimators",
    "RidgeProbe": "analyze.probes.estimators",
    "RidgeRegressor": "analyze.probes.estimators",
    "redundancy": "analyze.findings.redundancy",
    "similarity": "analyze.similarity.compare",
    "register_metric": "analyze.metrics",
    "register_probe": "analyze.probes.registry",
    "concat": "analyze.results.join",
    "open_results": "analyze.results.join",
    "sweep": "analyze.sweeps.sweep",
    "tidy": "analyze.results.join",
}
__all__ = sorted(_PUBLIC)
_MODULES = {"plot": "analyze.plot"}  # public too, as modules


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"probecache.{_MODULES[name]}")
    if name not in _PUBLIC:
        has = ", ".join(sorted({*__all__, *_MODULES}))
        text = f"module 'probecache' has no attribute {name!r}; it has {has}"
        raise AttributeError(text, name=name, obj=sys.modules[__name__])  # Python adds "Did you mean"
    value = getattr(importlib.import_module(f"probecache.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    ours = {name for name in globals() if name.startswith("__")}
    return sorted({*ours, *_PUBLIC, *_MODULES})
