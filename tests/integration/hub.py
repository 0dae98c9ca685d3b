"""A hub for the real client: a server on this machine that answers as huggingface.co does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Literal

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Access = Literal["open", "gated", "cut"]


@dataclass
class Hub:
    """Repositories by id, each with the folder of its files. Of all others it says what it says of private ones.

    Args:
        access: `gated` lists the files of a repository and hands out none; `cut` ends in the middle of each file.
    """

    repositories: dict[str, Path]
    access: Access = "open"
    endpoint: str = field(default="", init=False)

    def info(self, repository: str) -> bytes:
        names = sorted(path.name for path in self.repositories[repository].iterdir())
        described = {"id": repository, "modelId": repository, "sha": COMMIT, "private": False, "tags": []}
        return json.dumps({**described, "siblings": [{"rfilename": name} for name in names]}).encode()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            parts = self.path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                repository, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
                if repository not in hub.repositories:
                    self._refuse(401, "RepoNotFound", "Repository not found")
                elif revision not in ("main", COMMIT):
                    self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
                else:
                    self._send(hub.info(repository), {"Content-Type": "application/json"})
            elif hub.access == "gated":
                message = "Access to model is restricted. You must have access to it and be authenticated to access it."
                self._refuse(401, "GatedRepo", message)
            else:
                content = (hub.repositories["/".join(parts[:2])] / parts[-1]).read_bytes()
                self._send(content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

        def _refuse(self, status: int, code: str, message: str) -> None:
            self.send_response(status)
            for name, value in {"X-Error-Code": code, "X-Error-Message": message, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def _send(self, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                cut = hub.access == "cut" and len(content) > 1000 and not self.path.startswith("/api")
                self.wfile.write(content[: len(content) // 2] if cut else content)
                self.close_connection = cut

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
