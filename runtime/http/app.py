"""The routes: `/v1/chat/completions`, `/v1/completions`, `/v1/models`, and whether the daemon is there and ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route

from edgeqwen.v1 import generation_pb2

from ..access.call_errors import CallErrors
from ..api.generator import Generator
from ..errors import EdgeQwenError, RequestError
from ..models.registry import Models
from ..requests.strict_json import read_json
from ..validation import parse
from . import asking
from .answers import ChatForm, CompletionForm, Form, Json, Writer
from .exchange import ClientLeft, EventStream, encoded, read_body, until_left
from .failures import HttpError, body_of, grpc_name_of, status_and_headers
from .schemas import ChatRequest, Common, CompletionRequest

Admit = Callable[[HTTPConnection, str], None]
"""Lets a caller in that may use a path, for the task that runs. Raises EdgeQwenError."""
Asked = TypeVar("Asked", bound=Common)

BODY_TIMEOUT_S = 30.0
_DONE = "[DONE]"
_MODELS = "/v1/models"


def make_app(
    models: Models,
    generator: Generator,
    admit: Admit,
    *,
    max_body_bytes: int,
    hosts: frozenset[str] | None = None,
    body_timeout_s: float = BODY_TIMEOUT_S,
    errors: CallErrors | None = None,
) -> Starlette:
    """An ASGI application in front of `models`.

    Args:
        hosts: names that requests may be for, where a browser's page must not get in by a name of its own; None: any.
        errors: counts answers that are one.
    """
    api = _Api(models, generator, admit, max_body_bytes, hosts, body_timeout_s, errors or CallErrors())
    return Starlette(
        routes=[
            Route("/v1/chat/completions", api.chat, methods=["POST"]),
            Route("/v1/completions", api.complete, methods=["POST"]),
            Route(_MODELS, api.list_models),
            Route(f"{_MODELS}/{{name:path}}", api.show_model),
            Route("/healthz", api.live),
            Route("/readyz", api.ready),
        ],
        exception_handlers={
            EdgeQwenError: api.failed,
            HttpError: api.failed,
            HTTPException: api.no_route,
            Exception: api.broken,
        },
    )


class _Api:
    def __init__(
        self,
        models: Models,
        generator: Generator,
        admit: Admit,
        max_body_bytes: int,
        hosts: frozenset[str] | None,
        body_timeout_s: float,
        errors: CallErrors,
    ) -> None:
        self._models, self._generator, self._admit_caller = models, generator, admit
        self._max_body_bytes, self._hosts, self._body_timeout_s = max_body_bytes, hosts, body_timeout_s
        self._errors = errors

    async def chat(self, request: Request) -> Response:
        asked, message = await self._read(request, ChatRequest, asking.chat)
        form = ChatForm(self._spell(message.model), logprobs=bool(asked.logprobs))
        return await self._answer(request, asked, message, form)

    async def complete(self, request: Request) -> Response:
        asked, message = await self._read(request, CompletionRequest, asking.completion)
        form = CompletionForm(self._spell(message.model), logprobs=asked.logprobs is not None)
        return await self._answer(request, asked, message, form)

    async def list_models(self, request: Request) -> Response:
        self._admit(request, _MODELS)
        return _json({"object": "list", "data": [_model(model.name) for model in self._models.ready]})

    async def show_model(self, request: Request) -> Response:
        self._admit(request, _MODELS)
        return _json(_model(self._models.get(request.path_params["name"]).name))

    async def live(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        takes = any(not model.engine.stats().draining for model in self._models.ready)
        return _json({"status": "ok" if takes else "not ready"}, 200 if takes else 503)

    def _admit(self, request: Request, path: str) -> None:
        host = request.headers.get("host", "")
        if self._hosts is not None and _without_port(host) not in self._hosts:
            raise HttpError(421, f"this daemon answers for {', '.join(sorted(self._hosts))} only", closes=True)
        self._admit_caller(request, path)

    async def _read(
        self, request: Request, schema: type[Asked], convert: Callable[[Asked], generation_pb2.GenerateRequest]
    ) -> tuple[Asked, generation_pb2.GenerateRequest]:
        self._admit(request, request.url.path)
        # With another type a browser would send it for any page, without asking us first.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HttpError(415, "the content-type must be application/json", closes=True)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HttpError(415, "the body must not be compressed", closes=True)
        body = await read_body(request, self._max_body_bytes, self._body_timeout_s)

        def read() -> tuple[Asked, generation_pb2.GenerateRequest]:
            asked = parse(schema, read_json(body), subject="", error=RequestError)
            return asked, convert(asked)

        try:
            return await asyncio.to_thread(read)
        except RequestError as error:
            self._generator.log_refusal(error, schema.model_fields)
            raise

    def _spell(self, model: str) -> Callable[[int], str]:
        tokenizer = self._models.get(model).reader.tokenizer
        return lambda token: tokenizer.decode([token])

    async def _answer(
        self, request: Request, asked: Common, message: generation_pb2.GenerateRequest, form: Form
    ) -> Response:
        events = self._generator.generate(message)
        try:
            # A request that waits may still have to leave the queue, so a stream's status is that of its second event.
            started = (await until_left(request.receive, anext(events))).started
            first = await until_left(request.receive, anext(events)) if asked.stream else None
        except BaseException:
            await events.aclose()
            raise
        writer = Writer(form, started)
        if first is not None:
            with_usage = asked.stream_options is not None and asked.stream_options.include_usage
            failed = partial(self._count, request)
            return EventStream(_chunks(first, events, writer, asked.n or 1, with_usage=with_usage, failed=failed))
        async with aclosing(events):
            await until_left(request.receive, _gather(events, writer))
        return _json(writer.answer())

    async def failed(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, EdgeQwenError | HttpError)
        if not isinstance(error, ClientLeft):
            self._count(request, error)
        status, headers = status_and_headers(error)
        return _json(body_of(error), status, headers)

    async def no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            message = f"{request.url.path} does not take {request.method}"
        else:
            message = f"there is nothing at {request.url.path}"
        refusal = HttpError(error.status_code, message)
        self._count(request, refusal)
        return _json(body_of(refusal), error.status_code, dict(error.headers or {}))

    async def broken(self, request: Request, error: Exception) -> Response:
        failure = HttpError(500, "something went wrong in the daemon; its log says what")
        self._count(request, failure)
        return _json(body_of(failure), 500)

    def _count(self, request: Request, error: EdgeQwenError | HttpError) -> None:
        path = request.url.path
        self._errors.add(_MODELS if path.startswith(f"{_MODELS}/") else path, grpc_name_of(error))


async def _chunks(
    first: generation_pb2.GenerateResponse,
    rest: AsyncGenerator[generation_pb2.GenerateResponse, None],
    writer: Writer,
    count: int,
    *,
    with_usage: bool,
    failed: Callable[[EdgeQwenError], None],
) -> AsyncGenerator[Json | str, None]:
    """A failure in the middle is the last that is said: the status has been sent."""
    nothing = {"usage": None} if with_usage else {}
    async with aclosing(rest):
        for opening in writer.openings(count):
            yield opening | nothing
        if (chunk := writer.chunk(first)) is not None:
            yield chunk | nothing
        try:
            async for event in rest:
                if (chunk := writer.chunk(event)) is not None:
                    yield chunk | nothing
        except EdgeQwenError as error:
            failed(error)
            yield body_of(error)
            return
    if with_usage:
        yield writer.usage_chunk()
    yield _DONE


async def _gather(events: AsyncGenerator[generation_pb2.GenerateResponse, None], writer: Writer) -> None:
    async for event in events:
        writer.add(event)


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "edgeqwen"}


def _without_port(host: str) -> str:
    return host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]


def _json(value: Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encoded(value), status, headers, "application/json")
