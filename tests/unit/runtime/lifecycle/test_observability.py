"""The endpoint for Prometheus and the pipeline to OpenTelemetry, as the daemon opens and closes them."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from fakes import ScriptedSession, byte_tokenizer
from unit.runtime.fake_engine import TIMEOUT_S, only_model

from edgeqwen.v1 import telemetry_pb2 as pb
from runtime.configuration.config import Config
from runtime.configuration.otel_settings import OtelSettings
from runtime.engine.engine import Engine
from runtime.errors import AddressInUse, ConfigError
from runtime.lifecycle.observability import Observability, check_observability
from runtime.models.registry import Models

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    """In /tmp: the path of a unix socket has room for about 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as name:
        yield Path(name)


async def read() -> pb.Snapshot:
    return pb.Snapshot(models=[pb.LoadedModel(model=pb.ModelInfo(name="tiny"))])


def models() -> Models:
    engine = Engine(
        ScriptedSession(),
        byte_tokenizer(),
        eos_token_ids=frozenset(),
        queue_limit=4,
        prefill_chunk_tokens=8,
        kv_budget_tokens=1000,
    )
    return only_model(engine)


def config(**settings: object) -> Config:
    return Config.model_validate({"package": "x", **settings})


async def scrape(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    async with asyncio.timeout(TIMEOUT_S):
        writer.write(GET)
        answer = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
    return answer


async def test_a_scrape_reads_snapshot_histograms_and_process(folder: Path) -> None:
    """At a socket for owner and group, which goes with the daemon."""
    loaded = models()
    observability = Observability.open(config(metrics_listen=f"unix:{folder}/m"), {})
    await observability.start(read, loaded)
    assert stat.S_IMODE((folder / "m").stat().st_mode) == 0o660
    answer = await scrape(*await asyncio.open_unix_connection(f"{folder}/m"))
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    assert 'edgeqwen_time_to_first_token_seconds_count{model="tiny"} 0.0\n' in answer
    assert "process_resident_memory_bytes " in answer
    await observability.close()
    await loaded.close()
    assert list(folder.iterdir()) == []


async def test_a_port_on_loopback_works_too() -> None:
    """The log says which, if the system was to choose one."""
    loaded = models()
    observability = Observability.open(config(metrics_listen="localhost:0"), {})
    with structlog.testing.capture_logs() as lines:
        await observability.start(read, loaded)
    host, _, port = lines[0]["listen"].rpartition(":")
    answer = await scrape(*await asyncio.open_connection(host, int(port)))
    assert "edgeqwen_machine_cores" in answer
    await observability.close()
    await loaded.close()


async def test_it_is_off_unless_somebody_asks_for_it() -> None:
    """Then it loads nothing, listens nowhere and sends nothing."""
    observability = Observability.open(config(), {})
    assert observability.interceptors == []
    await observability.start(read, models())
    await observability.close()
    code = (
        "import sys, runtime.daemon, runtime.lifecycle.observability;"
        "print(*sorted({'prometheus_client', 'h11', 'opentelemetry'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "\n"


@pytest.mark.parametrize("listen", ["0.0.0.0:9464", "example.com:9464", "unix:/nowhere/m", "127.0.0.1:65536"])
def test_an_address_that_cannot_be_is_refused_before_the_model_is_loaded(listen: str) -> None:
    """Under the name of its setting: metrics are for this machine, others ask through it."""
    with pytest.raises(ConfigError, match=r"^metrics_listen: "):
        Observability.open(config(metrics_listen=listen), {})


def test_check_config_finds_the_same(no_opentelemetry: None) -> None:
    """Without listening anywhere, and without a word about a socket where the daemon that runs listens itself."""
    with pytest.raises(ConfigError, match=r"^metrics_listen: "):
        check_observability(config(metrics_listen="0.0.0.0:9464"))
    with pytest.raises(ConfigError, match=r"^otel: "):
        check_observability(config(otel=OtelSettings(endpoint="http://localhost:4317")))
    check_observability(config())


async def test_where_another_listens_the_daemon_does_not_start(folder: Path) -> None:
    """It finds out before the model is loaded."""
    server = await asyncio.start_unix_server(lambda *_: None, folder / "m")
    with pytest.raises(AddressInUse):
        Observability.open(config(metrics_listen=f"unix:{folder}/m"), {})
    server.close()


@pytest.fixture
def no_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra is not installed."""
    for name in [name for name in sys.modules if name.startswith("runtime.otel.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics", None)


def test_a_collector_in_the_configuration_needs_the_extra(no_opentelemetry: None) -> None:
    """Who asked for traces must hear that there will be none."""
    settings = OtelSettings(endpoint="http://localhost:4317")
    with pytest.raises(ConfigError, match=r"pip install 'edgeqwen\[otel\]'"):
        Observability.open(config(otel=settings), {})


def test_a_collector_in_the_environment_is_no_reason_not_to_serve(no_opentelemetry: None) -> None:
    """It may be meant for others: the log says that it is ignored."""
    with structlog.testing.capture_logs() as lines:
        Observability.open(config(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"})
    assert [line["log_level"] for line in lines] == ["warning"]
