""".pt, with weights_only, and .safetensors: tensors are mapped and sliced, bfloat16 bit by bit."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError, first_line
from probecache.store.importing.formats.matrix import Matrix, missing_library, pick
from probecache.store.layout import DTYPES
from probecache.store.writing.cast import numpy_of

Array = np.ndarray[Any, Any]


class Tensor:
    """A torch tensor, or a slice of a safetensors file, as a matrix."""

    def __init__(self, tensor: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._tensor, self.shape, self.dtype = tensor, shape, dtype

    def __getitem__(self, rows: slice) -> Array:
        return numpy_of(self._tensor[rows])


def open_pt(path: Path, key: str | None) -> Matrix:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sparse tensors, which are refused below
            try:
                found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap" not in str(error):
                    raise
                found = torch.load(path, map_location="cpu", weights_only=True)  # torch's older format
    except Exception as error:  # bytes of another kind make the reader fail in any way
        reason = first_line(error)
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            reason = "it holds more than tensors: save the tensor itself, or a dict of tensors"
        raise InputError(f"{str(path)!r} holds no tensors ({reason:.120})") from None
    if isinstance(found, torch.Tensor):
        if key is not None:
            raise InputError(f"{str(path)!r} holds one tensor: leave :{key} out")
    else:
        if isinstance(found, list | tuple):
            raise InputError(f"{str(path)!r} holds a {type(found).__name__}: save one tensor (torch.stack)")
        tensors = (
            {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)}
            if isinstance(found, dict)
            else {}
        )
        found = tensors[pick(list(tensors), key, repr(str(path)), "tensor")]
    if found.is_meta:
        raise InputError(f"{str(path)!r} holds a tensor without values (device meta): save it with them")
    if found.is_quantized:
        raise InputError(f"{str(path)!r} holds a quantised tensor: save its .dequantize()")
    if found.is_sparse or found.layout != torch.strided:
        raise InputError(f"{str(path)!r} holds a {found.layout} tensor: make it dense first")
    return Tensor(found, tuple(found.shape), _dtype(str(found.dtype).removeprefix("torch."), path))


def open_safetensors(path: Path, key: str | None) -> Matrix:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise missing_library(repr(str(path)), "safetensors") from None
    try:
        opened = safe_open(path, framework="pt")
        found = opened.get_slice(pick(sorted(opened.keys()), key, repr(str(path)), "tensor"))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{str(path)!r} is no safetensors file ({first_line(error):.120})") from None
    kind = found.get_dtype()
    names = {"BF16": "bfloat16", "BOOL": "bool"}
    long = {"F": "float", "I": "int", "U": "uint"}
    name = names.get(kind) or long.get(kind[0], kind[0]) + kind[1:]
    return Tensor(found, tuple(found.get_shape()), _dtype(name, path))


def _dtype(name: str, path: Path) -> np.dtype[Any]:
    if name == "bfloat16":
        return DTYPES["bfloat16"]
    try:
        if not name.startswith("float8"):  # of which numpy knows some, and scales lie beside them
            return np.dtype(name)
        raise TypeError
    except TypeError:
        raise InputError(f"{str(path)!r} holds {name}: no numpy dtype is like it, convert it first") from None
