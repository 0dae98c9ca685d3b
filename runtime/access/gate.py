"""gRPC's calls pass here before any handler sees them: who calls, and may they?"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import grpc.aio
import structlog

from ..errors import EdgeQwenError, PermissionDenied, Unauthenticated
from .acceptor import Peer
from .call_errors import CallErrors
from .caller import enter
from .rules import Evidence, Rules
from .seldom import Seldom

if TYPE_CHECKING:  # gRPC's classes take parameters in its stubs only
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    Refuse = Callable[[Context, EdgeQwenError], Awaitable[NoReturn]]

_ABSTRACT = "unix-abstract:"
_NAMES_OF_CERTIFICATE = ("peer_uri", "peer_dns", "peer_email", "x509_common_name")  # the first that there is counts


class Gate(grpc.aio.ServerInterceptor):
    """Wraps each handler: a call that is not admitted never reaches it, and one that is runs as its caller.

    Args:
        rules: what decides; may be replaced at any time.
        refuse: ends a call with an error.
        peer: who is behind an abstract name, as `Relay.peer` tells.
        errors: counts the calls that end with one, whoever ends them.
    """

    def __init__(
        self, rules: Rules, refuse: Refuse, peer: Callable[[str], Peer | None], errors: CallErrors | None = None
    ) -> None:
        self.rules, self._refuse, self._peer = rules, refuse, peer
        self._errors = errors or CallErrors()
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
                with self._counted(method, context):
                    await self._admit(method, context)
                    async with aclosing(answer(request, context)) as replies:
                        async for reply in replies:
                            yield reply

        elif inspect.iscoroutinefunction(answer):

            async def guarded(request: Any, context: Context) -> Any:  # type: ignore[misc]  # the other kind of handler
                with self._counted(method, context):
                    await self._admit(method, context)
                    return await answer(request, context)

        else:
            raise AssertionError(f"{method} is answered by a function that is not async")
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        made: Handler = make(guarded, handler.request_deserializer, handler.response_serializer)
        return made

    @contextmanager
    def _counted(self, method: str, context: Context) -> Iterator[None]:
        """A call that ends within is counted if it ends with an error. A caller that leaves gets none."""
        try:
            yield
        except Exception:
            code = context.code() or grpc.StatusCode.UNKNOWN  # what gRPC says of an exception that nobody expected
            self._errors.add(method, code.name)
            raise

    async def _admit(self, method: str, context: Context) -> None:
        try:
            enter(self.rules.admit(method, self._evidence(context)))
        except Unauthenticated as error:
            self._refused(method, context.peer() if context.peer().startswith("ip") else "unix", error)
            await self._refuse(context, error)
        except PermissionDenied as error:
            self._refused(method, error.caller, error)
            await self._refuse(context, error)

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
