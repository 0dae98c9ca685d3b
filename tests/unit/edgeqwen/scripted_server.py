"""A gRPC server that answers as a test tells it to: what no daemon of ours says, a client must bear all the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from edgeqwen.v1 import generation_pb2 as pb
from edgeqwen.v1 import generation_pb2_grpc, telemetry_pb2, telemetry_pb2_grpc
from runtime.api.replies import status_of
from runtime.errors import EdgeQwenError

Answer = Callable[[pb.GenerateRequest, grpc.ServicerContext], Iterator[pb.GenerateResponse]]


class _Generation(generation_pb2_grpc.GenerationServicer):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def Generate(  # noqa: N802 - the name is the contract's
        self, request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateResponse]:
        return self._answer(request, context)


class _Telemetry(telemetry_pb2_grpc.TelemetryServicer):
    def __init__(self, snapshot: telemetry_pb2.Snapshot) -> None:
        self._snapshot = snapshot

    def GetSnapshot(  # noqa: N802 - the name is the contract's
        self, request: telemetry_pb2.GetSnapshotRequest, context: grpc.ServicerContext
    ) -> telemetry_pb2.Snapshot:
        return self._snapshot


def say(*texts: str) -> Answer:
    """An answer of these deltas."""

    def answer(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        yield pb.GenerateResponse(started=pb.Started(request_id="r1", model="scripted", prompt_tokens=1))
        for at, text in enumerate(texts):
            yield pb.GenerateResponse(delta=pb.Delta(text=text, token_ids=[at]))
        usage = pb.Usage(prompt_tokens=1, completion_tokens=len(texts))
        yield pb.GenerateResponse(finished=pb.Finished(reason=pb.Finished.REASON_EOS, usage=usage))

    return answer


def fail(code: grpc.StatusCode, message: str, *texts: str) -> Answer:
    """An error, after deltas if there are any."""

    def answer(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        for text in texts:
            yield pb.GenerateResponse(delta=pb.Delta(text=text))
        context.abort(code, message)

    return answer


def refuse(error: EdgeQwenError, *, started: bool = False) -> Answer:
    """The status that the daemon gives for `error`, with its details; after a Started if it had let the request in."""

    def answer(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        if started:
            yield pb.GenerateResponse(started=pb.Started(request_id="r1", model="scripted", prompt_tokens=1))
        context.abort_with_status(rpc_status.to_status(status_of(error)))

    return answer


@contextmanager
def scripted(answer: Answer, snapshot: telemetry_pb2.Snapshot | None = None, *, serving: bool = True) -> Iterator[str]:
    """Serves `answer` and `snapshot` on a unix socket until the block ends; yields the target."""
    checks = health.HealthServicer()
    state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    checks.set("", state)
    with (
        tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as folder,  # a socket's path must be short
        ThreadPoolExecutor(4) as threads,
    ):
        server = grpc.server(threads)
        generation_pb2_grpc.add_GenerationServicer_to_server(_Generation(answer), server)
        telemetry_pb2_grpc.add_TelemetryServicer_to_server(_Telemetry(snapshot or telemetry_pb2.Snapshot()), server)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        target = f"unix:{folder}/s.sock"
        server.add_insecure_port(target)
        server.start()
        try:
            yield target
        finally:
            server.stop(0).wait()
