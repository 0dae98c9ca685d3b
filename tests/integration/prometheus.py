"""A real Prometheus, where one is installed (Debian: apt install prometheus)."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 60
_CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: edgeqwen
    static_configs: [{{targets: ["{target}"]}}]
"""


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that it gives now."""
        arguments = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{arguments}", timeout=TIMEOUT_S) as answer:
            said = json.load(answer)
        assert said["status"] == "success", said
        series: list[dict[str, Any]] = said["data"]["result"]
        return series

    def rules(self) -> list[dict[str, Any]]:
        """Those of its configuration, and how they are."""
        with urllib.request.urlopen(f"{self.url}/api/v1/rules", timeout=TIMEOUT_S) as answer:
            groups = json.load(answer)["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def wait_for(self, expression: str, enough: Callable[[list[dict[str, Any]]], bool] = bool) -> list[dict[str, Any]]:
        """The series that it gives as soon as it has begun and gives any that are `enough`."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            with suppress(urllib.error.URLError, ConnectionError):
                found = self.query(expression)
                if found and enough(found):
                    return found
            assert time.monotonic() < deadline_s, f"no data for {expression}"
            time.sleep(0.2)


@contextmanager
def scraping(target: str, folder: Path) -> Iterator[Prometheus]:
    """Scrapes `target`, HOST:PORT, every second. The test is skipped where there is no Prometheus."""
    with running(_CONFIG.format(target=target), folder) as prometheus:
        yield prometheus


@contextmanager
def running(config: str, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus with this configuration, in `folder`. The test is skipped where there is none."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs Prometheus: apt install prometheus")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (folder / "prometheus.yml").write_text(config)
    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(timeout=TIMEOUT_S)
