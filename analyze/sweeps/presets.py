"""Named protocols of the field, as fields of a sweep's plan; what is said beside them wins.

    dinov3         45 values of C, log-spaced from 1e-6 to 1e5, chosen by held-out training rows, refitted on
                   all (facebookresearch/dinov3, eval/log_regression.py: C_POWER_RANGE = linspace(-6, 5, 45))
    clip           96 values of C, log-spaced from 1e-6 to 1e6, chosen on a validation split and refitted on
                   both; give --val (Radford et al. 2021, arXiv 2103.00020, appendix A.3)
    one-percent    1% of each class's rows, as few-label ImageNet protocols take 12,811 of them
                   (Chen et al. 2020, SimCLRv2, arXiv 2006.10029)

C is scikit-learn's and cuML's: l2 = 1 / (C n), n the training rows. DINOv3 holds out a tenth of the rows at
random, we a fifth of each class. Fraction 1 is the protocol itself; smaller ones ask it of fewer neurons.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probecache.analyze.tasks.labels import splits_of
from probecache.store.errors import InputError, close_names

if TYPE_CHECKING:
    from probecache.store.reader import Store

_PENALTIES = {"dinov3": np.logspace(-6, 5, 45), "clip": np.logspace(-6, 6, 96)}  # of C
PRESETS = ("dinov3", "clip", "one-percent")


def with_preset(preset: str, given: Mapping[str, Any], store: "Store") -> dict[str, Any]:
    """A plan's fields with those of a preset where nothing else is said.

    Raises InputError for an unknown name, for --val that is missing, and for splits that are not there.
    """
    if preset not in PRESETS:
        raise InputError(f"got preset {preset!r}; {close_names(preset, PRESETS)}")
    fields: dict[str, Any] = {"fractions": [1.0]}
    if preset == "one-percent":
        return fields | {"shots": ["0.01"]} | dict(given)
    if preset == "clip":
        if given.get("val") is None:
            raise InputError("got preset clip without a validation split; give --val")
        fields["refit"] = "train+val"
    rows = 0
    for split in splits_of(str(given.get("train", "train"))):
        rows += store.split_info(split).geometry.n_samples
    path = 1.0 / (_PENALTIES[preset] * rows)
    chosen: dict[str, Any] = {"l2": "auto"}
    if given.get("l2") in (None, "auto", ["auto"]):  # numbers for l2 win, and leave nothing to choose from
        chosen["l2_path"] = path.tolist()
    return fields | chosen | dict(given)
