"""Everything that an extraction needs before its first batch: data, backbone, layers, device, fingerprint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from probecache.extract.backbone.features import DTYPES, Feature, Features, plan_features
from probecache.extract.backbone.layers import describe_layers, resolve_layers
from probecache.extract.backbone.load import Backbone, load_backbone
from probecache.extract.datasets.images import Images, content_asked
from probecache.extract.datasets.open import open_images
from probecache.extract.datasets.preprocess import Preprocess, resolve_preprocess
from probecache.extract.distributed import ALONE, Place
from probecache.extract.pipeline.device import Compute, choose_compute
from probecache.extract.pipeline.loader import default_workers
from probecache.extract.settings import Settings
from probecache.store.errors import ProbecacheError
from probecache.store.fingerprint import Fingerprint
from probecache.store.layout import LayerSpec
from probecache.store.reader import open_store


@dataclass(frozen=True)
class Setup:
    """What `prepare` found; no image has been decoded, but for a few items of a torch Dataset."""

    settings: Settings
    backbone: Backbone
    images: Images
    preprocess: Preprocess
    compute: Compute
    features: tuple[Feature, ...]

    @property
    def n_samples(self) -> int:
        return min(len(self.images), self.settings.limit or len(self.images))

    @property
    def workers(self) -> int:
        """Processes that decode: as asked for, else by the cores; one at most for a stream."""
        asked = self.settings.workers
        count = default_workers(self.compute.device.type) if asked is None else asked
        return min(count, 1) if self.images.sequential else count

    def fingerprint(self) -> Fingerprint:
        """Backbone, computation and data, without paths and without what only decides speed."""
        # Pillow is what stores without a decoder were made by.
        decoder = {} if self.settings.decoder == "pillow" else {"decoder": self.settings.decoder}
        versions = {name: version(name) for name in ("torch", "torchvision", "pillow", *decoder.values())}
        compute = {
            **decoder,
            **self.compute.fingerprint(),
            "preprocess": self.preprocess.fingerprint(),
            "versions": versions,
        }
        return Fingerprint(
            backbone=self.backbone.fingerprint(),
            compute=compute,
            data={**self.images.fingerprint(), "split": self.settings.split},
        )

    def specs(self, batch_sizes: Mapping[str, int]) -> list[LayerSpec]:
        """The layers as the store writes them. The batch size is part of a layer: it shows in the last bits,
        in low precision in more of them."""
        return [
            LayerSpec(
                name=feature.name,
                neurons=feature.neurons,
                dtype=self.settings.dtype,
                attrs={
                    "layer": feature.layer.name,
                    "pool": feature.pool,
                    "layout": feature.layer.layout.kind,
                    "shape": list(feature.layer.layout.kept_shape(feature.pool)),
                    "batch_size": batch_sizes[feature.name],
                },
            )
            for feature in self.features
        ]


def prepare(
    model: str | nn.Module,
    dataset: "str | Dataset[Any]",
    settings: Settings,
    place: Place = ALONE,
    out: str | Path | None = None,
) -> Setup:
    """Open the data, build the backbone and resolve its layers. Raises InputError for whatever does not
    exist. The images are digested as those of the split in the store `out` were, if it is there."""
    how = content_asked(settings.content, stored_data(out).get(settings.split, {}).get("content"))
    images = open_images(
        dataset,
        settings.data_dir,
        settings.split,
        replace(settings.choices, digested=how),
        download=settings.download,
        in_process=settings.workers == 0,
        decoder=settings.decoder,
    )
    backbone = load_backbone(
        model,
        pretrained=settings.pretrained,
        checkpoint=settings.checkpoint,
        model_kwargs=settings.model_kwargs,
        img_size=settings.img_size,
        in_chans=settings.in_chans,
        seed=settings.seed,
    )
    overrides = settings.overrides
    if overrides.in_chans is None:
        overrides = replace(overrides, in_chans=settings.model_kwargs.get("in_chans"))
    preprocess = resolve_preprocess(backbone.model, overrides, backbone.processor)
    names = resolve_layers(backbone.model, settings.layers)
    layers = describe_layers(backbone.model, names, preprocess.image, preprocess.input_size[0])
    compute = choose_compute(
        backbone.model,
        place.device(settings.device),
        settings.amp_dtype,
        settings.channels_last,
        settings.torchcompile,
    )
    return Setup(settings, backbone, images, preprocess, compute, tuple(plan_features(layers, settings.pool)))


def stored_data(out: str | Path | None) -> dict[str, Mapping[str, Any]]:
    """What the store `out` says of the data of its splits; {} where there is none. What is wrong with a store
    is said by who writes to it."""
    try:
        store = None if out is None else open_store(out, partial=True)
        return {} if store is None else {name: store.split_info(name).data for name in store.splits}
    except ProbecacheError:
        return {}


def build_features(setup: Setup, wanted: Sequence[Feature]) -> Features:
    """The backbone on its device, hooked to give `wanted` in the stored dtype."""
    features = Features(
        setup.backbone.model,
        wanted,
        setup.preprocess.mean,
        setup.preprocess.std,
        DTYPES[setup.settings.dtype],
        stop_early=setup.compute.torchcompile is None,
        channels_last=setup.compute.channels_last,
    )
    features.eval().to(setup.compute.device)
    if setup.compute.channels_last:
        features.to(memory_format=torch.channels_last)
    return features
