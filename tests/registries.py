"""Real registries for tests: Debian's docker-registry, each on a free port of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from certificates import Pair

_TIMEOUT_S = 60
HASHED = "$2y$05$..."


@dataclass(frozen=True)
class Registry:
    """One that runs. `host` is HOST:PORT, `log` what it writes: a line of JSON for each request."""

    host: str
    folder: Path
    log: Path

    def requests(self) -> list[tuple[str, str, int]]:
        """Method, path and status of all that it has answered."""
        return [
            (line["http.request.method"], line["http.request.uri"].partition("?")[0], line["http.response.status"])
            for line in map(_parsed, self.log.read_text().splitlines())
            if line.get("msg") == "response completed"
        ]

    def blob_path(self, sha256: str) -> Path:
        """Where it keeps a blob."""
        return self.folder / "docker/registry/v2/blobs/sha256" / sha256[:2] / sha256 / "data"


@contextmanager
def registry(folder: Path, *, tls: Pair | None = None, htpasswd: str | None = None) -> Iterator[Registry]:
    """Serves from `folder`. The test is skipped where there is no docker-registry.

    Args:
        htpasswd: lines NAME:BCRYPT of who may do anything; None: all may.
    """
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs a registry: apt install docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    http: dict[str, Any] = {"addr": f"127.0.0.1:{port}", "secret": "of the tests", "relativeurls": True}
    if tls is not None:
        http["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"formatter": "json", "level": "info", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder)}, "delete": {"enabled": True}},
        "http": http,
    }
    if htpasswd is not None:
        (folder / "htpasswd").write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=out, stderr=out)
    try:
        _wait_for(port, process, log)
        yield Registry(f"127.0.0.1:{port}", folder, log)
    finally:
        process.terminate()
        process.wait(timeout=_TIMEOUT_S)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.02)
        else:
            return


def _parsed(line: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return found
