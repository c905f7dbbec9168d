"""`transformers:NAME_OR_PATH`: image models of the transformers library, with the processor that they were
saved with.

The model is what `AutoModel` gives; one that also reads text is called by `get_image_features`. Its images
are resized and cropped by its own processor, so that they are the library's to the last bit, and
normalised on the device.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probecache.extract.backbone.hub import hub_access, no_answer
from probecache.store.errors import InputError, ProbecacheError, first_line

PREFIX = "transformers:"


def load_from_transformers(
    name: str, *, pretrained: bool, seed: int, kwargs: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """(model, settings of its image processor) of `transformers:NAME_OR_PATH`.

    `kwargs` change the configuration. Raises InputError where transformers is not installed, where the name,
    the path, or the processor is not there, or where weights of the model are missing in what is there.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"{name} needs the package transformers: pip install 'probecache[transformers]'"
        ) from error
    where = name.removeprefix(PREFIX)
    options: Any = {"dtype": torch.float32, **kwargs}
    try:
        with _quiet(transformers), hub_access():
            processor = transformers.AutoImageProcessor.from_pretrained(where).to_dict()
            if not pretrained:
                config = transformers.AutoConfig.from_pretrained(where, **kwargs)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    return transformers.AutoModel.from_config(config), processor
            model, report = transformers.AutoModel.from_pretrained(where, output_loading_info=True, **options)
            if _pooler_alone(report["missing_keys"]):
                # Saved with a classifier in the pooler's place: without the pooler, nothing is made up.
                options["add_pooling_layer"] = False
                model, report = transformers.AutoModel.from_pretrained(
                    where, output_loading_info=True, **options
                )
    except OSError as error:
        if Path(where, "config.json").is_file() and "image processor" in str(error):
            raise InputError(
                f"{name!r} was saved without an image processor: save one beside it (save_pretrained); what "
                "a model makes of text is streamed by pc.open_writer (docs/cookbook/text.md)"
            ) from error
        raise ProbecacheError(no_answer(name, error)) from error
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        line = first_line(error)
        raise InputError(f"model {name!r} cannot be built: {type(error).__name__}: {line:.300}") from error
    missing = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if missing:
        raise InputError(
            f"{len(missing)} weights of {name!r} are not in what was saved, first {missing[0]}: they "
            f"would be "
            "random; name a model that was saved whole"
        )
    return model, processor


def _pooler_alone(missing: Any) -> bool:
    return bool(missing) and all(key.startswith("pooler.") for key in missing)


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """transformers without its reports and bars, for a while."""
    talk = transformers.utils.logging
    level, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    logger = logging.getLogger("transformers")
    propagate = logger.propagate
    try:
        yield
    finally:
        talk.set_verbosity(level)
        logger.propagate = propagate
        if bars:
            talk.enable_progress_bar()


@dataclass(frozen=True)
class Processor:
    """The geometry of a transformers image processor, whose settings are `settings`: PIL image -> uint8
    tensor.

    Picklable, for spawned processes.
    """

    settings: Mapping[str, Any]

    def __call__(self, image: Any) -> Tensor:
        made = self._made()(images=image, return_tensors="pt", do_rescale=False, do_normalize=False)
        return made["pixel_values"][0].to(torch.uint8)

    def _made(self) -> Callable[..., Any]:
        import transformers

        found = self.__dict__.get("_kept")
        if found is None:
            with _quiet(transformers):
                kind = getattr(transformers, str(self.settings["image_processor_type"]))
                found = kind.from_dict(dict(self.settings))
            self.__dict__["_kept"] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": dict(self.settings)}


def processor_settings(settings: Mapping[str, Any], img_size: int | None) -> dict[str, Any]:
    """Plain JSON settings of a processor, for square images of `img_size` where that is given."""
    plain = {k: _plain(v) for k, v in settings.items() if v is not None}
    if img_size is not None:
        size, crop = dict(plain.get("size") or {}), plain.get("crop_size")
        side = min(crop["height"], crop["width"]) if crop else None
        if "shortest_edge" in size and side:
            size["shortest_edge"] = round(size["shortest_edge"] * img_size / side)
        else:
            size = {"height": img_size, "width": img_size}
        plain |= {"size": size}
        if crop:
            plain |= {"crop_size": {"height": img_size, "width": img_size}}
    return plain


def processed_size(settings: Mapping[str, Any], channels: int) -> tuple[int, int, int]:
    """(channels, height, width) that a processor makes; InputError where that depends on the image."""
    from PIL import Image

    mode = "L" if channels == 1 else "RGB"
    shapes = {tuple(Processor(settings)(Image.new(mode, size)).shape) for size in ((90, 120), (150, 80))}
    if len(shapes) != 1:
        raise InputError(
            f"the model's processor makes images of several sizes ({', '.join(map(str, sorted(shapes)))}); "
            "images of one size are needed"
        )
    found = next(iter(shapes))
    return found[0], found[1], found[2]


def normalisation(settings: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) such that (x / 255 - mean) / std is what the processor makes of a pixel x."""
    rescale = float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0
    if not settings.get("do_normalize", True):
        return (0.0,) * 3, (1 / (255 * rescale),) * 3
    mean, std = settings["image_mean"], settings["image_std"]
    factor = 255 * rescale
    return tuple(float(m) / factor for m in mean), tuple(float(s) / factor for s in std)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, bool | str) or value is None:
        return value
    return int(value) if int(value) == value else float(value)
