"""A session that runs on fewer threads goes on where it was, in no more memory."""

from __future__ import annotations

import queue
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.engine.engine import Engine
from runtime.engine.sequence import Delta, Event, Finished, Request
from runtime.engine.tokenizer import Tokenizer
from runtime.package import Package
from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk, ThreadedSession

pytestmark = pytest.mark.slow

TOKENS = [7 + 13 * number % 211 for number in range(48)]


def test_fewer_threads_take_over_the_rows_as_they_are(int4_package: Path) -> None:
    """Decodes of two rows, some on two threads and some on one: the logits are those without the change, but for the
    last bits."""
    sessions = [
        OrtSession(Package.open(int4_package).serving_graph, slots=2, context_tokens=128, threads=2) for _ in range(2)
    ]
    same, changed = sessions
    assert isinstance(changed, ThreadedSession)
    assert changed.spec.threads == 2
    for session in sessions:
        session.run([Chunk(0, TOKENS[:32], 0)])
        session.run([Chunk(1, TOKENS[:20], 0)])
    for step in range(8):
        if step in (2, 5):
            changed.limit_threads(1 if step == 2 else 64)
        rows = [Chunk(0, [TOKENS[32 + step]], 32 + step), Chunk(1, [TOKENS[20 + step]], 20 + step)]
        np.testing.assert_allclose(changed.run(rows), same.run(rows), atol=1e-3)


PEAK = """
import sys
from pathlib import Path
from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk

def highest():
    return next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))

session = OrtSession(Path(sys.argv[1]), slots=1, context_tokens=128, threads=2)
session.run([Chunk(0, list(range(1, 30)), 0)])
print(highest())
for threads in (1, 2, 1):
    session.limit_threads(threads)
    session.run([Chunk(0, [5], 29)])
print(highest())
"""


def test_the_old_session_goes_before_the_new_one_comes(int4_package: Path) -> None:
    """The highest memory that the process has ever had grows by a fraction of the weights, not by all of them: by a
    quarter, or twice that where what was freed goes back late."""
    package = Package.open(int4_package)
    shown = subprocess.run(
        [sys.executable, "-c", PEAK, str(package.serving_graph)], capture_output=True, text=True, check=True
    ).stdout
    before, after = (int(kb) << 10 for kb in re.findall(r"(\d+) kB", shown))
    assert after - before < package.build.memory.weights_bytes * 2 / 3


def test_an_answer_goes_on_while_the_engine_is_lowered_and_raised(int4_package: Path) -> None:
    """Down to its lowest level, and back: every token comes, as many as were asked for."""
    package = Package.open(int4_package)
    session = OrtSession(package.serving_graph, slots=2, context_tokens=128, threads=2)
    tokenizer = Tokenizer.from_file(package.tokenizer_file)
    limits = {"queue_limit": 4, "prefill_chunk_tokens": 64, "kv_budget_tokens": 256}
    engine = Engine(session, tokenizer, eos_token_ids=frozenset(), **limits)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.start()
    engine.submit(Request(tuple(TOKENS[:16]), 60), events.put)
    tokens = 0
    levels = [*engine.levels[1:], engine.levels[0]]
    while not isinstance(event := events.get(timeout=60), Finished):
        assert isinstance(event, Delta)
        tokens += len(event.token_ids)
        if levels and tokens > 5:
            engine.throttle(levels.pop(0))
    engine.stop()
    assert tokens == 60
    assert engine.throttled == engine.levels[0]
