"""The service and the engine, in this process, asked 100,000 things that nobody should ask."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from fuzz.messages import hostile
from fuzz.process import Ear, Held
from google.protobuf import text_format
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status.rpc_status import GRPC_DETAILS_METADATA_KEY

from edgeqwen.kserve import inference_pb2
from edgeqwen.v1 import generation_pb2 as pb
from runtime.api.generator import Generator
from runtime.api.open_calls import OpenCalls
from runtime.api.service import GenerationService
from runtime.engine.engine import Engine
from runtime.kserve.service import InferenceService
from runtime.models.registry import Models

REQUESTS = 100_000
WORKERS = 32
LONGEST_REPLY_BYTES = 4 << 20
MAY_GROW_BYTES = 12 << 20

DETAILS: dict[int, type[Message] | None] = {
    code_pb2.INVALID_ARGUMENT: error_details_pb2.BadRequest,
    code_pb2.DEADLINE_EXCEEDED: None,
    code_pb2.NOT_FOUND: None,  # its message says which models there are
    code_pb2.RESOURCE_EXHAUSTED: error_details_pb2.RetryInfo,
}
"""The codes that a request may be refused with, and what has to come with each."""


class Refused(Exception):
    """The call was ended with this status."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


class Call:
    """`grpc.aio.ServicerContext` as the service uses it."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._callbacks: list[Callable[[Call], None]] = []

    def add_done_callback(self, callback: Callable[[Call], None]) -> None:
        self._callbacks.append(callback)

    def time_remaining(self) -> float | None:
        return self._timeout_s

    async def abort_with_status(self, status: Any) -> None:
        details = dict(status.trailing_metadata)[GRPC_DETAILS_METADATA_KEY]
        raise Refused(status_pb2.Status.FromString(details))

    def ended(self) -> None:
        for callback in self._callbacks:
            callback(self)


class Asker:
    """Asks the services one thing after the other, each made from its number."""

    def __init__(self, service: GenerationService, inference: InferenceService) -> None:
        self._service = service
        self._inference = inference
        self.seen: Counter[str] = Counter()

    async def ask(self, number: int) -> None:
        """Fails with the request if what comes is neither an answer nor a refusal as it should be."""
        chance = random.Random(number)
        kind, method = chance.choices(
            (
                (pb.GenerateRequest, self._service.Generate),
                (pb.GenerateBatchRequest, self._service.GenerateBatch),
                (pb.TokenizeRequest, self._service.Tokenize),
                (pb.DetokenizeRequest, self._service.Detokenize),
                (inference_pb2.ModelInferRequest, self._inference.ModelInfer),
            ),
            weights=(70, 5, 10, 5, 10),
        )[0]
        request, call = hostile(kind, chance), Call(chance.choice([None, None, None, 0.0, 0.01, 60.0]))
        try:
            await self._take(method(request, call), chance)
        except Refused as refusal:
            self._check(refusal.status)
        except Exception as error:
            raise AssertionError(f"request {number}: {text_format.MessageToString(request)[:2000]}") from error
        finally:
            call.ended()

    async def _take(self, replies: AsyncIterator[Message] | Awaitable[Message], chance: random.Random) -> None:
        if isinstance(replies, Awaitable):
            self._count("answered", await replies)
            return
        leave_after = chance.choice([None, None, None, 1, 2, 5])
        async with aclosing(replies) as stream:  # type: ignore[type-var]
            for number in itertools.count(1):
                reply = await anext(stream, None)
                if reply is None:
                    self.seen["answered"] += 1
                    return
                self._count("reply", reply)
                if number == leave_after:
                    self.seen["left"] += 1
                    return

    def _count(self, what: str, reply: Message) -> None:
        assert len(reply.SerializeToString()) < LONGEST_REPLY_BYTES
        self.seen[what] += 1

    def _check(self, status: status_pb2.Status) -> None:
        name = code_pb2.Code.Name(status.code)
        assert status.code in DETAILS, f"{name}: {status.message}"
        if kind := DETAILS[status.code]:
            detail = kind()
            assert any(each.Unpack(detail) for each in status.details), f"{name} without {detail.DESCRIPTOR.name}"
            assert detail.ByteSize() > 0
        assert 0 < len(status.SerializeToString()) < 4096, "an error has 8 KiB for all of it, and more than one form"
        self.seen[name] += 1


@pytest.mark.slow
async def test_nothing_breaks_leaks_or_stays(engine: Engine, models: Models, ear: Ear) -> None:
    """Each is answered, or refused with a code and details that help; nothing of it is kept or logged, whether it
    ended or its client left; and no slot is lost."""
    generator, calls = Generator(models), OpenCalls()
    asker = Asker(GenerationService(models, generator, calls), InferenceService(models, generator, calls))
    numbers = itertools.count()

    async def work(until: int) -> None:
        while (number := next(numbers)) < until:
            await asker.ask(number)

    held: list[Held] = []
    for until in (REQUESTS // 5, REQUESTS * 3 // 5, REQUESTS):
        await asyncio.gather(*(work(until) for _ in range(WORKERS)))
        assert await asyncio.to_thread(engine.wait_idle, 20)
        assert engine.stats().kv_reserved_tokens == 0
        numbers = itertools.count(until)
        held.append(Held.now())
    _, middle, last = held
    assert (last.files, last.threads, last.tasks) == (middle.files, middle.threads, middle.tasks)
    assert last.rss_bytes - middle.rss_bytes < MAY_GROW_BYTES, held
    assert ear.lines > REQUESTS / 2
    assert ear.told == []
    seen = asker.seen
    assert min(seen["answered"], seen["left"], seen["INVALID_ARGUMENT"]) > REQUESTS / 20, seen
