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
from typing import Any

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
        raise AttributeError(f"module 'probecache' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"probecache.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, *_MODULES})
