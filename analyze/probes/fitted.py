"""One fitted probe, out of the tool: weights in the features' own units, and a file that says whence.

The file is safetensors: `coef` float64 (c, k), `intercept` float64 (c,), `neurons` int64 (k,), and texts as
metadata; docs/cookbook/deploy_probe.md reads it without this package. A checksum over all of it is among the
metadata, so that a changed bit is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probecache.analyze.metrics.scores import log_probabilities
from probecache.analyze.probes.registry import get_kind
from probecache.store.errors import DamagedStore, InputError
from probecache.store.storage.replace_file import replaced_file
from probecache.store.storage.safe_read import require_readable

FORMAT = "probecache probe 1"
_OWN = ("format", "kind", "classes", "probe", "layer_size", "checksum")  # metadata that is no provenance


@dataclass(frozen=True, eq=False)
class FittedProbe:
    """scores = X[:, neurons] coef' + intercept, for features X (n, layer_size) as they are stored.

    Parameters
    ----------
    neurons : int64 (k,)
        Columns of the layer.
    coef : float64 (c, k)
        In the features' own units; c is 1 for two classes (above 0: the second), else one for each of
        `classes`.
    intercept : float64 (c,)
    classes : tuple of str
        Names of classes, labels or columns.
    layer_size : int
        Neurons of the layer.
    kind : str
        Of the target: "classes", "labels" or "numbers".
    probe : str
        Kind of probe: "logistic", "ridge" or "sgd".
    provenance : {str: str}
        What the file says of its making: store, digest, backbone, layer, l2, ...

    Raises
    ------
    InputError
        Where the parts do not fit each other; from `predict`, for features of another width, NaN or infinite.

    Examples
    --------
    >>> probe = pc.fit_probe("features.zarr", layer="late", l2=1e-2)
    >>> probe.predict_proba(np.zeros((1, 8))).shape
    (1, 3)
    """

    neurons: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray
    classes: tuple[str, ...]
    layer_size: int
    kind: str = "classes"
    probe: str = "logistic"
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fix = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        fix("neurons", np.ascontiguousarray(self.neurons, np.int64))
        fix("coef", np.ascontiguousarray(self.coef, np.float64))
        fix("intercept", np.ascontiguousarray(self.intercept, np.float64))
        outputs, k = len(self.classes), len(self.neurons)
        allowed = {1, 2} if self.kind == "classes" and outputs == 2 else {outputs}
        if self.coef.shape != (len(self.intercept), k) or self.coef.shape[0] not in allowed:
            raise InputError(
                f"got weights {self.coef.shape}, intercepts {self.intercept.shape}, {k} neurons and "
                f"{outputs} {self.kind}; they must fit each other"
            )
        if k and not 0 <= self.neurons.min() <= self.neurons.max() < self.layer_size:
            raise InputError(f"got neurons {self.neurons.min()} to {self.neurons.max()} of {self.layer_size}")

    def __repr__(self) -> str:
        where = f", {self.provenance['layer']}" if "layer" in self.provenance else ""
        return (
            f"FittedProbe({self.probe}{where}, {len(self.neurons)} of {self.layer_size} neurons, "
            f"{len(self.classes)} {self.kind})"
        )

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores float64 (n, c), or (n,) where c is 1. X: (n, layer_size), all neurons of the layer."""
        if isinstance(X, torch.Tensor):  # numpy has no bfloat16, and reads no other device
            X = X.detach().to("cpu", torch.float32 if X.dtype == torch.bfloat16 else X.dtype)
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != self.layer_size or X.dtype.kind not in "fiuV":
            raise InputError(
                f"got features {X.dtype} {X.shape}; needed: (samples, {self.layer_size}), all neurons of the "
                "layer: the probe picks its own"
            )
        return self.scores_of(X[:, self.neurons])

    def scores_of(self, X: np.ndarray) -> np.ndarray:
        """`decision_function` where X, (n, k), holds the columns `neurons` already, in their order."""
        with np.errstate(invalid="ignore"):
            scores = X.astype(np.float64) @ self.coef.T + self.intercept
        wrong = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        if len(wrong):
            raise InputError(f"got NaN or infinite features in {len(wrong)} rows, first row {wrong[0]}")
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> np.ndarray:
        """Positions in `classes`, int64 (n,); labels int8 (n, t), 0 or 1; numbers float64 (n, t) or (n,).

        X: (n, layer_size), all neurons of the layer.
        """
        return self.decide(self.decision_function(X))

    def decide(self, scores: np.ndarray) -> np.ndarray:
        """What `predict` gives for these scores."""
        if self.kind == "numbers":
            return scores
        if self.kind == "labels":
            return (scores > 0).astype(np.int8).reshape(len(scores), -1)
        return (scores > 0).astype(np.int64) if scores.ndim == 1 else scores.argmax(axis=1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities float64: of the classes (n, c), of each label (n, t). X: (n, layer_size).

        Raises InputError for a ridge probe and for numbers, which have none.
        """
        self.check_probabilities()
        return self.probabilities(self.decision_function(X))

    def check_probabilities(self) -> None:
        if self.kind == "numbers" or not get_kind(self.probe).probabilities:
            raise InputError(f"got a {self.probe} probe of {self.kind}, which has scores, not probabilities")

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """What `predict_proba` gives for these scores."""
        rows = torch.from_numpy(scores.reshape(len(scores), -1).T[None])  # (1, c, n)
        if self.kind == "labels":
            return torch.sigmoid(rows)[0].T.numpy()
        return log_probabilities(rows).exp()[0].T.numpy()

    def save(self, path: str | Path) -> None:
        """Write the probe, whole or not at all, in place of a file that is there."""
        from safetensors.numpy import save

        tensors = {"coef": self.coef, "intercept": self.intercept, "neurons": self.neurons}
        about = {str(name): str(value) for name, value in self.provenance.items() if name not in _OWN} | {
            "format": FORMAT,
            "kind": self.kind,
            "classes": json.dumps(self.classes),
            "probe": self.probe,
            "layer_size": str(self.layer_size),
        }
        about["checksum"] = _checksum(tensors, about)
        with replaced_file(Path(path).expanduser()) as made:
            made.write_bytes(save(tensors, about))


def load_probe(path: str | Path) -> FittedProbe:
    """The probe that `FittedProbe.save` or `probecache fit` wrote, its checksum verified.

    Parameters
    ----------
    path : str or Path
        A safetensors file.

    Returns
    -------
    FittedProbe

    Raises
    ------
    InputError
        For a file that is no probe.
    DamagedStore
        Where it changed since it was written.

    Examples
    --------
    >>> pc.fit_probe("features.zarr", layer="late").save("probe.safetensors")
    >>> pc.load_probe("probe.safetensors").classes
    ('cat', 'dog', 'hen')
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path).expanduser()
    require_readable(path, "probe")  # the library would wait for a FIFO
    if path.is_dir():
        raise InputError(f"got {path}, which is a folder; give a file of probecache fit")
    try:
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise InputError(
            f"got {path}, which cannot be read: {error}; give a file of probecache fit"
        ) from None
    except (SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"got {path}, which is no probe file, or is damaged: {reason}; give a file of probecache fit"
        ) from None
    if about.get("checksum") != _checksum(tensors, about):
        if about.get("format") != FORMAT and "checksum" not in about:
            raise InputError(f"got {path}, which holds no probe; give a file of probecache fit")
        raise DamagedStore(f"{path} changed since it was written: its checksum differs; fit the probe again")
    return FittedProbe(
        tensors["neurons"],
        tensors["coef"],
        tensors["intercept"],
        tuple(json.loads(about["classes"])),
        int(about["layer_size"]),
        about["kind"],
        about["probe"],
        {name: value for name, value in sorted(about.items()) if name not in _OWN},
    )


def _checksum(tensors: Mapping[str, np.ndarray], about: Mapping[str, str]) -> str:
    """BLAKE2b of names, types, shapes and bytes of the tensors, and of the metadata."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        found.update(np.ascontiguousarray(tensor).tobytes())
    rest = {name: value for name, value in about.items() if name != "checksum"}
    found.update(json.dumps(rest, sort_keys=True).encode())
    return found.hexdigest()
