"""gRPC reflection, for tools such as grpcurl that know a service only from what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc.aio
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection

from edgeqwen.kserve import inference_pb2

T = TypeVar("T")


def add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Makes `server` describe these services, and itself."""
    pools = Pools(inference_pb2.DESCRIPTOR.pool, descriptor_pool.Default())
    reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], server, pool=pools)


class Pools:
    """Descriptor pools as one: the first that has what is looked for. As much of a pool as reflection asks for."""

    def __init__(self, *pools: Any) -> None:
        self._pools = pools

    def FindFileByName(self, name: str) -> Any:  # noqa: N802 - the names are protobuf's
        return self._first(lambda pool: pool.FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802
        return self._first(lambda pool: pool.FindFileContainingSymbol(symbol))

    def FindMessageTypeByName(self, name: str) -> Any:  # noqa: N802
        return self._first(lambda pool: pool.FindMessageTypeByName(name))

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:  # noqa: N802
        return message.file.pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Any) -> Any:  # noqa: N802
        return message.file.pool.FindAllExtensions(message)

    def _first(self, find: Callable[[Any], T]) -> T:
        *others, last = self._pools
        for pool in others:
            try:
                return find(pool)
            except KeyError:
                continue
        return find(last)
