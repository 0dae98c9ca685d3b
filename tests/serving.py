"""The real services over the real engine on a scripted session, on a unix socket, in this process."""

from __future__ import annotations

import asyncio
import grp
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc.aio
import structlog
from chatml import CHATML
from fakes import ScriptedSession, byte_tokenizer, no_models

from runtime.access.certificates import Certificates
from runtime.access.clients import Clients
from runtime.access.entrance import Entrance
from runtime.access.limits import LimitBook
from runtime.access.rules import Rules
from runtime.api.replies import abort
from runtime.engine.engine import Engine
from runtime.engine.grammar import Grammars
from runtime.engine.tokenizer import Tokenizer
from runtime.health.caretaker import Caretaker
from runtime.lifecycle.services import make_services
from runtime.models.model import Model, ModelFacts
from runtime.models.registry import Models
from runtime.package import SamplingDefaults
from runtime.requests.chat import ChatTemplate
from runtime.requests.reader import RequestReader

MODEL = "scripted"


def make_entrance(
    rules: Rules | None = None, certificates: Certificates | None = None, *, connections: int = 64
) -> Entrance:
    """By default one by which this user may do everything."""
    return Entrance(
        rules or Rules({}, {}, os.geteuid()),
        abort,
        certificates,
        socket_group=grp.getgrgid(os.getegid()).gr_name,
        connections=connections,
        connections_per_user=connections,
    )


@contextmanager
def serving(
    session: ScriptedSession,
    *,
    tokenizer: Tokenizer | None = None,
    template: str = CHATML,
    book: LimitBook | None = None,
    entrance: Entrance | None = None,
    listen: str | None = None,
    **limits: int,
) -> Iterator[str]:
    """Serves `session` at `listen`, by default a unix socket, with the limits of `book`; yields the target."""
    clients, entrance = Clients(book), entrance or make_entrance()
    with _models(session, tokenizer, template, clients, book, limits) as (models, run), _folder() as folder:
        server, caretaker, target = run(_start(models, entrance, listen or f"unix:{folder}/d.sock", clients))
        try:
            yield target
        finally:
            run(caretaker.stop())
            models.ready[0].engine.stop()
            run(server.stop(1))
            run(entrance.close())


@contextmanager
def serving_http(
    session: ScriptedSession,
    listen: str = "unix",
    *,
    tokenizer: Tokenizer | None = None,
    template: str = CHATML,
    book: LimitBook | None = None,
    limits: Mapping[str, int] | None = None,
    **options: Any,
) -> Iterator[str]:
    """Serves `session` over HTTP, with `options` of HttpListener; yields where."""
    from runtime.http.listener import HttpListener  # late: it needs the extra `http`

    with _models(session, tokenizer, template, Clients(book), book, limits or {}) as (models, run), _folder() as folder:
        listen = f"unix:{folder}/h.sock" if listen == "unix" else listen
        listener = HttpListener(listen, **{"max_body_bytes": 1 << 20, **options})
        where = run(listener.start(models))
        try:
            yield where
        finally:
            models.ready[0].engine.stop()
            run(listener.close())


@contextmanager
def _models(
    session: ScriptedSession,
    tokenizer: Tokenizer | None,
    template: str,
    clients: Clients,
    book: LimitBook | None,
    limits: Mapping[str, int],
) -> Iterator[tuple[Models, Callable[[Coroutine[Any, Any, Any]], Any]]]:
    """A model that runs `session`, and what runs coroutines on an event loop of its own."""
    tokenizer = tokenizer or byte_tokenizer()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # not where a command's output goes
    engine = Engine(
        session,
        tokenizer,
        eos_token_ids=frozenset({0}),
        clients=clients,
        **{"queue_limit": 64, "prefill_chunk_tokens": 16, "kv_budget_tokens": 10_000, **limits},
    )
    reader = RequestReader(
        tokenizer,
        ChatTemplate(template),
        SamplingDefaults(),
        session.spec.vocab_size,
        engine.context_tokens,
        Grammars(tokenizer, session.spec.vocab_size, frozenset({0})),
        adapters=session.adapters,
        limits=clients.limits_of,
    )
    models = no_models()
    models.add(Model(engine, reader, ModelFacts(MODEL, adapters=reader.adapters)))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield models, lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(timeout=20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp")  # a socket's path must be short


async def _start(
    models: Models, entrance: Entrance, listen: str, clients: Clients
) -> tuple[grpc.aio.Server, Caretaker, str]:
    services = make_services(models, 4 << 20, entrance, clients)
    server, caretaker = services.server, services.caretaker
    port = entrance.add_port(listen)
    await server.start()
    entrance.start()
    await caretaker.start()
    return server, caretaker, listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"
