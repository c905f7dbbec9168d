"""What a stream writes, checked before anything is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from probecache.store.errors import InputError
from probecache.store.fingerprint import Fingerprint
from probecache.store.format.target_array import check_target_name
from probecache.store.layout import SHARD_ROWS, Geometry, LayerSpec, check_split_name


@dataclass(frozen=True)
class Stream:
    """What a stream writes; `open_writer` describes each field."""

    split: str
    layers: Mapping[str, int]
    n_samples: int | None = None
    dtypes: Mapping[str, str] = field(default_factory=dict)
    class_names: Sequence[str] | None = None
    columns: Sequence[str] = ()
    shard_rows: int | None = None
    compression: str | None = None
    fingerprint: Fingerprint = field(default_factory=lambda: Fingerprint({"source": "arrays"}))
    allow_saturated: bool = False

    def __post_init__(self) -> None:
        check_split_name(self.split)
        if not isinstance(self.layers, Mapping) or not self.layers:
            raise InputError("layers are {name: width} of what each batch holds: name at least one")
        strange = set(self.dtypes) - set(self.layers)
        if strange:
            raise InputError(
                f"dtype is given for {min(strange)!r}, which is none of {', '.join(self.layers)}"
            )
        for name, width in self.layers.items():
            LayerSpec(name, width, self.dtypes.get(name, "float32"))
        for name in self.columns:
            if check_target_name(name) in self.layers:
                raise InputError(f"column {name!r} is a layer's name: use another")
        Geometry(1 if self.n_samples is None else self.n_samples, self.shard_rows or SHARD_ROWS)
