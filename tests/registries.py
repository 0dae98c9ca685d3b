"""Real registries for tests, Debian's docker-registry, and what stands before them: proxies, and wires that break."""

from __future__ import annotations

import json
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from certificates import Pair
from listening import listening

_TIMEOUT_S = 60
USER, PASSWORD = "fleet", "correct horse"
HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n"
"""Of that user, by bcrypt."""


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
    port = _free_port()
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


@contextmanager
def tinyproxy(folder: Path) -> Iterator[tuple[str, Path]]:
    """HOST:PORT and the log of a proxy. The test is skipped where there is no tinyproxy."""
    program = shutil.which("tinyproxy")
    if program is None:
        pytest.skip("needs a proxy: apt install tinyproxy-bin")
    folder.mkdir(parents=True, exist_ok=True)
    port, log = _free_port(), folder / "tinyproxy.log"
    settings = f'Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 60\nLogFile "{log}"\nLogLevel Connect\n'
    (folder / "tinyproxy.conf").write_text(settings)
    with (folder / "tinyproxy.out").open("w") as out:
        process = subprocess.Popen([program, "-d", "-c", str(folder / "tinyproxy.conf")], stdout=out, stderr=out)
    try:
        _wait_for(port, process, folder / "tinyproxy.out")
        yield f"127.0.0.1:{port}", log
    finally:
        process.terminate()
        process.wait(timeout=_TIMEOUT_S)


@contextmanager
def breaking(host: str, *, down_bytes: int | None = None, up_bytes: int | None = None) -> Iterator[str]:
    """HOST:PORT of a wire to `host` that breaks.

    Args:
        down_bytes: after so many that came from there, each connection.
        up_bytes: after so many that went there, the first connection that comes to that.
    """
    breaks_up = threading.Event()
    if up_bytes is None:
        breaks_up.set()

    class Wire(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            name, _, port = host.rpartition(":")
            with socket.create_connection((name, int(port))) as there:
                up = threading.Thread(target=self.pump, args=(self.request, there, None, up_bytes))
                up.start()
                self.pump(there, self.request, down_bytes, None)
                up.join()

        def pump(self, source: socket.socket, sink: socket.socket, limit: int | None, once: int | None) -> None:
            passed = 0
            with suppress(OSError):
                while content := source.recv(65536):
                    sink.sendall(content)
                    passed += len(content)
                    if limit is not None and passed >= limit:
                        break
                    if once is not None and passed >= once and not breaks_up.is_set():
                        breaks_up.set()
                        break
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    with listening(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Wire)) as where:
        yield where


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


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
