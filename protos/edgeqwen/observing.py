"""What clients ask about the daemon itself: snapshots, once or as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing

from .errors import answered, errors_of
from .newest import newest_of, newest_of_async, silence_s
from .v1 import telemetry_pb2, telemetry_pb2_grpc


class Observing:
    """Of `Client`."""

    target: str
    _telemetry: telemetry_pb2_grpc.TelemetryStub

    def snapshot(self, *, timeout_s: float = 5.0) -> telemetry_pb2.Snapshot:
        """What the daemon and its machine are doing."""
        with errors_of(self.target):
            reply: telemetry_pb2.Snapshot = self._telemetry.GetSnapshot(
                telemetry_pb2.GetSnapshotRequest(), timeout=timeout_s
            )
        return reply

    def watch(self, *, interval_ms: int = 1000) -> Generator[telemetry_pb2.Snapshot, None, None]:
        """A snapshot at once, then the newest in every interval (100 to 3600000 ms); old ones are dropped, not kept.

        Raises ServerUnavailable when the daemon leaves or falls silent, InvalidRequest for another interval.
        """
        call = self._telemetry.Watch(telemetry_pb2.WatchRequest(interval_ms=interval_ms))
        try:
            with errors_of(self.target):
                yield from newest_of(call, silence_s(interval_ms))
        finally:
            call.cancel()


class AsyncObserving:
    """Of `AsyncClient`."""

    target: str
    _telemetry: telemetry_pb2_grpc.TelemetryStub

    async def snapshot(self, *, timeout_s: float = 5.0) -> telemetry_pb2.Snapshot:
        """What the daemon and its machine are doing."""
        with errors_of(self.target):
            reply: telemetry_pb2.Snapshot | None = await self._telemetry.GetSnapshot(
                telemetry_pb2.GetSnapshotRequest(), timeout=timeout_s
            )
        return answered(reply, self.target)

    async def watch(self, *, interval_ms: int = 1000) -> AsyncGenerator[telemetry_pb2.Snapshot, None]:
        """As `Client.watch`. Leave it early with `contextlib.aclosing` around it."""
        call = self._telemetry.Watch(telemetry_pb2.WatchRequest(interval_ms=interval_ms))
        try:
            with errors_of(self.target):
                async with aclosing(newest_of_async(call, silence_s(interval_ms))) as newest:
                    async for snapshot in newest:
                        yield snapshot
        finally:
            call.cancel()
