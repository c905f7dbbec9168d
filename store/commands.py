"""The subcommands of `store`."""

from collections.abc import Callable

COMMANDS: dict[str, Callable[..., object]] = {}
