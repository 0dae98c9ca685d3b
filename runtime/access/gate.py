"""gRPC's calls pass here before any handler sees them: who calls, and may they?"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import grpc.aio
import structlog

from ..errors import EdgeQwenError, PermissionDenied, RateLimited, Unauthenticated
from .acceptor import Peer
from .call_errors import CallErrors
from .caller import Caller, enter
from .rules import Evidence, Rules
from .seldom import Seldom

if TYPE_CHECKING:  # gRPC's classes take parameters in its stubs only
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    Refuse = Callable[[Context, EdgeQwenError], Awaitable[NoReturn]]

CALLS_PER_CALLER = 1024
"""Each that is open takes some 25 KB, watches of those whom nobody knows among them."""

_ABSTRACT = "unix-abstract:"
_RETRY_S = 1.0
_NAMES_OF_CERTIFICATE = ("peer_uri", "peer_dns", "peer_email", "x509_common_name")  # the first that there is counts


class Gate(grpc.aio.ServerInterceptor):
    """Wraps each handler: a call that is not admitted never reaches it, and one that is runs as its caller.

    Args:
        rules: what decides; may be replaced at any time.
        refuse: ends a call with an error.
        peer: who is behind an abstract name, as `Relay.peer` tells.
        errors: counts the calls that end with one, whoever ends them.
        calls_per_caller: at a time; all whom nobody knows are one.
    """

    def __init__(
        self,
        rules: Rules,
        refuse: Refuse,
        peer: Callable[[str], Peer | None],
        errors: CallErrors | None = None,
        *,
        calls_per_caller: int = CALLS_PER_CALLER,
    ) -> None:
        self.rules, self._refuse, self._peer = rules, refuse, peer
        self._errors = errors or CallErrors()
        self._calls_per_caller = calls_per_caller
        self._open: Counter[str] = Counter()
        self._guarded: dict[str, Handler] = {}
        self._log = structlog.get_logger()
        self._seldom = Seldom()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            self._errors.add(method, grpc.StatusCode.UNIMPLEMENTED.name)  # as gRPC says
            return None
        if method not in self._guarded:
            self._guarded[method] = self._guard(method, handler)
        return self._guarded[method]

    def _guard(self, method: str, handler: Handler) -> Handler:
        kind = "_".join(
            "stream" if streams else "unary" for streams in (handler.request_streaming, handler.response_streaming)
        )
        answer = getattr(handler, kind)
        if inspect.isasyncgenfunction(answer):

            async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
                async with self._admitted(method, context), aclosing(answer(request, context)) as replies:
                    async for reply in replies:
                        yield reply

        elif inspect.iscoroutinefunction(answer):

            async def guarded(request: Any, context: Context) -> Any:  # type: ignore[misc]  # the other kind of handler
                async with self._admitted(method, context):
                    return await answer(request, context)

        else:
            raise AssertionError(f"{method} is answered by a function that is not async")
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        made: Handler = make(guarded, handler.request_deserializer, handler.response_serializer)
        return made

    @asynccontextmanager
    async def _admitted(self, method: str, context: Context) -> AsyncIterator[None]:
        """Within, the call is open and runs as its caller. An error that ends it is counted; who leaves gets none."""
        try:
            name = (await self._admit(method, context)).name
            try:
                yield
            finally:
                self._open[name] -= 1
                if not self._open[name]:
                    del self._open[name]
        except Exception:
            code = context.code() or grpc.StatusCode.UNKNOWN  # what gRPC says of an exception that nobody expected
            self._errors.add(method, code.name)
            raise

    async def _admit(self, method: str, context: Context) -> Caller:
        try:
            caller = self._take(method, context)
        except Unauthenticated as error:
            self._refused(method, context.peer() if context.peer().startswith("ip") else "unix", error)
            await self._refuse(context, error)
        except (PermissionDenied, RateLimited) as error:
            self._refused(method, error.caller if isinstance(error, PermissionDenied) else error.client, error)
            await self._refuse(context, error)
        enter(caller)
        return caller

    def _take(self, method: str, context: Context) -> Caller:
        """Who calls, and has one more call open now. Raises Unauthenticated, PermissionDenied or RateLimited."""
        caller = self.rules.admit(method, self._evidence(context))
        if self._open[caller.name] >= self._calls_per_caller:
            raise RateLimited(caller.name, "open_calls", self._calls_per_caller, _RETRY_S)
        self._open[caller.name] += 1
        return caller

    def _evidence(self, context: Context) -> Evidence:
        peer = context.peer()
        if peer.startswith(_ABSTRACT):
            behind = self._peer(peer.removeprefix(_ABSTRACT))
            return Evidence(uid=behind.uid if behind else None)
        if not peer.startswith(("ipv4:", "ipv6:")):
            return Evidence()
        sent = tuple(
            value if isinstance(value, str) else value.decode("latin-1")
            for key, value in context.invocation_metadata() or ()
            if key == "authorization"
        )
        shown = context.auth_context()
        encrypted = shown.get("transport_security_type") == [b"ssl"]
        names = (name for key in _NAMES_OF_CERTIFICATE for name in shown.get(key, ()))
        certificate = next(names, None) if encrypted else None
        return Evidence(
            certificate=certificate.decode("utf-8", "backslashreplace") if certificate else None,
            address=_address(peer),
            encrypted=encrypted,
            authorization=sent,
        )

    def _refused(self, method: str, caller: str, error: Exception) -> None:
        silent = self._seldom.passes()
        if silent is not None:
            more = {"silent_before": silent} if silent else {}
            self._log.warning("call refused", reason=type(error).__name__, method=method, caller=caller, **more)


def _address(peer: str) -> str:
    """The IP address in `ipv4:127.0.0.1:35482` or `ipv6:%5B::1%5D:33040`."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "")
