"""Columns of a table that are read one by one: features, too many to load, may lie beside its labels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Columns(Mapping[str, Any]):
    """Columns by name, in the file's order; `read(name)` is called when one is asked for, each time."""

    names: Sequence[str]
    read: Callable[[str], Any]

    def __getitem__(self, name: str) -> Any:
        if name not in self.names:
            raise KeyError(name)
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
