"""Clients of the daemon, for threads (`Client`) and for asyncio (`AsyncClient`).

with Client() as client:
    print(client.chat([("user", "Why is the pump vibrating?")]).text)

async with AsyncClient("unix:/run/edgeqwen/edgeqwend.sock") as client:
    async for event in client.generate(prompt="Once upon a time", options=Options(max_tokens=64)):
        if isinstance(event, Delta):
            print(event.text, end="")
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2

from .connected import Connected
from .connection import DEFAULT_TARGET, TARGET_VARIABLE, Connection, checked_target, default_target
from .errors import (
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    QueueFull,
    RateLimited,
    Refused,
    ServerUnavailable,
    TryAgain,
    Unauthenticated,
    answered,
    errors_of,
    raise_for,
)
from .messages import (
    Ask,
    Completion,
    Delta,
    Event,
    Finished,
    Message,
    Options,
    Started,
    TokenLogprobs,
    Tool,
    ToolCall,
    Turn,
    completions_of,
    event_of,
    result_of,
)
from .observing import AsyncObserving, Observing
from .operations import AsyncOperations, Operations
from .requests import build_batch_request, build_detokenize_request, build_request, build_tokenize_request
from .retrying import retried, retried_async
from .v1 import models_pb2

__all__ = [
    "DEFAULT_TARGET",
    "TARGET_VARIABLE",
    "Ask",
    "AsyncClient",
    "Client",
    "ClientError",
    "Completion",
    "Connection",
    "DeadlineExceeded",
    "Delta",
    "Event",
    "Finished",
    "InvalidRequest",
    "Message",
    "NotFound",
    "Options",
    "PermissionDenied",
    "QueueFull",
    "RateLimited",
    "Refused",
    "ServerUnavailable",
    "Started",
    "TokenLogprobs",
    "Tool",
    "ToolCall",
    "TryAgain",
    "Turn",
    "Unauthenticated",
    "checked_target",
    "default_target",
]


class Client(Connected[grpc.Channel], Observing, Operations):
    """A connection to a daemon, made when first needed; may be shared by threads."""

    def _open(self, connection: Connection) -> grpc.Channel:
        return connection.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; answers that still stream are cancelled."""
        self._channel.close()

    @retried
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
        request = build_request(
            messages=messages, prompt=prompt, token_ids=token_ids, options=options, scope=self._scope
        )
        call = self._generation.Generate(request, timeout=timeout_s)
        try:
            for response in call:
                if (event := event_of(response)) is not None:
                    yield event
        except grpc.RpcError as error:
            raise_for(error, self.target)
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
        return self.samples(messages=messages, options=_one(options), timeout_s=timeout_s)[0]

    def complete(self, prompt: str, *, options: Options | None = None, timeout_s: float | None = None) -> Completion:
        """The whole continuation of a raw prompt."""
        return self.samples(prompt=prompt, options=_one(options), timeout_s=timeout_s)[0]

    def samples(
        self,
        *,
        messages: Iterable[Message] | None = None,
        prompt: str | None = None,
        token_ids: Sequence[int] | None = None,
        options: Options | None = None,
        timeout_s: float | None = None,
    ) -> list[Completion]:
        """`Options.n` whole answers; the prompt is computed once."""
        return completions_of(
            self.generate(messages=messages, prompt=prompt, token_ids=token_ids, options=options, timeout_s=timeout_s)
        )

    def generate_batch(
        self, asks: Iterable[Ask], *, timeout_s: float | None = None
    ) -> Generator[tuple[int, Completion | ClientError], None, None]:
        """Whole answers to many requests, each with the place of its request, in the order in which they end.

        One that fails comes as the error. Closing the generator cancels the rest. Raises as `generate` does.
        """
        call = self._generation.GenerateBatch(build_batch_request(asks, self._scope), timeout=timeout_s)
        try:
            for response in call:
                yield response.request, result_of(response)
        except grpc.RpcError as error:
            raise_for(error, self.target)
        except KeyboardInterrupt:
            self._connect()  # as in `generate`
            raise
        finally:
            call.cancel()

    def tokenize(
        self,
        *,
        messages: Iterable[Message] | None = None,
        prompt: str | None = None,
        options: Options | None = None,
        timeout_s: float = 30.0,
    ) -> tuple[int, ...]:
        """The tokens that a conversation, with the chat template and the tools of `options`, or a text would be."""
        request = build_tokenize_request(messages=messages, prompt=prompt, options=options)
        with errors_of(self.target):
            return tuple(self._generation.Tokenize(request, timeout=timeout_s).token_ids)

    def count_tokens(
        self,
        *,
        messages: Iterable[Message] | None = None,
        prompt: str | None = None,
        options: Options | None = None,
        timeout_s: float = 30.0,
    ) -> int:
        """How many tokens that is."""
        request = build_tokenize_request(messages=messages, prompt=prompt, options=options, count_only=True)
        with errors_of(self.target):
            return int(self._generation.Tokenize(request, timeout=timeout_s).count)

    def detokenize(self, token_ids: Sequence[int], *, timeout_s: float = 30.0) -> str:
        """The text of tokens, special ones left out."""
        request = build_detokenize_request(token_ids)
        with errors_of(self.target):
            return str(self._generation.Detokenize(request, timeout=timeout_s).text)

    def models(self, *, timeout_s: float = 5.0) -> list[models_pb2.ListedModel]:
        """What is loaded, the default model first, then what comes and what could."""
        with errors_of(self.target):
            return list(self._models.ListModels(models_pb2.ListModelsRequest(), timeout=timeout_s).models)

    def load_model(
        self, package: str, *, variant: str = "", replace: str = "", default: bool = False
    ) -> Generator[models_pb2.LoadModelResponse, None, None]:
        """Loads a package of the daemon's, and tells how far it is; the last message has the model.

        Leaving the generator does not stop what was begun.
        """
        request = models_pb2.LoadModelRequest(package=package, variant=variant, replace=replace, default=default)
        with errors_of(self.target):
            yield from self._models.LoadModel(request)

    def unload_model(self, name: str, *, timeout_s: float | None = None) -> None:
        """Takes a model out; returns when its requests have ended."""
        with errors_of(self.target):
            self._models.UnloadModel(models_pb2.UnloadModelRequest(name=name), timeout=timeout_s)

    def health(self, service: str = "", *, timeout_s: float = 5.0) -> str:
        """ "SERVING" or "NOT_SERVING"."""
        with errors_of(self.target):
            reply = self._health.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
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


class AsyncClient(Connected[grpc.aio.Channel], AsyncObserving, AsyncOperations):
    """`Client` for asyncio. Make it where an event loop runs."""

    def _open(self, connection: Connection) -> grpc.aio.Channel:
        return connection.open_async()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection; answers that still stream are cancelled."""
        await self._channel.close()

    @retried_async
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
        request = build_request(
            messages=messages, prompt=prompt, token_ids=token_ids, options=options, scope=self._scope
        )
        call = self._generation.Generate(request, timeout=timeout_s)
        try:
            async for response in call:
                if (event := event_of(response)) is not None:
                    yield event
        except grpc.RpcError as error:
            raise_for(error, self.target)
        finally:
            call.cancel()

    async def chat(
        self, messages: Iterable[Message], *, options: Options | None = None, timeout_s: float | None = None
    ) -> Completion:
        """The whole answer to a conversation."""
        return (await self.samples(messages=messages, options=_one(options), timeout_s=timeout_s))[0]

    async def complete(
        self, prompt: str, *, options: Options | None = None, timeout_s: float | None = None
    ) -> Completion:
        """The whole continuation of a raw prompt."""
        return (await self.samples(prompt=prompt, options=_one(options), timeout_s=timeout_s))[0]

    async def samples(
        self,
        *,
        messages: Iterable[Message] | None = None,
        prompt: str | None = None,
        token_ids: Sequence[int] | None = None,
        options: Options | None = None,
        timeout_s: float | None = None,
    ) -> list[Completion]:
        """`Options.n` whole answers; the prompt is computed once."""
        stream = self.generate(
            messages=messages, prompt=prompt, token_ids=token_ids, options=options, timeout_s=timeout_s
        )
        return completions_of([event async for event in stream])

    async def generate_batch(
        self, asks: Iterable[Ask], *, timeout_s: float | None = None
    ) -> AsyncGenerator[tuple[int, Completion | ClientError], None]:
        """As `Client.generate_batch`. Leave it early with `contextlib.aclosing` around it."""
        call = self._generation.GenerateBatch(build_batch_request(asks, self._scope), timeout=timeout_s)
        try:
            async for response in call:
                yield response.request, result_of(response)
        except grpc.RpcError as error:
            raise_for(error, self.target)
        finally:
            call.cancel()

    async def tokenize(
        self,
        *,
        messages: Iterable[Message] | None = None,
        prompt: str | None = None,
        options: Options | None = None,
        timeout_s: float = 30.0,
    ) -> tuple[int, ...]:
        """The tokens that a conversation, with the chat template and the tools of `options`, or a text would be."""
        request = build_tokenize_request(messages=messages, prompt=prompt, options=options)
        with errors_of(self.target):
            return tuple((await self._generation.Tokenize(request, timeout=timeout_s)).token_ids)

    async def count_tokens(
        self,
        *,
        messages: Iterable[Message] | None = None,
        prompt: str | None = None,
        options: Options | None = None,
        timeout_s: float = 30.0,
    ) -> int:
        """How many tokens that is."""
        request = build_tokenize_request(messages=messages, prompt=prompt, options=options, count_only=True)
        with errors_of(self.target):
            return int((await self._generation.Tokenize(request, timeout=timeout_s)).count)

    async def detokenize(self, token_ids: Sequence[int], *, timeout_s: float = 30.0) -> str:
        """The text of tokens, special ones left out."""
        request = build_detokenize_request(token_ids)
        with errors_of(self.target):
            return str((await self._generation.Detokenize(request, timeout=timeout_s)).text)

    async def models(self, *, timeout_s: float = 5.0) -> list[models_pb2.ListedModel]:
        """As `Client.models`."""
        with errors_of(self.target):
            return list((await self._models.ListModels(models_pb2.ListModelsRequest(), timeout=timeout_s)).models)

    async def load_model(
        self, package: str, *, variant: str = "", replace: str = "", default: bool = False
    ) -> AsyncGenerator[models_pb2.LoadModelResponse, None]:
        """As `Client.load_model`."""
        request = models_pb2.LoadModelRequest(package=package, variant=variant, replace=replace, default=default)
        with errors_of(self.target):
            async for response in self._models.LoadModel(request):
                yield response

    async def unload_model(self, name: str, *, timeout_s: float | None = None) -> None:
        """As `Client.unload_model`."""
        with errors_of(self.target):
            await self._models.UnloadModel(models_pb2.UnloadModelRequest(name=name), timeout=timeout_s)

    async def health(self, service: str = "", *, timeout_s: float = 5.0) -> str:
        """ "SERVING" or "NOT_SERVING"."""
        with errors_of(self.target):
            reply: health_pb2.HealthCheckResponse | None = await self._health.Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout_s
            )
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answered(reply, self.target).status))

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


def _one(options: Options | None) -> Options | None:
    if options is not None and options.n not in (None, 1):
        raise ValueError("several answers are what `samples` is for")
    return options
