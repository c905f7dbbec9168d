"""The Hugging Face hub: quiet, and where it cannot be reached answered from its cache within a second."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

from probecache.store.errors import first_line

SECONDS = 1.0  # to resolve a name and connect


@contextmanager
def hub_access() -> Iterator[None]:
    """Quiet, and without a network answered from the hub's cache at once instead of after a minute of
    retries."""
    from huggingface_hub import constants

    loggers = [logging.getLogger(name) for name in ("timm", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    offline = constants.HF_HUB_OFFLINE
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = offline or not reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def reachable(address: str, seconds: float = SECONDS) -> bool:
    """Whether something accepts connections for `address` within `seconds`: its host, or the proxy's,
    which must be willing to connect to it. A resolver or a firewall that does not answer counts as no."""
    answer: list[bool] = []
    asked = threading.Thread(target=lambda: answer.append(_connects(address, seconds)), daemon=True)
    asked.start()
    asked.join(seconds)
    return bool(answer and answer[0])


def _connects(address: str, seconds: float) -> bool:
    target = urlparse(address)
    host, port = target.hostname or "", target.port or 443
    proxy = None if proxy_bypass(host) else getproxies().get(target.scheme or "https")
    try:
        if not proxy:
            with socket.create_connection((host, port), seconds):
                return True
        via = urlparse(proxy if "://" in proxy else f"http://{proxy}")
        with socket.create_connection((via.hostname or "", via.port or 80), seconds) as line:
            if via.scheme != "http":  # an encrypted proxy is asked by the client itself
                return True
            line.settimeout(seconds)
            line.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            # 407: the client, which knows the password, will be let through
            return line.recv(64).split(b" ")[1:2] in ([b"200"], [b"407"])
    except (OSError, ValueError):  # ValueError: a name that is none
        return False


def no_answer(name: str, error: Exception) -> str:
    """Why `name` is not to be had from the hub, in one line."""
    from huggingface_hub import constants

    line = first_line(error)
    network = "" if reachable(constants.ENDPOINT) else f" ({constants.ENDPOINT} cannot be reached)"
    reason = f"{type(error).__name__}: {line:.200}"
    return f"{name!r} is not to be had{network}: {reason}; give the path of a saved copy"
