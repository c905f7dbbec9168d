"""What the caller of an extraction chose, checked before any work starts."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, get_type_hints

from probecache.extract.backbone.features import DTYPES
from probecache.extract.backbone.pooling import POOLS
from probecache.extract.datasets.classes import Choices
from probecache.extract.datasets.decoder import DECODERS
from probecache.extract.datasets.preprocess import Overrides
from probecache.extract.option_kinds import plain, require_kind
from probecache.store.errors import InputError, close_names

Function = TypeVar("Function", bound=Callable[..., Any])


class Options(TypedDict, total=False):
    """The keyword options of `extract` as a caller may write them. `Settings` holds their defaults."""

    split: str
    layers: str | Sequence[str]
    pool: str | Sequence[str]
    data_dir: str | Path | None
    dtype: str
    pretrained: bool
    checkpoint: str | Path | None
    model_kwargs: Mapping[str, Any]
    seed: int
    img_size: int | None
    in_chans: int | None
    crop_pct: float | None
    crop_mode: str | None
    interpolation: str | None
    mean: float | Sequence[float] | None
    std: float | Sequence[float] | None
    device: str
    amp_dtype: str
    channels_last: bool | None
    torchcompile: str | None
    batch_size: int | Literal["auto"] | None
    workers: int | None
    decoder: str
    rows: tuple[int, int] | None
    limit: int | None
    shard_rows: int | None
    compression: str | None
    allow_failed: bool
    allow_saturated: bool
    download: bool
    split_folders: bool | None
    class_from: str
    input_key: str | None
    target_key: str | None
    content: str


@dataclass(frozen=True)
class Settings:
    """Options of `extract` other than the model, the data set and the store; see there for their meaning."""

    split: str = "train"
    layers: tuple[str, ...] = ("penultimate",)
    pool: tuple[str, ...] = ("avg",)
    data_dir: str | None = None
    dtype: str = "float16"
    pretrained: bool = True
    checkpoint: str | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    img_size: int | None = None
    in_chans: int | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    device: str = "auto"
    amp_dtype: str = "auto"
    channels_last: bool | None = None
    torchcompile: str | None = None
    batch_size: int | None = None
    workers: int | None = None
    decoder: str = "pillow"
    rows: tuple[int, int] | None = None
    limit: int | None = None
    shard_rows: int | None = None
    compression: str | None = None
    allow_failed: bool = False
    allow_saturated: bool = False
    download: bool = False
    split_folders: bool | None = None
    class_from: str = "auto"
    input_key: str | None = None
    target_key: str | None = None
    content: str = "auto"

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            require_kind(name, getattr(self, name), kind)
        if self.dtype not in DTYPES:
            raise InputError(f"unknown --dtype {self.dtype!r}; allowed: {', '.join(DTYPES)}")
        if self.decoder not in DECODERS:
            raise InputError(f"unknown --decoder {self.decoder!r}; allowed: {', '.join(DECODERS)}")
        for pool in self.pool:
            if pool not in POOLS:
                raise InputError(f"unknown pooling {pool!r}; allowed: {', '.join(POOLS)}")
        for name in ("batch_size", "limit", "shard_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.workers is not None and self.workers < 0:
            raise InputError(f"--workers must be at least 0, got {self.workers}")
        _ = self.choices, self.overrides  # checked before anything is opened

    @property
    def choices(self) -> Choices:
        """What the caller decided about folders, classes and columns."""
        return Choices(self.split_folders, self.class_from, self.input_key, self.target_key, self.content)

    @property
    def overrides(self) -> Overrides:
        """What the caller wants of preprocessing in place of the model's configuration."""
        return Overrides(**{option.name: getattr(self, option.name) for option in fields(Overrides)})

    @classmethod
    def of(cls, **options: Any) -> "Settings":
        """From loose options: one string where several are allowed, lists for tuples, None for a default,
        'auto' for an open batch size."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise InputError(
                f"got {unknown[0]!r} in extract_features(); {close_names(unknown[0], known, n=1)}"
            )
        options = {name: plain(value) for name, value in options.items() if value is not None}
        for name in ("layers", "pool", "mean", "std", "rows"):
            if name in options and options[name] is not None:
                options[name] = as_tuple(options[name])
        if "layers" in options:  # a block's number may be a number
            options["layers"] = tuple(str(v) if type(v) is int else v for v in options["layers"])
        if options.get("batch_size") == "auto":
            options["batch_size"] = None
        for name in ("data_dir", "checkpoint"):
            if options.get(name) is not None:
                require_kind(name, options[name], str | Path)
                options[name] = str(_expanded(options[name], name))
        return cls(**options)


def show_options(function: Function) -> Function:
    """`function(..., **options)`, whose signature in help() names each option with its type and default."""
    signature = inspect.signature(function)
    given = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(option),
            annotation=Options.__annotations__[option.name],
        )
        for option in fields(Settings)
    ]
    function.__signature__ = signature.replace(parameters=[*given, *options])  # type: ignore[attr-defined]
    return function


def _default(option: Field[Any]) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()


def _expanded(path: str | Path, name: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # a machine may have no home folder, and no entry for this user
        option = f"--{name.replace('_', '-')}"
        raise InputError(
            f"{option} {str(path)!r}: there is no such home folder here; give the whole path"
        ) from error


def as_tuple(value: Any) -> tuple[Any, ...]:
    """A string or a number alone becomes a tuple of one."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
