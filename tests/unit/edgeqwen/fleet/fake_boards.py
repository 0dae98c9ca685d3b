"""Boards that answer as a test tells them to: real gRPC servers on loopback, with the three services that are asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from edgeqwen.v1 import health_pb2 as report_pb
from edgeqwen.v1 import health_pb2_grpc as report_grpc
from edgeqwen.v1 import telemetry_pb2 as pb
from edgeqwen.v1 import telemetry_pb2_grpc

OK, DEGRADED, FAILED = report_pb.CHECK_STATUS_OK, report_pb.CHECK_STATUS_DEGRADED, report_pb.CHECK_STATUS_FAILED
HOT = report_pb.Check(name="temperature", status=DEGRADED, summary="81.0 C; the limit is 80 C.")
STUCK = report_pb.Check(name="engine", model="qwen", status=FAILED, summary="No step ends.")
WELL = report_pb.Check(name="disk", status=OK, summary="900 MB are free.")


def a_snapshot(version: str = "1.2.0", name: str = "qwen", celsius: float = 50.0) -> pb.Snapshot:
    """Of a board with one model."""
    engine = pb.EngineInfo(completion_tokens_per_second=12.5, running=1, queue_depth=3)
    return pb.Snapshot(
        uptime_s=7200,
        models=[pb.LoadedModel(model=pb.ModelInfo(name=name, package_version=version, variant="pi"), engine=engine)],
        process=pb.ProcessInfo(rss_bytes=200_000_000),
        machine=pb.MachineInfo(
            memory_available_bytes=3_000_000_000, temperatures=[pb.Temperature(sensor="cpu", celsius=celsius)]
        ),
        daemon_version="0.1.0",
    )


@dataclass
class FakeBoard:
    """What a board says. `meanwhile` runs while it is asked for its snapshot.

    `garbled` is the method whose answer is no message; `details` come with a refusal.
    """

    snapshot: pb.Snapshot = field(default_factory=a_snapshot)
    checks: Sequence[report_pb.Check] = (WELL,)
    serving: bool = True
    refusal: grpc.StatusCode | None = None
    details: bytes = b""
    garbled: str = ""
    meanwhile: Callable[[], Any] = lambda: None

    @property
    def report(self) -> report_pb.HealthReport:
        return report_pb.HealthReport(status=max(check.status for check in self.checks), checks=self.checks)


class _Telemetry(telemetry_pb2_grpc.TelemetryServicer):
    def __init__(self, board: FakeBoard) -> None:
        self._board = board

    def GetSnapshot(  # noqa: N802 - the name is the contract's
        self, request: pb.GetSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.Snapshot:
        if self._board.refusal is not None:
            context.set_trailing_metadata((("grpc-status-details-bin", self._board.details),))
            context.abort(self._board.refusal, "not for you")
        self._board.meanwhile()
        return self._board.snapshot


class _Report(report_grpc.HealthServicer):
    def __init__(self, board: FakeBoard) -> None:
        self._board = board

    def GetHealthReport(  # noqa: N802 - the name is the contract's
        self, request: report_pb.GetHealthReportRequest, context: grpc.ServicerContext
    ) -> report_pb.HealthReport:
        return self._board.report


class _Garbling(grpc.ServerInterceptor):
    """Answers a method with what is no message; none, if it has no name."""

    def __init__(self, method: str) -> None:
        self._method = method

    def intercept_service(self, continuation: Callable[..., Any], handler_call_details: grpc.HandlerCallDetails) -> Any:
        if self._method and handler_call_details.method.endswith(f"/{self._method}"):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\xff" * 9)
        return continuation(handler_call_details)


@contextmanager
def online(boards: Sequence[FakeBoard]) -> Iterator[list[str]]:
    """Serves them, each on a port of its own; yields HOST:PORT of each."""
    with ThreadPoolExecutor(32) as threads, ExitStack() as stack:
        targets = []
        for board in boards:
            server = grpc.server(threads, interceptors=[_Garbling(board.garbled)])
            checks = health.HealthServicer()
            state = health_pb2.HealthCheckResponse
            checks.set("", state.SERVING if board.serving else state.NOT_SERVING)
            health_pb2_grpc.add_HealthServicer_to_server(checks, server)
            telemetry_pb2_grpc.add_TelemetryServicer_to_server(_Telemetry(board), server)
            report_grpc.add_HealthServicer_to_server(_Report(board), server)
            targets.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            server.start()
            stack.callback(server.stop, None)
        yield targets


@contextmanager
def silent() -> Iterator[str]:
    """Takes connections and says nothing, as a board does whose power went."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def gone() -> Iterator[str]:
    """A port at which nobody listens, while the block runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


class Together:
    """Counts who is in a place at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0
        self.total = 0

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.total += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._now -= 1
