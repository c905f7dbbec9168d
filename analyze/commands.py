"""The subcommands of `analyze`."""

from collections.abc import Callable

COMMANDS: dict[str, Callable[..., object]] = {}
