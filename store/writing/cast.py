"""Values as they are given, in a layer's stored dtype; what that loses is counted and refused."""

import logging
from typing import Any

import ml_dtypes
import numpy as np

from probecache.store.errors import InputError, ProbecacheError, first_line
from probecache.store.layout import DTYPES

Array = np.ndarray[Any, Any]
LOGGER = logging.getLogger("probecache.store")
_LOST = 0.01  # of a layer's neurons may be too small for the stored dtype


def as_numpy(value: Any, what: str) -> Array:
    """An array, or a torch tensor of any device and dtype, as numpy's."""
    try:
        array = numpy_of(value) if hasattr(value, "detach") else np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # torch's, of sparse tensors
        raise InputError(f"{what} is no array ({first_line(error):.80})") from None
    if array.ndim == 0 or (array.dtype.kind not in "fiub" and array.dtype != DTYPES["bfloat16"]):
        raise InputError(f"{what} is {array.dtype} {array.shape}: use numbers, one row per sample")
    return array


def numpy_of(tensor: Any) -> Array:
    """The values of a tensor of any device, its bits kept."""
    import torch

    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        return np.asarray(tensor.contiguous().view(torch.uint16).numpy().view(DTYPES["bfloat16"]))
    return np.asarray(tensor.numpy())


def cast_rows(values: Array, dtype: str) -> Array:
    """`values` in the stored dtype; overflow becomes infinite, and is counted by the moments."""
    if values.dtype.kind not in "fiu" and values.dtype != DTYPES["bfloat16"]:
        raise InputError(f"activations are {values.dtype}: numbers are allowed")
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(DTYPES[dtype], copy=False)


def tell_rounding(values: Array, dtype: str, where: str) -> bool:
    """Log that rows lose digits in the stored dtype that was taken for them; True where they do."""
    stored = DTYPES[dtype]
    if values.dtype == stored or not values.size:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        back = values.astype(stored).astype(values.dtype)
        kept = (back == values) | np.isnan(values)  # NaN stays NaN; what is infinite now is counted apart
        if kept.all():
            return False
        share = np.abs(back.astype(np.float64) / values.astype(np.float64) - 1)[~kept]
    most = share[np.isfinite(share)].max(initial=0)
    LOGGER.warning(
        "%s: %s values are rounded to %s, by up to %.1g of a value; give dtype=%r where that is meant",
        where,
        values.dtype,
        dtype,
        most,
        dtype,
    )
    return True


def underflow(values: Array, cast: Array) -> tuple[Array, int]:
    """Values of each neuron that became 0 in the cast (neurons,), and how many neurons are lost with them.

    A neuron is lost where they were more than a hundredth of the sum of its squares: the small tails of an
    activation function vanish without harm, a neuron that is small altogether does not.
    """
    counts = np.zeros(values.shape[1])
    if values.dtype == cast.dtype or np.count_nonzero(values) == np.count_nonzero(cast):
        return counts, 0
    gone = (values != 0) & (cast == 0)
    counts = gone.sum(axis=0)
    some = np.flatnonzero(counts)
    x = np.nan_to_num(values[:, some].astype(np.float64), posinf=0, neginf=0)
    x /= np.maximum(np.abs(x).max(axis=0), np.finfo(np.float64).tiny)  # so that no square vanishes here
    squares = (x**2).sum(axis=0)
    vanished = (np.where(gone[:, some], x, 0) ** 2).sum(axis=0)
    return counts.astype(np.float64), int((vanished > 0.01 * squares).sum())


def require_fits(values: Array, dtype: str, where: str) -> None:
    """ProbecacheError as `refuse_losses` raises it, for rows (rows, neurons) that are about to be written."""
    cast = cast_rows(values, dtype)
    limit = float(ml_dtypes.finfo(cast.dtype).max)
    if dtype == "float16":
        size = cast.view(np.uint16) & 0x7FFF  # numpy's own float16 comparisons take ten times as long
        nonfinite, saturated = int((size >= 0x7C00).sum()), int(((size >= 0x7BFF) & (size <= 0x7C00)).sum())
        beyond = nonfinite + saturated
    else:
        gone = ~np.isfinite(cast.astype(np.float32, copy=False))
        nonfinite, saturated = int(gone.sum()), 0
        beyond = nonfinite - int((~np.isfinite(values)).sum()) if nonfinite and limit else 0
    counts, lost = underflow(values, cast)
    refuse_losses(where, dtype, (nonfinite, saturated, int(counts.sum())), beyond, lost, values.shape[1])


def refuse_losses(
    where: str, dtype: str, counts: tuple[int, int, int], beyond: int, lost: int, neurons: int
) -> None:
    """ProbecacheError for values that the stored dtype does not hold.

    counts  stored values that are not finite, those at the limit or beyond, and those that became 0
    beyond  how many of them the cast made so
    lost    neurons, of `neurons`, that became 0 with the last
    """
    nonfinite, saturated, vanished = counts
    if lost > _LOST * neurons:
        raise ProbecacheError(
            f"{where}: {vanished} values are too small for {dtype} and became 0, and {lost} of {neurons} "
            "neurons with them: store as --dtype bfloat16 or float32, or scale them, or allow it with "
            "--allow-saturated"
        )
    if beyond > 0 and dtype == "float16":
        raise ProbecacheError(
            f"{where}: {nonfinite} non-finite and {saturated} values at or beyond float16's 65504: store as "
            "--dtype bfloat16 or float32, or allow it with --allow-saturated"
        )
    if beyond > 0:
        raise ProbecacheError(
            f"{where}: {beyond} values are beyond what {dtype} holds: scale them, or allow it with "
            "--allow-saturated"
        )
