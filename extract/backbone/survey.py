"""What a model does with images: run twice on pairs of random ones, watched from outside.

Of each module that is asked about: how often it runs, what it puts out, whether that depends on the image and
on nothing else. Of the pass as a whole: which tokens join the sequence of patches, at which sizes there are
maps, and which modules' results are the model's output. Layouts and the penultimate layer are read off this
rather than off names.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probecache.extract.backbone.call import only_input, only_tensor, output_tensors, run_model
from probecache.store.errors import InputError, first_line

SMALL = 1 << 16  # values per image up to which a result is kept, as that of a classifier may be
PROBED = 4096  # values per image that two passes are compared on


@dataclass(frozen=True)
class Join:
    """Tokens put together along axis 1 to sequences of `tokens`. `prefix` of them, at the front, are none of
    the image; None where that cannot be told."""

    tokens: int
    prefix: int | None


@dataclass
class Seen:
    """One module, or one output of the model, in the pass.

    `shape` leaves out the batch axis and is None where there is no single tensor with a row per image;
    `joins` is how many joins had happened when it was done.
    """

    calls: int = 0
    shape: tuple[int, ...] | None = None
    problem: str = ""
    joins: int = 0
    probe: Tensor | None = None
    tolerance: float = 1e-3

    def take(self, output: Tensor | None, parts: Sequence[tuple[int, ...]], joins: int) -> None:
        self.calls += 1
        self.joins = joins
        if output is None:
            shapes = ", ".join("x".join(map(str, shape[1:])) for shape in parts) or "none"
            self.problem = f"puts out {len(parts)} tensors ({shapes})" if parts else "puts out no tensor"
        elif output.ndim == 0 or output.shape[0] != 2:
            self.problem = f"puts out {tuple(output.shape)} for two images: no row per image"
        elif output.layout != torch.strided:
            self.problem = "puts out a sparse tensor"
        elif output.ndim == 1:
            self.problem = "puts out one number per image, no vector"
        elif not output.is_floating_point():
            self.problem = f"puts out {output.dtype}, no real numbers"
        else:
            self.shape = tuple(output.shape[1:])
            rows = output.detach().flatten(1)
            step = max(1, rows.shape[1] // PROBED)
            self.probe = rows[:, ::step].to(torch.float32, copy=True)
            self.tolerance = max(self.tolerance, 4 * torch.finfo(output.dtype).eps)
            if not torch.isfinite(rows).any():
                self.problem = "puts out nothing but NaN and infinite values for images of noise"
            elif torch.equal(rows[0], rows[1]):
                self.problem = "puts out the same for two different images: it does not depend on the image"


@dataclass
class Survey:
    """What `survey` found. `linear`: results of linear modules, small ones, in the order of their calls;
    `dense`: those of other modules that take a vector to one that is as a linear layer's may be."""

    seen: dict[str, Seen]
    outputs: dict[str, Seen]
    output: dict[str, Tensor]
    channels: int
    image: tuple[int, int]
    leaves: list[str]
    linear: dict[str, tuple[int, Tensor, Tensor]]
    joins: list[Join] = field(default_factory=list)
    maps: set[tuple[int, int]] = field(default_factory=set)
    channels_last: set[tuple[int, ...]] = field(default_factory=set)
    products: list[Tensor] = field(default_factory=list)
    dense: dict[str, Tensor] = field(default_factory=dict)


def survey(
    model: nn.Module, names: Iterable[str], image: tuple[int, int], channels: int, classifiers: Iterable[str]
) -> Survey:
    """Run `model` on two pairs of random images and report on the modules `names`.

    A name `X.input` stands for what module X is called with. `classifiers` are modules whose results are kept
    beside those of the linear ones. Raises InputError where the model does not run on such images.
    """
    names = list(dict.fromkeys(names))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    first, second = (random_pair(0, other, channels, image, device) for other in (1, 2))
    found = _watch(model, names, first, set(classifiers))
    again = _watch(model, names, second, set())
    for one, two in [(found.seen[n], again.seen[n]) for n in names] + [
        (found.outputs[key], again.outputs[key]) for key in found.outputs if key in again.outputs
    ]:
        if not one.problem and one.probe is not None and two.probe is not None and _moved(one, two):
            one.problem = "gives an image other values beside another image, or in another pass"
    return found


def _moved(one: Seen, two: Seen) -> bool:
    assert one.probe is not None
    assert two.probe is not None
    if one.shape != two.shape:
        return True
    a, b = one.probe[0], two.probe[0]
    scale = float(a.abs().nan_to_num(0.0).max())
    return bool(((a - b).abs().nan_to_num(0.0) > one.tolerance * scale).any())


def random_pair(a: int, b: int, channels: int, image: tuple[int, int], device: torch.device) -> Tensor:
    """Two images of noise, made under the seeds `a` and `b`: float32 (2, channels, height, width)."""
    one, two = (
        torch.randn(channels, *image, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        for seed in (a, b)
    )
    return torch.stack([one, two]).to(device)


def _watch(model: nn.Module, names: Sequence[str], images: Tensor, classifiers: set[str]) -> Survey:
    """One pass over `images`, and what was seen of it."""
    image = (images.shape[2], images.shape[3])
    recorder = _Recorder(_special_tokens(model), image)
    notes = _Notes(names, recorder)
    handles = notes.attach(dict(model.named_modules()), classifiers)
    try:
        with torch.no_grad(), recorder:
            output = output_tensors(run_model(model, images))
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError) as error:
        raise _does_not_run(images, error) from error
    finally:
        for handle in handles:
            handle.remove()
    outputs = {key: Seen() for key in output}
    for key, tensor in output.items():
        outputs[key].take(tensor, [], len(recorder.joins))
    return Survey(
        notes.seen,
        outputs,
        output,
        images.shape[1],
        image,
        notes.leaves,
        notes.linear,
        recorder.joins,
        recorder.maps,
        recorder.channels_last,
        list(recorder.products),
        notes.dense,
    )


def _does_not_run(images: Tensor, error: Exception) -> InputError:
    _, channels, height, width = images.shape
    line = first_line(error)
    todo = (
        "see --img-size and --in-chans; what a model makes of other inputs than images is streamed by "
        "pc.open_writer (docs/cookbook/own_model.md)"
    )
    if "input_ids" in line:
        todo = "what a model makes of text is streamed by pc.open_writer (docs/cookbook/text.md)"
    return InputError(f"the model does not run on {channels}x{height}x{width} images: {line}; {todo}")


class _Notes:
    """What hooks note of one pass: the modules asked about, linear ones and others with weights, leaves."""

    def __init__(self, names: Sequence[str], recorder: "_Recorder") -> None:
        self.seen = {name: Seen() for name in names}
        self.leaves: list[str] = []
        self.linear: dict[str, tuple[int, Tensor, Tensor]] = {}
        self.dense: dict[str, Tensor] = {}
        self._recorder = recorder

    def attach(self, modules: Mapping[str, nn.Module], classifiers: set[str]) -> list[Any]:
        """Hooks on all modules; their handles."""
        handles: list[Any] = []
        for name in self.seen:
            if name in modules:
                handles.append(modules[name].register_forward_hook(partial(self._after, name)))
            else:
                module = modules[name.removesuffix(".input")]
                hook = partial(self._before, name)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        for name, module in modules.items():
            if name in classifiers or isinstance(module, nn.Linear | nn.Conv2d):
                handles.append(module.register_forward_hook(partial(self._keep, name), with_kwargs=True))
            elif name:
                handles.append(module.register_forward_hook(partial(self._weigh, name), with_kwargs=True))
            if next(module.children(), None) is None:
                handles.append(module.register_forward_hook(partial(self._ended, name)))
        return handles

    def _after(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        tensor = only_tensor(module, output)
        parts = [] if tensor is not None else [tuple(t.shape) for t in output_tensors(output).values()]
        self.seen[name].take(tensor, parts, len(self._recorder.joins))

    def _before(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.seen[name].take(only_input(args, kwargs), [], len(self._recorder.joins))

    def _keep(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given, result = only_input(args, kwargs), only_tensor(module, output)
        if given is not None and result is not None and result.numel() <= SMALL * 2:
            calls = self.linear.pop(name, (0,))[0] + 1
            self.linear[name] = calls, given.detach().clone(), result.detach().clone()

    def _weigh(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given, result = only_input(args, kwargs), only_tensor(module, output)
        if given is None or result is None or given.ndim != 2 or result.ndim != 2:
            return
        weighs = any(p.ndim > 1 for p in module.parameters(recurse=False))
        if result.numel() <= SMALL * 2 and (weighs or given.shape[1] != result.shape[1]):
            self.dense.pop(name, None)
            self.dense[name] = result.detach().clone()

    def _ended(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self.leaves.append(name)


def _special_tokens(model: nn.Module) -> set[int]:
    """How many tokens the model may put before the patches: each class, distillation or register parameter's
    count, and their sum where they go in together."""
    counts = []
    for name, parameter in model.named_parameters():
        leaf = name.split(".")[-1].lower()
        if any(word in leaf for word in ("cls", "class", "dist_token", "reg_token", "register", "storage")):
            counts.append(parameter.shape[-2] if parameter.ndim > 1 else 1)
    return {*counts, sum(counts)} - {0}


class _Recorder(TorchFunctionMode):
    """Notes what joins sequences, makes maps and acts on last axes, by whatever code it is called."""

    def __init__(self, special: set[int], image: tuple[int, int]) -> None:
        super().__init__()
        self.special, self.image = special, image
        self.joins: list[Join] = []
        self.maps: set[tuple[int, int]] = set()
        self.channels_last: set[tuple[int, ...]] = set()
        self.products: deque[Tensor] = deque(maxlen=4)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in ("cat", "concat", "concatenate"):
            self._cat(*args, **(kwargs or {}))
        elif name in ("linear", "layer_norm", "rms_norm") and isinstance(result, Tensor):
            self.channels_last.add(tuple(result.shape[1:]))
            self.channels_last.add(tuple(args[0].shape[1:]))
        elif name in _MAPS and isinstance(result, Tensor) and result.ndim == 4:
            self.maps.add((int(result.shape[2]), int(result.shape[3])))
        if name in _PRODUCTS and isinstance(result, Tensor) and result.numel() <= 2 * SMALL:
            self.products.append(result.detach().clone())
        return result

    def _cat(self, tensors: Any, dim: int = 0, **_: Any) -> None:
        pieces = list(tensors)
        if len(pieces) < 2 or dim not in (1, -2) or any(p.ndim != 3 or p.shape[0] != 2 for p in pieces):
            return
        pieces = [p for p in pieces if p.shape[1]]
        self.joins.append(Join(sum(p.shape[1] for p in pieces), self._prefix(pieces)))

    def _prefix(self, pieces: Sequence[Tensor]) -> int | None:
        fixed = [torch.equal(p[0], p[1]) for p in pieces]
        front = next((i for i, f in enumerate(fixed) if not f), len(pieces))
        if front == len(pieces) or any(fixed[front:]):
            return None
        count = sum(p.shape[1] for p in pieces[:front])
        if front == len(pieces) - 1:
            return count
        # The front tokens have seen the image by now: known by their number, and by the grid behind them.
        count += pieces[front].shape[1]
        rest = sum(p.shape[1] for p in pieces[front + 1 :])
        return count if count in self.special and grid_of(rest, self.image) else None


_PRODUCTS = ("linear", "matmul", "__matmul__", "mm", "addmm", "conv2d")
_MAPS = {
    "conv2d",
    "batch_norm",
    "group_norm",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "interpolate",
    "pixel_unshuffle",
    "pixel_shuffle",
    "_max_pool2d",
}


def grid_of(positions: int, image: tuple[int, int]) -> tuple[int, int] | None:
    """(rows, columns) where `positions` cells fill a grid of the image's proportions."""
    if positions <= 0:
        return None
    rows = round(math.sqrt(positions * image[0] / image[1]))
    if rows > 0 and positions % rows == 0 and same_ratio(rows, positions // rows, image):
        return rows, positions // rows
    return None


def same_ratio(height: int, width: int, image: tuple[int, int]) -> bool:
    """Whether a map has the image's proportions; strides round up, so each side may be off by one cell."""
    if image[0] == image[1]:
        return height == width
    return abs(height * image[1] - width * image[0]) < max(image)
