"""A hub that does not answer is known within a second, however it fails to answer."""

import socket
import threading
import time

import pytest

from probecache.extract.backbone import hub
from probecache.extract.run import extract_features
from probecache.store.errors import ProbecacheError


@pytest.fixture
def server():
    """A socket that listens and hands each connection to what `answer` is set to."""
    listening = socket.create_server(("127.0.0.1", 0))
    answers = []

    def serve():
        while True:
            try:
                line, _ = listening.accept()
            except OSError:
                return
            lines.append(line)
            if answers:
                line.recv(200)
                line.sendall(answers[0])

    lines: list[socket.socket] = []
    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", answers
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    serving.join(5)
    for line in lines:
        line.close()


def seconds(address):
    start = time.monotonic()
    found = hub.reachable(address)
    assert time.monotonic() - start < 1.5
    return found


def test_a_host_that_listens_and_one_that_does_not(server, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert seconds(server[0])
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    assert not seconds(f"http://127.0.0.1:{port}")


def test_a_resolver_that_hangs(monkeypatch):
    def hang(*_):
        time.sleep(2)
        raise OSError

    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    assert not seconds("https://hub.example")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"HTTP/1.1 200 Connection established\r\n\r\n", True),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", True),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", False),
        (None, False),
    ],
)
def test_a_proxy_that_connects_refuses_or_hangs(server, monkeypatch, answer, found):
    address, answers = server
    answers += [answer] if answer else []
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": address})
    monkeypatch.setattr(hub, "proxy_bypass", lambda _: False)
    assert seconds("https://hub.example") is found


@pytest.mark.parametrize(
    ("name", "pretrained"),
    [
        ("resnet18.a1_in1k", True),
        ("hf-hub:nobody/nothing", True),
        ("hf-hub:nobody/nothing", False),
        ("transformers:nobody/nothing", True),
    ],
)
def test_without_a_network_every_name_is_refused_at_once(name, pretrained, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "reachable", lambda _address: False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(ProbecacheError) as error:
        extract_features(name, data_dir=photos, split="train", out=tmp_path / "f.zarr", pretrained=pretrained)
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 20  # with the import of a library on a busy machine


def test_a_tag_that_there_is_not_is_refused_in_one_line(photos, tmp_path):
    for options in ({"pretrained": False, "img_size": 32}, {"pretrained": True}):
        with pytest.raises(ProbecacheError, match="Invalid pretrained tag") as error:
            extract_features("resnet18.nope_in1k", data_dir=photos, out=tmp_path / "f.zarr", **options)
        assert "\n" not in str(error.value)
