"""The subcommands of `extract`."""

from collections.abc import Callable

COMMANDS: dict[str, Callable[..., object]] = {}
