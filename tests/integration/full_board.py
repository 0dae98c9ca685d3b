"""A board that has every sensor, a store, and requests of every kind, for what real boards here have not."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgeqwen.v1 import telemetry_pb2 as pb
from runtime.engine.observer import Ended, Outcome
from runtime.engine.request_meter import RequestMeter
from runtime.engine.sequence import Request, Sequence
from runtime.errors import QueueFull
from runtime.metrics.exposition import Page, page
from runtime.metrics.families import families, of_export
from runtime.metrics.server import MetricsServer


class FullBoard:
    """More requests with each scrape, and more packages that were given up."""

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
            models=[
                pb.LoadedModel(model=pb.ModelInfo(name="qwen", variant="board", package_version="1.0.0"), engine=engine)
            ],
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
            call_errors=[pb.CallErrors(method="/v1/models", code="NOT_FOUND", total=n)],
            daemon_version="0.1.0",
            served=pb.ServedPackage(model="qwen", version="1.0.0", slot="b", trial=True, rollbacks_total=n),
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
    server = MetricsServer(FullBoard())
    try:
        asyncio.run_coroutine_threadsafe(server.start(bound), loop).result(20)
        yield f"127.0.0.1:{bound.getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
