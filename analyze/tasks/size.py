"""How large a task is: what cost models count with before anything is read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerSize:
    """Rows of both splits, neurons d, classes, and bytes of a stored value."""

    train: int
    test: int
    d: int
    classes: int
    itemsize: int

    @property
    def stored(self) -> int:
        """Bytes to read from the store, without compression."""
        return (self.train + self.test) * self.d * self.itemsize

    @property
    def is_scarce(self) -> bool:
        """Fewer than two rows per neuron: the logistic solver then makes no class Grams."""
        return self.train < 2 * self.d

    @property
    def loaded(self) -> int:
        """Bytes in memory: both matrices in float32."""
        return (self.train + self.test) * self.d * 4
