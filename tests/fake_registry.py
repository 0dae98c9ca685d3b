"""A registry in memory, by the OCI distribution specification 1.1, that fails as it is told to.

What a real one does is tested with a real one (registries.py). This one does what cannot be had from it on demand: it
cuts connections, keeps half an upload, ignores ranges, sends other bytes, asks for tokens.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from listening import listening

USER, PASSWORD, TOKEN = "fleet", "correct horse", "a-token"


@dataclass
class FakeRegistry:
    """Its content, its faults, and what it was asked. Blobs are by hex digest, manifests by tag and by digest.

    Args:
        asks_for: how callers have to show who they are.
        answers: status and headers for the next requests, before any are answered as they should be.
        cut_every: of what goes out, the connection ends after so many bytes.
        keeps_of_uploads: of each of the next uploads, the connection ends after so many bytes, which are kept.
        drops_uploads: pieces are taken, and nothing of them is kept.
        forgets_uploads: none is known any more after a cut, as with Debian's docker-registry.
        ignores_ranges: all is sent, with 200.
        sends: in the place of a blob.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    asks_for: Literal["", "basic", "bearer"] = ""
    answers: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    cut_every: int | None = None
    keeps_of_uploads: deque[int] = field(default_factory=deque)
    drops_uploads: bool = False
    forgets_uploads: bool = False
    ignores_ranges: bool = False
    sends: dict[str, bytes] = field(default_factory=dict)
    redirect_to: str = ""
    host: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    uploads: dict[str, bytearray] = field(default_factory=dict)

    def asked(self, method: str, part: str) -> list[str]:
        """Paths of such requests."""
        return [path for verb, path in self.requests if verb == method and part in path]


@contextmanager
def fake_registry(**faults: object) -> Iterator[FakeRegistry]:
    """One that answers on loopback."""
    state = FakeRegistry(**faults)  # type: ignore[arg-type]

    class Handler(_Handler):
        registry = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with listening(server) as state.host:
        yield state


class _Cut(Exception):
    """The connection is to end here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: FakeRegistry

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (_Cut, ConnectionError):
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Tests look at `requests`."""

    def do_GET(self) -> None:
        self._answer_with(self._get)

    def do_HEAD(self) -> None:
        self._answer_with(self._get)

    def do_POST(self) -> None:
        self._answer_with(self._post)

    def do_PATCH(self) -> None:
        self._answer_with(self._patch)

    def do_PUT(self) -> None:
        self._answer_with(self._put)

    def _answer_with(self, answer: object) -> None:
        it = self.registry
        it.requests.append((self.command, self.path))
        it.headers.append(dict(self.headers))
        if it.answers:
            self._drain()
            self._send(*it.answers.popleft())
        elif urlsplit(self.path).path == "/token":
            self._token()
        elif it.asks_for and not self._is_known():
            self._drain()
            challenge = 'Basic realm="tests"' if it.asks_for == "basic" else self._bearer()
            self._send(401, {"Www-Authenticate": challenge}, _error("UNAUTHORIZED", "authentication required"))
        else:
            answer()  # type: ignore[operator]

    def _bearer(self) -> str:
        return f'Bearer realm="http://{self.registry.host}/token",service="tests",scope="repository:edge:pull,push"'

    def _is_known(self) -> bool:
        wanted = f"Bearer {TOKEN}" if self.registry.asks_for == "bearer" else _basic()
        return self.headers.get("Authorization") == wanted

    def _token(self) -> None:
        if self.headers.get("Authorization") == _basic():
            self._send(200, {}, json.dumps({"token": TOKEN}).encode())
        else:
            self._send(401, {}, b"{}")

    def _get(self) -> None:
        it, path = self.registry, urlsplit(self.path).path
        if found := re.fullmatch(r"/v2/.+/blobs/sha256:([0-9a-f]{64})", path):
            self._blob(found[1])
        elif found := re.fullmatch(r"/v2/.+/manifests/(.+)", path):
            self._manifest(found[1])
        elif path.endswith("/tags/list"):
            tags = [tag for tag in it.manifests if not tag.startswith("sha256:")]
            self._send(200, {}, json.dumps({"name": "edge", "tags": tags}).encode())
        elif (found := re.fullmatch(r"/v2/.+/uploads/(\d+)", path)) and found[1] in it.uploads:
            have = len(it.uploads[found[1]])
            self._send(204, {"Location": f"{path}?state=asked", "Range": f"0-{max(0, have - 1)}"})
        else:
            self._send(404, {}, _error("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"))

    def _blob(self, sha256: str) -> None:
        it = self.registry
        content = it.sends.get(sha256, it.blobs.get(sha256))
        if content is None:
            self._send(404, {}, _error("BLOB_UNKNOWN", "blob unknown to registry"))
            return
        if it.redirect_to:
            self._send(307, {"Location": f"{it.redirect_to}{self.path}"})
            return
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if begin and not it.ignores_ranges:
            at = int(begin[1])
            self._send(206, {"Content-Range": f"bytes {at}-{len(content) - 1}/{len(content)}"}, content[at:])
        else:
            self._send(200, {}, content)

    def _manifest(self, reference: str) -> None:
        if reference not in self.registry.manifests:
            self._send(404, {}, _error("MANIFEST_UNKNOWN", "manifest unknown"))
            return
        kind, content = self.registry.manifests[reference]
        self._send(200, {"Content-Type": kind, "Docker-Content-Digest": _digest(content)}, content)

    def _post(self) -> None:
        self._drain()
        name = str(len(self.registry.uploads) + 1)
        self.registry.uploads[name] = bytearray()
        self._send(202, {"Location": f"{urlsplit(self.path).path.rstrip('/')}/{name}?state=of-ours"})

    def _patch(self) -> None:
        if (upload := self._upload()) is not None:
            path = urlsplit(self.path).path
            if self.registry.drops_uploads:
                upload.clear()
            self._send(202, {"Location": f"{path}?state=more", "Range": f"0-{max(0, len(upload) - 1)}"})

    def _put(self) -> None:
        it, path = self.registry, urlsplit(self.path)
        if found := re.fullmatch(r"/v2/.+/manifests/(.+)", path.path):
            content = self._drain()
            kind = self.headers["Content-Type"]
            it.manifests[found[1]] = it.manifests[_digest(content)] = (kind, content)
            self._send(201, {"Docker-Content-Digest": _digest(content)})
        elif (upload := self._upload()) is not None:
            sha256 = parse_qs(path.query)["digest"][0].removeprefix("sha256:")
            if hashlib.sha256(upload).hexdigest() != sha256:
                self._send(400, {}, _error("DIGEST_INVALID", "provided digest did not match uploaded content"))
                return
            it.blobs[sha256] = bytes(upload)
            self._send(201, {})

    def _upload(self) -> bytearray | None:
        """With what this request adds to it; None if it was refused."""
        it, name = self.registry, urlsplit(self.path).path.rpartition("/")[2]
        upload = it.uploads.get(name)
        says = re.fullmatch(r"(\d+)-(\d+)", self.headers.get("Content-Range", "0-0"))
        if upload is None or "state=" not in self.path or says is None or int(says[1]) != len(upload):
            self._drain()
            self._send(404 if upload is None else 416, {}, _error("BLOB_UPLOAD_INVALID", "blob upload invalid"))
            return None
        if it.keeps_of_uploads:
            upload += self.rfile.read(it.keeps_of_uploads.popleft())
            if it.forgets_uploads:
                it.uploads.clear()
            raise _Cut
        upload += self._drain()
        return upload

    def _drain(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _send(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.registry.cut_every
        if cut is not None and len(content) > cut and "/blobs/" in self.path:
            self.wfile.write(content[:cut])
            raise _Cut
        self.wfile.write(content)


def _basic() -> str:
    return f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _error(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()
