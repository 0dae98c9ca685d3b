"""An engine whose every event the test makes, and a gRPC server in front of it."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
from fakes import no_models
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers

from runtime.access.limits import LimitBook
from runtime.engine.engine import Engine
from runtime.engine.grammar import Grammars
from runtime.engine.live import Sink
from runtime.engine.sequence import Finished, FinishReason, Request, Sequence, Timings, Usage
from runtime.engine.stats import EngineStats, Meter
from runtime.engine.tokenizer import Tokenizer
from runtime.errors import EdgeQwenError
from runtime.models.model import Model, ModelFacts
from runtime.models.registry import Models
from runtime.package import SamplingDefaults
from runtime.requests.chat import ChatTemplate
from runtime.requests.reader import RequestReader

TIMEOUT_S = 120  # against a hang: nothing waits so long, on a machine however busy
VOCABULARY = 256
CONTEXT_TOKENS = 200
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def byte_tokenizer() -> Tokenizer:
    """Every token is a byte, in the order of the byte-level alphabet."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = RawTokenizer(models.BPE(vocab={symbol: at for at, symbol in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return Tokenizer(raw)


def make_reader(
    *,
    template: str | None = TEMPLATE,
    defaults: SamplingDefaults | None = None,
    context_tokens: int = CONTEXT_TOKENS,
    adapters: tuple[str, ...] = (),
    limits: LimitBook | None = None,
) -> RequestReader:
    return RequestReader(
        byte_tokenizer(),
        None if template is None else ChatTemplate(template),
        defaults or SamplingDefaults(),
        vocab_size=VOCABULARY,
        context_tokens=context_tokens,
        grammars=Grammars(byte_tokenizer(), VOCABULARY, frozenset({0})),
        adapters=adapters,
        limits=(limits or LimitBook()).of,
    )


def finished(completion_tokens: int = 1) -> Finished:
    return Finished(
        FinishReason.EOS, Usage(3, completion_tokens, cached_prompt_tokens=2), Timings(1.0, 2.0, 4.0, 1500.0, 500.0)
    )


@dataclass
class FakeEngine:
    """`Engine` as the services see it. `submitted` and `cancelled` tell what the service did with it."""

    refuse: EdgeQwenError | None = None
    draining: bool = False
    submitted: asyncio.Queue[tuple[Sequence, Sink]] = field(default_factory=asyncio.Queue)
    cancelled: asyncio.Queue[Sequence] = field(default_factory=asyncio.Queue)
    timeouts_s: list[float | None] = field(default_factory=list)
    ids: Callable[[], int] = field(default_factory=lambda: itertools.count(1).__next__)

    def submit(self, request: Request, sink: Sink, *, timeout_s: float | None = None) -> Sequence:
        if self.refuse is not None:
            raise self.refuse
        self.timeouts_s.append(timeout_s)
        sequence = Sequence(self.ids(), request)
        self.submitted.put_nowait((sequence, sink))
        return sequence

    def submit_all(self, asked: list[tuple[Request, Sink]], *, timeout_s: float | None = None) -> list[Sequence]:
        return [self.submit(request, sink, timeout_s=timeout_s) for request, sink in asked]

    def cancel(self, sequence: Sequence) -> None:
        self.cancelled.put_nowait(sequence)

    def start(self) -> None:
        pass

    def stats(self) -> EngineStats:
        return Meter().stats(
            0.0,
            queue_depth=1,
            queue_limit=2,
            running=3,
            slots=4,
            kv_used_tokens=5,
            kv_reserved_tokens=6,
            kv_warm_tokens=9,
            kv_budget_tokens=7,
            kv_bytes_per_token=8,
            draining=self.draining,
        )


def only_model(engine: FakeEngine | Engine, reader: RequestReader | None = None, name: str = "tiny") -> Models:
    """A daemon's models, of which there is one; its engine is started."""
    models = no_models()
    models.add(Model(engine, reader or make_reader(), ModelFacts(name)))
    return models


@asynccontextmanager
async def serving(
    *add_to: Callable[[grpc.aio.Server], None], interceptors: list[grpc.aio.ServerInterceptor] | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server with these services, until the block ends. Hangs become TimeoutErrors."""
    # In /tmp: the path of a unix socket has room for about 100 bytes.
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as folder:
        target = f"unix:{Path(folder) / 's'}"
        server = grpc.aio.server(interceptors=interceptors)
        for add in add_to:
            add(server)
        server.add_insecure_port(target)
        await server.start()
        try:
            async with asyncio.timeout(TIMEOUT_S), grpc.aio.insecure_channel(target) as channel:
                yield channel
        finally:
            await server.stop(None)
