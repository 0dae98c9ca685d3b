"""Takes the trace of a caller from the metadata of its gRPC call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc.aio

from .context import context_of, enter

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class TraceInterceptor(grpc.aio.ServerInterceptor):
    """What answers the call finds its trace by `context.current()`: gRPC calls it in the same task."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        enter(context_of(handler_call_details.invocation_metadata))
        return await continuation(handler_call_details)
