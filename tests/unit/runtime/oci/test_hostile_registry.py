"""Answers that are meant to hurt: they take no memory, and end in one line."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from listening import listening

pytest.importorskip("oras", reason="needs the extra `oci`")

from runtime.errors import PackageNotThere, RemoteRefused, TransferError
from runtime.oci.opening import open_source
from runtime.oci.reference import RegistryReference
from runtime.oci.settings import Settings
from runtime.oci.transport import MAX_ANSWER_BYTES, Access, Transport


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """HOST:PORT where every GET is answered so, until whoever asked has had enough."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):
                answer(self)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as where:
        yield where


@pytest.mark.parametrize(("status", "stream"), [(200, False), (307, True), (500, True)])
def test_an_answer_without_end_takes_no_memory(status: int, stream: bool) -> None:
    """It is read to a bound, if it is no blob: also what comes beside being led elsewhere, and beside an error."""
    stop = threading.Event()

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status if "manifests" in request.path else 200)
        request.send_header("Location", "/elsewhere")
        request.end_headers()
        while not stop.is_set():
            request.wfile.write(b"[" * 65536)

    with answering(endless) as host:
        try:
            with Transport(host, Access()).send("GET", "/v2/edge/manifests/1.0.0", stream=stream) as response:
                bounded = response.history[0] if status == 307 else response
                assert MAX_ANSWER_BYTES <= len(bounded.content) < MAX_ANSWER_BYTES + (1 << 20)
        finally:
            stop.set()


@pytest.mark.parametrize("place", ["/tags/list", "/token"])
def test_json_without_bottom_is_one_line(place: str) -> None:
    """In the place of tags, which are asked for when one is not there, and of a token."""

    def deep(request: BaseHTTPRequestHandler) -> None:
        is_it = place in request.path
        request.send_response(200 if is_it else 401 if place == "/token" else 404)
        request.send_header("Www-Authenticate", f'Bearer realm="http://{request.headers["Host"]}/token"')
        request.end_headers()
        request.wfile.write(b"[" * 200_000 if is_it else b"")

    with answering(deep) as host, pytest.raises((PackageNotThere, RemoteRefused)):
        open_source(RegistryReference(host, "edge"), Settings()).offers()


@pytest.mark.parametrize("content", [b"garbage\r\n\r\n", b"HTTP/1.1 \xff\xfe\r\n\r\n", b""])
def test_what_is_no_http_is_one_line(content: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(content)

        thread = threading.Thread(target=answer)
        thread.start()
        transport = Transport(f"127.0.0.1:{listener.getsockname()[1]}", Access())
        with pytest.raises(TransferError) as error:
            transport.send("GET", "/v2/")
        thread.join()
    assert str(error.value).isprintable()
