"""The dashboard that is shipped: of the types that Grafana publishes, and with data in every panel."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("grafana_foundation_sdk", reason="needs the extra `dev`")

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from integration.prometheus import scraping

from edgeqwen.v1 import telemetry_pb2 as pb
from runtime.engine.observer import Ended, Outcome
from runtime.engine.request_meter import RequestMeter
from runtime.engine.sequence import Request, Sequence
from runtime.errors import QueueFull
from runtime.metrics.exposition import Page, page
from runtime.metrics.families import families, of_export
from runtime.metrics.server import MetricsServer

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
FILE = REPO / "docs" / "grafana" / "edgeqwen.json"
VARIABLES = {"$__rate_interval": "10s", "$instance": ".*", "$model": ".*"}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(FILE.read_text())["panels"] if panel["type"] != "row"]


def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/grafana_dashboard.py."""
    spec = importlib.util.spec_from_file_location("grafana_dashboard", REPO / "scripts" / "grafana_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_file_is_what_its_script_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes go into the script."""
    module = generator(monkeypatch)
    assert FILE.read_text() == module.render(), "run scripts/grafana_dashboard.py"


def test_grafanas_own_types_read_it_without_loss() -> None:
    """Nothing in it is unknown to them: all of it comes back, beside what they set where nothing is said."""
    told = json.loads(FILE.read_text())
    assert _within(told, json.loads(JSONEncoder().encode(Dashboard.from_json(told))))


def _within(some: Any, more: Any) -> bool:
    if isinstance(some, dict):
        return isinstance(more, dict) and all(key in more and _within(its, more[key]) for key, its in some.items())
    if isinstance(some, list):
        return isinstance(more, list) and len(some) == len(more) and all(map(_within, some, more))
    return bool(some == more)


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    everything = json.loads(FILE.read_text())["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


class Board:
    """A board that has every sensor, and requests of every kind, more with each scrape."""

    def __init__(self) -> None:
        self._meter = RequestMeter()
        self._scrapes = 0

    async def __call__(self, accept: str) -> Page:
        self._scrapes += 1
        outcomes: tuple[Outcome, ...] = ("finished", "cancelled", "failed")
        for outcome in outcomes:
            sequence = Sequence(self._scrapes, Request((1, 2, 3), 8), output=[1, 2, 3])
            self._meter.ended(Ended(sequence, outcome, None, 0.0, 0.1, 0.5, 1.5))
        self._meter.started(0.1)
        self._meter.tokens_came(0.0, None, 0.5)
        self._meter.tokens_came(0.0, 0.5, 0.54)
        self._meter.dismissed(QueueFull(1, 1.0))
        sent = {"spans_exported": self._scrapes, "metrics_exported": self._scrapes}
        return page([*families(self._snapshot(), {"qwen": self._meter.read()}), *of_export(sent), *_process()], accept)

    def _snapshot(self) -> pb.Snapshot:
        n = self._scrapes
        engine = pb.EngineInfo(
            requests_total=n,
            prompt_tokens_total=n,
            cached_prompt_tokens_total=n,
            completion_tokens_total=10 * n,
            slots=4,
            running=2,
            throttle=pb.Throttle(level=1, rows=2, share=0.5),
        )
        client = pb.ClientInfo(name="uid:1000", requests_total=n, refused_total=n, completion_tokens_total=n)
        return pb.Snapshot(
            time_unix_ms=time.time_ns() // 1_000_000,
            uptime_s=n,
            models=[pb.LoadedModel(model=pb.ModelInfo(name="qwen", variant="board"), engine=engine)],
            machine=pb.MachineInfo(
                cores=4,
                cpu_busy=0.5,
                memory_available_bytes=1 << 30,
                temperatures=[pb.Temperature(sensor="cpu", celsius=60)],
                cpu_cores=[pb.CpuCore(number=0, frequency_hz=1_500_000_000)],
                memory_pressure=pb.Pressure(some_avg10=1),
                throttling=pb.Throttling(reasons=["throttled"]),
                gpus=[pb.Gpu(name="ga10b", busy=0.5, frequency_hz=900_000_000, celsius=55)],
                rails=[pb.Rail(name="VDD_IN", watts=7.5)],
                disks=[pb.Disk(folder="/var/lib/edgeqwen", total_bytes=64 << 30, free_bytes=32 << 30)],
            ),
            energy=pb.Energy(watts=7.5, joules=7.5 * n, counted_s=n),
            clients=[client],
        )


def _process() -> list[Any]:
    from prometheus_client.process_collector import ProcessCollector

    return list(ProcessCollector(registry=None).collect())


@contextmanager
def serving() -> Iterator[str]:
    """The board's metrics on loopback, HOST:PORT."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    bound = socket.create_server(("127.0.0.1", 0))
    server = MetricsServer(Board())
    try:
        asyncio.run_coroutine_threadsafe(server.start(bound), loop).result(20)
        yield f"127.0.0.1:{bound.getsockname()[1]}"
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_every_panel_has_data(tmp_path: Path) -> None:
    """A real Prometheus scrapes a board that has everything; each query of each panel gives series, and numbers."""
    with serving() as target, scraping(target, tmp_path) as prometheus:
        prometheus.wait_for("count_over_time(edgeqwen_slots[1m]) >= 3")  # a rate takes two
        for panel in panels():
            for query in panel["targets"]:
                series = prometheus.wait_for(_filled(query["expr"]))
                values = [each["value"][1] for each in series]
                assert "NaN" not in values, (panel["title"], query["expr"])
                for label in re.findall(r"{{(\w+)}}", query["legendFormat"]):
                    assert label in series[0]["metric"], (panel["title"], label)


def test_the_variables_find_boards_and_models(tmp_path: Path) -> None:
    """`label_values` of what they name: the series are there, with the label."""
    with serving() as target, scraping(target, tmp_path) as prometheus:
        for variable in json.loads(FILE.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                assert found is not None
                assert found[2] in prometheus.wait_for(_filled(found[1]))[0]["metric"]


def _filled(expression: str) -> str:
    """With Grafana's variables replaced as it does."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression
