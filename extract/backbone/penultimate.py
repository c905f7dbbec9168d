"""`penultimate`: what the model's classifier receives; the model's own output where it has none.

A classifier is a linear layer (or the module that timm names as one) whose result, as it is or turned into
probabilities, is the model's output: what it was called with, fed through it, gives the output, as the two
passes of `survey` show. Where no result is the output and the model ends otherwise than in features, there is
nothing to be sure of, and the choice is the caller's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probecache.extract.backbone.call import is_transformers, only_input, output_tensors, run_model
from probecache.extract.backbone.survey import Survey, random_pair
from probecache.store.errors import InputError

OUTPUT = "output"
_HEADS = re.compile(r"classif|head|logit|predict|last_linear|^fc\d*$|^output$")


def classifiers(model: nn.Module) -> list[str]:
    """Names of the modules that timm's `get_classifier` gives; [] for other models."""
    get = getattr(model, "get_classifier", None)
    if get is None:
        return []
    try:
        given: Any = get()
    except (AttributeError, TypeError, NotImplementedError):
        return []
    wanted = list(given) if isinstance(given, list | tuple | nn.ModuleList) else [given]
    return [name for name, module in model.named_modules() if any(module is w for w in wanted)]


def find_penultimate(model: nn.Module, found: Survey) -> str:
    """The layer name that `penultimate` stands for: `X.input`, `output`, or `output.KEY`.

    Raises InputError, naming layers to choose from, where that is not sure.
    """
    if len(found.output) != 1:
        if is_transformers(model) and "pooler_output" in found.output:
            return f"{OUTPUT}.pooler_output"
        raise _unsure(model, found, f"the model puts out {len(found.output)} tensors")
    output = next(iter(found.output.values()))
    if output.ndim == 0 or output.shape[0] != 2:
        raise _unsure(model, found, "the model puts out no row per image")
    if output.ndim == 1:  # one number per image, as a head that squeezes gives it
        output = output[:, None]
    named = classifiers(model)
    last = _last(model, found, output, named)
    if last is not None and not _is_vector(output):
        raise _unsure(model, found, f"{last!r} acts on each position")
    if last is not None:
        after = (
            found.leaves[len(found.leaves) - found.leaves[::-1].index(last) :] if last in found.leaves else []
        )
        modules = dict(model.named_modules())
        if last not in named and any(type(modules[name]) is nn.Identity for name in after):
            raise _unsure(model, found, f"{last!r} may be a classifier, or features before one taken out")
        return f"{last}.input"
    modules = dict(model.named_modules())
    if found.leaves and type(modules[found.leaves[-1]]) is nn.Identity:
        return OUTPUT
    if _is_vector(output) and any(_same(product, output) for product in found.products):
        raise _unsure(model, found, "it ends in a product that no linear layer makes")
    heads = _heads(model, found)
    if heads or named:
        raise _unsure(
            model, found, f"{', '.join(sorted({*heads, *named})[:3])} may be a classifier of another kind"
        )
    dense = [
        name for name, made in found.dense.items() if any(_same(m, output) for m in _as_probabilities(made))
    ]
    if dense:
        raise _unsure(
            model, found, f"{dense[-1]!r} may be a classifier of another kind", f"{dense[-1]}.input"
        )
    if (last := _last_weighted(modules, found.leaves)) is not None:
        raise _unsure(model, found, f"it ends in {last!r}, which may be its classifier", f"{last}.input")
    if _through_last(model, found):
        raise _unsure(
            model, found, "it ends otherwise than in a linear layer, after one that all passes through"
        )
    return OUTPUT


def _last(model: nn.Module, found: Survey, output: Tensor, named: list[str]) -> str | None:
    """The module whose result is the model's output: one that timm names, else the last that ran."""
    several = [found.linear[name] for name in named if name in found.linear]
    if len(several) == len(named) > 1 and all(calls == 1 for calls, _, _ in several):
        # Distilled models: two classifiers, of which the mean counts.
        mean = torch.stack([result for _, _, result in several]).mean(0)
        if _same(mean, output) and all(_same(given, several[0][1]) for _, given, _ in several):
            return named[0]
    equal = [
        name
        for name, (calls, given, result) in found.linear.items()
        if calls == 1
        and (name in named or given.ndim < 4 or _is_vector(given))
        and any(_same(made, output) for made in _as_probabilities(result))
    ]
    # timm's module may hold the pooling as well: then it is the linear layer in it.
    vectors = [name for name in equal if name in named and _is_vector(found.linear[name][1])]
    return vectors[0] if vectors else equal[-1] if equal else None


def _is_vector(given: Tensor) -> bool:
    return given.ndim > 1 and given.flatten(1).shape[1] == given.shape[1]


def _as_probabilities(result: Tensor) -> Iterator[Tensor]:
    yield result
    if result.ndim == 2:
        yield from (result.softmax(1), result.log_softmax(1), result.sigmoid())


def _same(a: Tensor, b: Tensor) -> bool:
    if a.numel() != b.numel() or a.shape[0] != b.shape[0]:
        return False
    a, b = (values.reshape(len(values), -1).float() for values in (a, b))  # (n, 1) as well as (n,)
    return torch.allclose(a, b, rtol=1e-5, atol=1e-7, equal_nan=True)


def _heads(model: nn.Module, found: Survey) -> list[str]:
    """Children that are called like a classifier, hold weights and took part in the pass."""
    ran = {name.split(".")[0] for name in found.leaves}
    return [
        name
        for name, child in model.named_children()
        if _HEADS.search(name.lower()) and name in ran and next(child.parameters(), None) is not None
    ]


def _last_weighted(modules: Mapping[str, nn.Module], leaves: Sequence[str]) -> str | None:
    """The last module that holds weights, where it is a convolution of single pixels: classes, pooled
    afterwards, as in SqueezeNet, or features."""
    last = next(
        (name for name in reversed(leaves) if next(modules[name].parameters(), None) is not None), None
    )
    module = None if last is None else modules[last]
    return last if isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1} else None


def _through_last(model: nn.Module, found: Survey) -> bool:
    """Whether all that the output says of the image passes through the last linear layer: swap its input
    between the two images, and see whether the outputs swap."""
    modules = dict(model.named_modules())
    last = next((n for n in reversed(found.leaves) if isinstance(modules[n], nn.Linear)), None)
    if last is None or found.leaves.count(last) > 1:
        return False

    def swap(module: nn.Module, args: Any, kwargs: Any) -> Any:
        given = only_input(args, kwargs)
        if given is None or not args or args[0] is not given or given.shape[0] != 2:
            return None
        return (given.flip(0), *args[1:]), kwargs

    images = random_pair(0, 1, found.channels, found.image, next(model.parameters()).device)
    with torch.no_grad():
        plain = next(iter(output_tensors(run_model(model, images)).values()))
        handle = modules[last].register_forward_pre_hook(swap, with_kwargs=True)
        try:
            swapped = next(iter(output_tensors(run_model(model, images)).values()))
        finally:
            handle.remove()
    return _same(swapped, plain.flip(0))


def _unsure(model: nn.Module, found: Survey, why: str, *others: str) -> InputError:
    modules = dict(model.named_modules())
    heads = [
        n
        for n in found.leaves
        if isinstance(modules[n], nn.Linear) and _HEADS.search(n.split(".")[0].lower())
    ]
    outputs = [OUTPUT] if list(found.output) == [""] else [f"{OUTPUT}.{key}" for key in found.output]
    choice = [*outputs[:4], *(f"{name}.input" for name in dict.fromkeys(heads[-3:]))]
    choice += [name for name in others if name not in choice]
    return InputError(
        f"the penultimate layer of {type(model).__qualname__} is not sure: {why}; choose with --layers, for "
        f"example {', '.join(choice)} (probecache layers lists more)"
    )
