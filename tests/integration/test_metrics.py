"""A real daemon, scraped by a real Prometheus and by curl, and traced into a collector."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from integration.daemons import start
from integration.prometheus import scraping
from promtool import promtool

from edgeqwen.client import Client, Options

pytestmark = pytest.mark.slow

ANSWER = Options(max_tokens=12, ignore_eos=True, temperature=0.0)
SECRET = "xylophone"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def test_prometheus_sees_what_the_daemon_did(float_package: Path, tmp_path: Path) -> None:
    """Two answers of 12 tokens, counted once in every way; the process is its own."""
    target = f"127.0.0.1:{free_port()}"
    with start(float_package, "--no-verify", "--metrics-listen", target) as daemon:
        with Client(daemon.target) as client:
            for _ in range(2):
                client.chat([("user", f"Say {SECRET}.")], options=ANSWER)
        with scraping(target, tmp_path) as prometheus:
            [tokens] = prometheus.wait_for("edgeqwen_completion_tokens_total")
            assert tokens["value"][1] == "24"
            [first] = prometheus.wait_for("edgeqwen_time_to_first_token_seconds_count")
            assert first["value"][1] == "2"
            [finished] = prometheus.wait_for('edgeqwen_request_duration_seconds_count{outcome="finished"}')
            assert finished["value"][1] == "2"
            [per_token] = prometheus.wait_for(
                "edgeqwen_time_per_output_token_seconds_sum / edgeqwen_time_per_output_token_seconds_count"
            )
            assert 0 < float(per_token["value"][1]) < 10
            [up] = prometheus.wait_for("up")
            assert up["value"][1] == "1"
            assert prometheus.wait_for("process_resident_memory_bytes > 5e7")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(
    ("accept", "last"), [("text/plain", ""), ("application/openmetrics-text;version=1.0.0", "# EOF")]
)
def test_curl_reads_the_socket(float_package: Path, accept: str, last: str) -> None:
    """As the guide says; promtool is content, and nothing of what was asked is in it."""
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as folder:  # a socket's path must be short
        path = f"{folder}/metrics.sock"
        with start(float_package, "--no-verify", "--metrics-listen", f"unix:{path}") as daemon:
            with Client(daemon.target) as client:
                client.chat([("user", f"Say {SECRET}.")], options=ANSWER)
            command = ["curl", "-sf", "-H", f"Accept: {accept}", "--unix-socket", path]
            page = subprocess.run([*command, "http://localhost/metrics"], capture_output=True, check=True).stdout
    assert page.rstrip().endswith(last.encode())
    assert SECRET.encode() not in page
    if not last:
        promtool("check", "metrics", given=page)


def test_a_request_is_traced_from_its_caller_into_the_collector(float_package: Path, tmp_path: Path) -> None:
    """By the standard's variables alone; what is left when the daemon leaves is sent; no words of the request."""
    pytest.importorskip("opentelemetry.sdk", reason="needs the extra `otel`")
    import collector as otlp

    with otlp.collecting() as collector:
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_SERVICE_NAME": "pump-7"}
        with start(float_package, "--no-verify", environment=environment) as daemon, Client(daemon.target) as client:
            client.chat([("user", f"Say {SECRET}.")], options=ANSWER)
        received = collector.received()
    assert otlp.resource(received)["service.name"] == "pump-7"
    names = [span.name for span in otlp.spans(received)]
    assert sorted(names) == sorted(["chat smollm2-135m-instruct-float32", "queue", "prefill", "decode"])
    tokens = otlp.metrics(received)["gen_ai.client.token.usage"].histogram.data_points
    assert {otlp.attributes(point.attributes)["gen_ai.token.type"]: point.count for point in tokens} == {
        "input": 1,
        "output": 1,
    }
    assert not any(SECRET.encode() in request.SerializeToString() for request in received)


def test_a_collector_that_is_away_holds_up_neither_answers_nor_the_end(float_package: Path) -> None:
    """The daemon answers, leaves with 0, and says once that it could not send."""
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    with start(float_package, "--no-verify", environment=environment) as daemon:
        with Client(daemon.target) as client:
            client.chat([("user", "Hello.")], options=ANSWER)
        daemon.process.terminate()
        assert daemon.process.wait(timeout=30) == 0
        log = daemon.log.read_text()
    assert "some traces and metrics were not sent" in log or "collector cannot be reached" in log
    assert "Traceback" not in log
