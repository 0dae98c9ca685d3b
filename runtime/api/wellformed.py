"""Bytes that are no message of the method they were sent to: gRPC would answer them with UNKNOWN and a Python error."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.message import DecodeError

from ..errors import Fault, RequestError
from .replies import abort

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # a class without parameters at run time
_Context = grpc.aio.ServicerContext[Any, Any]

_KINDS: dict[tuple[bool, bool], tuple[str, Callable[..., _Handler]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
"""By whether requests are streamed, and replies."""


_NO_MESSAGE = RequestError(
    [Fault("", "these bytes are no message of this method: make the client from this daemon's .proto files")]
)


class _Malformed:
    """Stands for a message until there is a call to refuse."""


class RefuseMalformed(grpc.aio.ServerInterceptor):
    """Answers what does not parse with INVALID_ARGUMENT, for every method of the server."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        name, make = _KINDS[handler.request_streaming, handler.response_streaming]
        guarded = _guarded(getattr(handler, name), many=handler.request_streaming)
        return make(guarded, _tolerant(handler.request_deserializer), handler.response_serializer)


def _tolerant(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return _Malformed()

    return parsed


def _guarded(behaviour: Callable[[Any, _Context], Any], *, many: bool) -> Callable[[Any, _Context], Any]:
    """`behaviour`, which takes a request or `many`, is only called with what parsed."""

    async def parsed(request: Any, context: _Context) -> Any:
        if isinstance(request, _Malformed):
            await abort(context, _NO_MESSAGE)
        return _all_parsed(request, context) if many else request

    async def answer(request: Any, context: _Context) -> Any:
        return await behaviour(await parsed(request, context), context)

    async def stream(request: Any, context: _Context) -> AsyncIterator[Any]:
        async with aclosing(behaviour(await parsed(request, context), context)) as replies:
            async for reply in replies:
                yield reply

    return stream if inspect.isasyncgenfunction(behaviour) else answer


async def _all_parsed(requests: AsyncIterator[Any], context: _Context) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, _Malformed):
            await abort(context, _NO_MESSAGE)
        yield request
