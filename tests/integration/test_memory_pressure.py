"""A daemon whose cgroup has not the memory that its KV could take."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from integration.cgroups import memory_cgroup
from integration.daemons import Daemon, start

from edgeqwen.client import Client, Delta, Finished, Options, ServerUnavailable

pytestmark = pytest.mark.slow

LIMIT_BYTES = 200 << 20
ROWS = 8
PROMPT = "The pump is made of steel. " * 200
EIGHT_ROWS = ("--no-verify", "--slots", str(ROWS))


def ask_for_eight(daemon: Daemon) -> list[str]:
    """One prompt whose KV eight rows hold, which is more than the limit; the text of each answer."""
    options = Options(max_tokens=8, n=ROWS, temperature=0.0, ignore_eos=True)
    texts, ends = [""] * ROWS, 0
    with Client(daemon.target, scope=b"") as client:
        engine = client.snapshot().models[0].engine
        for event in client.generate(prompt=PROMPT, options=options):
            if isinstance(event, Delta):
                texts[event.index] += event.text
            elif isinstance(event, Finished):
                ends += 1
                assert event.prompt_tokens * ROWS * engine.kv_bytes_per_token > LIMIT_BYTES
    assert ends == ROWS
    return texts


def test_without_the_watch_the_kernel_kills(int4_package: Path) -> None:
    """So that the next test proves something."""
    with start(int4_package, *EIGHT_ROWS, "--no-shrink-kv") as daemon, memory_cgroup(daemon.process.pid, LIMIT_BYTES):
        with pytest.raises(ServerUnavailable):
            ask_for_eight(daemon)
        assert daemon.process.wait(timeout=20) == -signal.SIGKILL


def test_a_short_memory_is_shared_one_after_the_other(int4_package: Path) -> None:
    """Every answer is that of a daemon with room for all, fewer run at once, and the log says why."""
    with start(int4_package, *EIGHT_ROWS) as daemon:
        unlimited = ask_for_eight(daemon)
    with start(int4_package, *EIGHT_ROWS) as daemon, memory_cgroup(daemon.process.pid, LIMIT_BYTES):
        for _ in range(2):
            assert ask_for_eight(daemon) == unlimited
        assert daemon.said("memory is short")
        daemon.process.terminate()
        assert daemon.process.wait(timeout=40) == 0
