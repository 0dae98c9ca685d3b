"""Clients of the daemon, for threads (`Client`) and for asyncio (`AsyncClient`).

with Client() as client:
    print(client.chat([("user", "Why is the pump vibrating?")]).text)

async with AsyncClient("unix:/run/edgeqwen/edgeqwend.sock") as client:
    async for event in client.generate(prompt="Once upon a time", options=Options(max_tokens=64)):
        if isinstance(event, Delta):
            print(event.text, end="")
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self, cast

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .v1 import generation_pb2 as pb
from .v1 import generation_pb2_grpc, telemetry_pb2, telemetry_pb2_grpc

DEFAULT_TARGET = "unix:/run/edgeqwen/edgeqwend.sock"
TARGET_VARIABLE = "EDGEQWEN_TARGET"

MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un has 108, with a zero at the end

Message = tuple[str, str]
"""A turn of a conversation: its role ("system", "user" or "assistant") and its content."""

Violation = tuple[str, str]
"""A field as generation.proto names it, such as "sampling.top_p", and what is wrong with it."""


class ClientError(Exception):
    """The daemon did not do what was asked; the message is its reason."""


class ServerUnavailable(ClientError):
    """Nothing answers at the target, or it is shutting down."""


class InvalidRequest(ClientError):
    """The request can never succeed. `violations` has every fault as (field, description)."""

    def __init__(self, message: str, violations: tuple[Violation, ...]) -> None:
        self.violations = violations
        super().__init__(message)


class QueueFull(ClientError):
    """Too many requests wait; try again in `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class DeadlineExceeded(ClientError):
    """The timeout passed before the answer was complete."""


@dataclass(frozen=True)
class Started:
    """The daemon has accepted the request."""

    request_id: str
    model: str
    prompt_tokens: int


@dataclass(frozen=True)
class Delta:
    """More of the answer."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Finished:
    """The answer has ended. `reason` is "eos", "stop" or "length"; `stop` is the stop string that was found."""

    reason: str
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    time_to_first_token_ms: float
    total_ms: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    stop: str | None = None


Event = Started | Delta | Finished


@dataclass(frozen=True)
class Completion:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    finished: Finished


@dataclass(frozen=True)
class Options:
    """How to generate. What is None takes the daemon's default, which is the model's own recommendation.

    See GenerateRequest in generation.proto for ranges.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


def default_target() -> str:
    """EDGEQWEN_TARGET, or the socket of the system's daemon."""
    return os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET


def checked_target(target: str) -> str:
    """The same target. Raises ValueError if it is neither unix:PATH nor HOST:PORT."""
    if target.startswith("unix:"):
        path = target.removeprefix("unix:").removeprefix("//")
        if not path:
            raise ValueError("the path after unix: is missing")
        if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
            raise ValueError(f"a socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes (got {path})")
        return target
    host, _, port = target.rpartition(":")
    if host and port.isdecimal() and 0 < int(port) < 1 << 16:
        return target
    hint = f"; did you mean unix:{target}?" if "/" in target else ""
    raise ValueError(f"a target is unix:PATH or HOST:PORT (got {target!r}){hint}")


def build_request(
    *,
    messages: Iterable[Message] | None = None,
    prompt: str | None = None,
    token_ids: Sequence[int] | None = None,
    options: Options | None = None,
) -> pb.GenerateRequest:
    """A GenerateRequest of exactly one of `messages`, `prompt` and `token_ids`. Raises ValueError otherwise.

    Raises InvalidRequest for what the contract's types cannot hold; whether the rest makes sense, the daemon says.
    """
    if sum(given is not None for given in (messages, prompt, token_ids)) != 1:
        raise ValueError("give exactly one of messages, prompt and token_ids")
    options = options or Options()
    turns = None if messages is None else list(messages)
    if faults := tuple(_unsendable(turns or (), prompt or "", token_ids or (), options)):
        raise InvalidRequest("; ".join(f"{field}: {reason}" for field, reason in faults), faults)
    request = pb.GenerateRequest(
        stop=options.stop,
        ignore_eos=options.ignore_eos,
        max_tokens=options.max_tokens,
        sampling=pb.Sampling(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            repetition_penalty=options.repetition_penalty,
            seed=options.seed,
        ),
    )
    if turns is not None:
        request.chat.CopyFrom(pb.Chat(messages=[pb.Message(role=role, content=content) for role, content in turns]))
    elif prompt is not None:
        request.prompt = prompt
    else:
        request.token_ids.CopyFrom(pb.TokenIds(ids=token_ids or ()))
    return request


def _unsendable(
    turns: Iterable[Message], prompt: str, token_ids: Iterable[int], options: Options
) -> Iterator[Violation]:
    """Numbers and texts that protobuf refuses, sorted by field; of the token ids, the first."""
    for at, (role, content) in enumerate(turns):
        yield from _text_fault(f"chat.messages[{at}].content", content)
        yield from _text_fault(f"chat.messages[{at}].role", role)
    yield from _number_fault("max_tokens", options.max_tokens, bits=32)
    yield from _text_fault("prompt", prompt)
    yield from _number_fault("sampling.seed", options.seed, bits=64)
    yield from _number_fault("sampling.top_k", options.top_k, bits=32)
    for at, text in enumerate(options.stop):
        yield from _text_fault(f"stop[{at}]", text)
    faults = (_number_fault(f"token_ids.ids[{at}]", token, bits=32) for at, token in enumerate(token_ids))
    yield from next((found for fault in faults if (found := list(fault))), [])


def _number_fault(field: str, number: int | None, *, bits: int) -> Iterator[Violation]:
    if number is not None and not 0 <= number < 1 << bits:
        yield field, f"must be 0 to {(1 << bits) - 1} (got {number})"


def _text_fault(field: str, text: str) -> Iterator[Violation]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        yield field, f"must be text that UTF-8 can hold (character {error.start} is not)"


class Client:
    """A connection to a daemon, made when first needed; may be shared by threads.

    Args:
        target: "unix:/path/to.sock" or "host:port"; None takes `default_target()`. Raises ValueError for any other.
    """

    def __init__(self, target: str | None = None) -> None:
        self.target = checked_target(target or default_target())
        self._connect()

    def _connect(self) -> None:
        self._channel = grpc.insecure_channel(self.target, options=_CHANNEL_OPTIONS)
        self._generation = generation_pb2_grpc.GenerationStub(self._channel)
        self._telemetry = telemetry_pb2_grpc.TelemetryStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; answers that still stream are cancelled."""
        self._channel.close()

    def generate(
        self,
        *,
        messages: Iterable[Message] | None = None,
        prompt: str | None = None,
        token_ids: Sequence[int] | None = None,
        options: Options | None = None,
        timeout_s: float | None = None,
    ) -> Generator[Event, None, None]:
        """Streams one answer: a Started, Deltas, a Finished. Closing the generator cancels the rest.

        The request is sent when the first event is asked for. Raises ClientError or one of its kinds.
        """
        request = build_request(messages=messages, prompt=prompt, token_ids=token_ids, options=options)
        call = self._generation.Generate(request, timeout=timeout_s)
        try:
            for response in call:
                if (event := _event(response)) is not None:
                    yield event
        except grpc.RpcError as error:
            _raise(error, self.target)
        except KeyboardInterrupt:
            # It may have been raised inside gRPC, between taking a lock and giving it back: that channel is stuck.
            self._connect()
            raise
        finally:
            call.cancel()

    def chat(
        self, messages: Iterable[Message], *, options: Options | None = None, timeout_s: float | None = None
    ) -> Completion:
        """The whole answer to a conversation."""
        return _joined(self.generate(messages=messages, options=options, timeout_s=timeout_s))

    def complete(self, prompt: str, *, options: Options | None = None, timeout_s: float | None = None) -> Completion:
        """The whole continuation of a raw prompt."""
        return _joined(self.generate(prompt=prompt, options=options, timeout_s=timeout_s))

    def snapshot(self, *, timeout_s: float = 5.0) -> telemetry_pb2.Snapshot:
        """What the daemon and its machine are doing."""
        try:
            reply: telemetry_pb2.Snapshot = self._telemetry.GetSnapshot(
                telemetry_pb2.GetSnapshotRequest(), timeout=timeout_s
            )
        except grpc.RpcError as error:
            _raise(error, self.target)
        return reply

    def health(self, service: str = "", *, timeout_s: float = 5.0) -> str:
        """ "SERVING" or "NOT_SERVING"."""
        try:
            reply = self._health.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError as error:
            _raise(error, self.target)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))

    def wait_until_serving(self, *, timeout_s: float = 30.0) -> None:
        """Returns when the daemon accepts requests. Raises ServerUnavailable if that takes longer."""
        watch = self._health.Watch(health_pb2.HealthCheckRequest(), timeout=timeout_s, wait_for_ready=True)
        try:
            for reply in watch:
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        except grpc.RpcError as error:
            raise ServerUnavailable(f"nothing serves at {self.target} after {timeout_s:g} s") from error
        finally:
            watch.cancel()
        raise ServerUnavailable(f"{self.target} stopped before it served")


class AsyncClient:
    """`Client` for asyncio. Make it where an event loop runs."""

    def __init__(self, target: str | None = None) -> None:
        self.target = checked_target(target or default_target())
        self._channel = grpc.aio.insecure_channel(self.target, options=_CHANNEL_OPTIONS)
        self._generation = generation_pb2_grpc.GenerationStub(self._channel)
        self._telemetry = telemetry_pb2_grpc.TelemetryStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection; answers that still stream are cancelled."""
        await self._channel.close()

    async def generate(
        self,
        *,
        messages: Iterable[Message] | None = None,
        prompt: str | None = None,
        token_ids: Sequence[int] | None = None,
        options: Options | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Streams one answer, as `Client.generate` does. Leave it early with `contextlib.aclosing` around it."""
        request = build_request(messages=messages, prompt=prompt, token_ids=token_ids, options=options)
        call = self._generation.Generate(request, timeout=timeout_s)
        try:
            async for response in call:
                if (event := _event(response)) is not None:
                    yield event
        except grpc.RpcError as error:
            _raise(error, self.target)
        finally:
            call.cancel()

    async def chat(
        self, messages: Iterable[Message], *, options: Options | None = None, timeout_s: float | None = None
    ) -> Completion:
        """The whole answer to a conversation."""
        stream = self.generate(messages=messages, options=options, timeout_s=timeout_s)
        return _joined([event async for event in stream])

    async def complete(
        self, prompt: str, *, options: Options | None = None, timeout_s: float | None = None
    ) -> Completion:
        """The whole continuation of a raw prompt."""
        stream = self.generate(prompt=prompt, options=options, timeout_s=timeout_s)
        return _joined([event async for event in stream])

    async def snapshot(self, *, timeout_s: float = 5.0) -> telemetry_pb2.Snapshot:
        """What the daemon and its machine are doing."""
        try:
            reply: telemetry_pb2.Snapshot = await self._telemetry.GetSnapshot(
                telemetry_pb2.GetSnapshotRequest(), timeout=timeout_s
            )
        except grpc.RpcError as error:
            _raise(error, self.target)
        return reply

    async def health(self, service: str = "", *, timeout_s: float = 5.0) -> str:
        """ "SERVING" or "NOT_SERVING"."""
        try:
            reply = await self._health.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError as error:
            _raise(error, self.target)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))

    async def wait_until_serving(self, *, timeout_s: float = 30.0) -> None:
        """Returns when the daemon accepts requests. Raises ServerUnavailable if that takes longer."""
        watch = self._health.Watch(health_pb2.HealthCheckRequest(), timeout=timeout_s, wait_for_ready=True)
        try:
            async for reply in watch:
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        except grpc.RpcError as error:
            raise ServerUnavailable(f"nothing serves at {self.target} after {timeout_s:g} s") from error
        finally:
            watch.cancel()
        raise ServerUnavailable(f"{self.target} stopped before it served")


_CHANNEL_OPTIONS = [
    # A daemon that starts is found within a quarter of a second, not after the default two minutes.
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # A proxy set for the web is not the way to a daemon on this machine or the next one.
    ("grpc.enable_http_proxy", 0),
]


def _event(response: pb.GenerateResponse) -> Event | None:
    """None for a kind of event that only newer clients know."""
    kind = response.WhichOneof("event")
    if kind is None:
        return None
    if kind == "delta":
        return Delta(response.delta.text, tuple(response.delta.token_ids))
    if kind == "started":
        started = response.started
        return Started(started.request_id, started.model, started.prompt_tokens)
    end = response.finished
    return Finished(
        reason=pb.Finished.Reason.Name(end.reason).removeprefix("REASON_").lower(),
        prompt_tokens=end.usage.prompt_tokens,
        completion_tokens=end.usage.completion_tokens,
        queue_ms=end.timings.queue_ms,
        time_to_first_token_ms=end.timings.time_to_first_token_ms,
        total_ms=end.timings.total_ms,
        prefill_tokens_per_second=end.timings.prefill_tokens_per_second,
        decode_tokens_per_second=end.timings.decode_tokens_per_second,
        stop=end.stop if end.HasField("stop") else None,
    )


def _joined(events: Iterable[Event]) -> Completion:
    text: list[str] = []
    token_ids: list[int] = []
    finished = None
    for event in events:  # to its end, so that the call ends as the daemon ends it
        if isinstance(event, Delta):
            text.append(event.text)
            token_ids += event.token_ids
        elif isinstance(event, Finished):
            finished = event
    if finished is None:
        raise ClientError("the stream ended without a result")
    return Completion("".join(text), tuple(token_ids), finished)


def _raise(error: grpc.RpcError, target: str) -> NoReturn:
    """The one table from gRPC codes to exceptions."""
    code, message = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        raise ServerUnavailable(_unavailable(message, target)) from error
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        raise InvalidRequest(message, _violations(error)) from error
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and message.startswith("SERVER: Received message larger"):
        reason = f"is too large for the daemon ({message})"
        raise InvalidRequest(f"the request {reason}", (("input", reason),)) from error
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        raise QueueFull(message, _retry_after_s(error)) from error
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        raise DeadlineExceeded("the timeout passed before the answer was complete") from error
    raise ClientError(f"{code.name}: {message}") from error


_NOT_THERE = ("failed to connect", "connections to all backends failing", "errors resolving")


def _unavailable(message: str, target: str) -> str:
    """What to do about it. Only gRPC's words tell a daemon that is not there from one that refuses."""
    if not message.startswith(_NOT_THERE):
        return f"{target}: {message}"
    reason = message.rpartition(": ")[2].rstrip("]")
    if reason == "Permission denied":
        return f"{target} is not for this user (permission denied); are you in the daemon's group? `id` tells"
    return f"nothing listens at {target} ({reason}); is edgeqwend running? try `systemctl status edgeqwend`"


def _details(error: grpc.RpcError) -> status_pb2.Status:
    metadata = dict(cast(Iterable[tuple[str, bytes]], error.trailing_metadata() or ()))
    return status_pb2.Status.FromString(metadata.get("grpc-status-details-bin", b""))


def _violations(error: grpc.RpcError) -> tuple[Violation, ...]:
    request = error_details_pb2.BadRequest()
    found = [detail for detail in _details(error).details if detail.Unpack(request)]
    return tuple((v.field, v.description) for v in request.field_violations) if found else ()


def _retry_after_s(error: grpc.RpcError) -> float:
    retry = error_details_pb2.RetryInfo()
    found = [detail for detail in _details(error).details if detail.Unpack(retry)]
    return retry.retry_delay.ToMilliseconds() / 1e3 if found else 1.0
