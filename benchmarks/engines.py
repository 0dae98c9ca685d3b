"""Our engine serving groups of requests: in this process, and through a daemon's gRPC.

Guesses from the request's own text are off: random weights repeat themselves, which no real answer does like that.
"""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from traffic import Arrival, Group, Served

from edgeqwen.client import AsyncClient, Client, Delta, Options
from runtime.engine.engine import Engine
from runtime.engine.sequence import Event, Failed, Finished, Request
from runtime.engine.tokenizer import Tokenizer
from runtime.package import Package
from runtime.sessions.ort_session import OrtSession

SLOTS = 8


class InProcess:
    """The engine in this process."""

    def __init__(self, package: Package, threads: int) -> None:
        runtime = package.build.profile.runtime
        session = OrtSession(package.serving_graph, slots=SLOTS, context_tokens=runtime.context_tokens, threads=threads)
        self._engine = Engine(
            session,
            Tokenizer.from_file(package.tokenizer_file),
            eos_token_ids=frozenset(),
            queue_limit=64,
            prefill_chunk_tokens=runtime.prefill_chunk_tokens,
            kv_budget_tokens=SLOTS * runtime.context_tokens,
            speculate=False,
        )
        self._engine.start()

    def serve(self, arrivals: Sequence[Arrival]) -> list[Served]:
        events: queue.SimpleQueue[tuple[int, float, Event]] = queue.SimpleQueue()
        group = Group(arrivals)
        ended = 0
        while ended < len(arrivals):
            for number in group.due():
                self._submit(arrivals[number], number, events)
            number, at_s, event = events.get()
            assert not isinstance(event, Failed), event
            if isinstance(event, Finished):
                ended += 1
            else:
                group.said(number, len(event.token_ids), at_s)
        return group.served()

    def _submit(self, arrival: Arrival, number: int, events: queue.SimpleQueue[tuple[int, float, Event]]) -> None:
        request = Request(prompt=arrival.prompt, max_tokens=arrival.tokens, ignore_eos=True)
        self._engine.submit(request, lambda event: events.put((number, time.perf_counter(), event)))

    def close(self) -> None:
        self._engine.stop()


class ThroughGrpc:
    """A daemon in a process of its own, and asyncio clients here: a streaming call a request, timed at the client."""

    def __init__(self, target: str) -> None:
        self._target = target

    def serve(self, arrivals: Sequence[Arrival]) -> list[Served]:
        return asyncio.run(self._serve(arrivals))

    async def _serve(self, arrivals: Sequence[Arrival]) -> list[Served]:
        async with AsyncClient(self._target, scope=b"") as client:  # every prompt is computed
            await client.health()  # connected before the clock starts
            group = Group(arrivals)
            async with asyncio.TaskGroup() as tasks:

                async def stream(number: int) -> None:
                    options = Options(max_tokens=arrivals[number].tokens, ignore_eos=True, temperature=0.0)
                    async for event in client.generate(token_ids=arrivals[number].prompt, options=options):
                        if isinstance(event, Delta):
                            group.said(number, len(event.token_ids))
                            start()

                def start() -> None:
                    for number in group.due():
                        tasks.create_task(stream(number))

                start()
        return group.served()


@dataclass(frozen=True)
class Daemon:
    """A running `edgeqwend`; it was ready `ready_s` after its start."""

    target: str
    pid: int
    ready_s: float

    def memory_mb(self) -> float:
        """What is resident now."""
        with Client(self.target) as client:
            return client.snapshot().process.rss_bytes / 1e6


@contextmanager
def daemon(package: Path, threads: int, *flags: str) -> Iterator[Daemon]:
    """Runs `edgeqwend` to the end of the block."""
    with tempfile.TemporaryDirectory(prefix="edgeqwen-") as folder:
        target = f"unix:{folder}/bench.sock"
        command = [sys.executable, "-m", "runtime.daemon", "--package", str(package), "--listen", target, *flags]
        command += ["--state-dir", folder]  # what was measured on this machine counts for nothing
        start = time.perf_counter()
        child = subprocess.Popen(
            [*command, "--threads", str(threads), "--slots", str(SLOTS), "--log-level", "warning"],
            stdin=subprocess.DEVNULL,
        )
        try:
            with Client(target) as client:
                client.wait_until_serving(timeout_s=60)
            yield Daemon(target, child.pid, time.perf_counter() - start)
        finally:
            child.terminate()
            child.wait(timeout=30)
