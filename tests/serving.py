"""The real services over the real engine on a scripted session, on a unix socket, in this process."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc.aio
import structlog
from chatml import CHATML
from fakes import ScriptedSession, byte_tokenizer, no_models

from runtime.caretaker import Caretaker
from runtime.chat import ChatTemplate
from runtime.clients import Clients
from runtime.daemon import make_server
from runtime.engine import Engine
from runtime.grammar import Grammars
from runtime.limits import LimitBook
from runtime.model import Model, ModelFacts
from runtime.package import SamplingDefaults
from runtime.requests import RequestReader
from runtime.tokenizer import Tokenizer

MODEL = "scripted"


@contextmanager
def serving(
    session: ScriptedSession,
    *,
    tokenizer: Tokenizer | None = None,
    template: str = CHATML,
    book: LimitBook | None = None,
    **limits: int,
) -> Iterator[str]:
    """Serves `session` to clients with the limits of `book`; yields the target."""
    tokenizer, clients = tokenizer or byte_tokenizer(), Clients(book)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # not where a command's output goes
    engine = Engine(
        session,
        tokenizer,
        eos_token_ids=frozenset({0}),
        clients=clients,
        **{"queue_limit": 64, "prefill_chunk_tokens": 16, "kv_budget_tokens": 10_000, **limits},
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=20)

    try:
        with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as folder:
            target = f"unix:{folder}/d.sock"
            reader = RequestReader(
                tokenizer,
                ChatTemplate(template),
                SamplingDefaults(),
                session.spec.vocab_size,
                engine.context_tokens,
                Grammars(tokenizer, session.spec.vocab_size, frozenset({0})),
                adapters=session.adapters,
                limits=book or LimitBook(),
            )
            server, caretaker = run(_start(engine, reader, target, clients))
            try:
                yield target
            finally:
                run(caretaker.stop())
                engine.stop()
                run(server.stop(1))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _start(
    engine: Engine, reader: RequestReader, target: str, clients: Clients
) -> tuple[grpc.aio.Server, Caretaker]:
    models = no_models()
    models.add(Model(engine, reader, ModelFacts(MODEL, adapters=reader.adapters)))
    server, _, caretaker, _ = make_server(models, 4 << 20, clients)
    server.add_insecure_port(target)
    await server.start()
    await caretaker.start()
    return server, caretaker
