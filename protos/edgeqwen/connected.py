"""What both clients begin with: a connection that is theirs, and what they call on it."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Generic, TypeVar

import grpc
from grpc_health.v1 import health_pb2_grpc

from .connection import Connection, connection_to
from .v1 import generation_pb2_grpc, models_pb2_grpc, telemetry_pb2_grpc

Channel = TypeVar("Channel", grpc.Channel, grpc.aio.Channel)


class Connected(ABC, Generic[Channel]):
    """A connection to a daemon, made when first needed."""

    _channel: Channel

    def __init__(
        self,
        target: str | Connection | None = None,
        *,
        scope: bytes | None = None,
        retries: int = 0,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        token: str | None = None,
    ) -> None:
        """Raises ValueError for what cannot be meant.

        Args:
            target: "unix:/path/to.sock", "host:port" or "https://host:port"; None takes `default_target()`. Or a
                `Connection`, which says the rest as well.
            ca, certificate, key, token: as `Connection` has them.
            scope: 16 to 64 secret bytes. Prompts of one scope start from each other's KV where they begin alike; None
                draws one for this client, b"" has nothing reused.
            retries: how often a request that is refused for now (TryAgain) is sent again, when the daemon says and as
                long as the timeout allows; a Started may come more than once then.
        """
        self._connection = connection_to(target, ca=ca, certificate=certificate, key=key, token=token)
        self.target, self.retries = self._connection.target, retries
        self._scope = secrets.token_bytes(16) if scope is None else scope
        self._connect()

    def _connect(self) -> None:
        self._channel = self._open(self._connection)
        self._generation = generation_pb2_grpc.GenerationStub(self._channel)
        self._models = models_pb2_grpc.ModelsStub(self._channel)
        self._telemetry = telemetry_pb2_grpc.TelemetryStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    @abstractmethod
    def _open(self, connection: Connection) -> Channel: ...
