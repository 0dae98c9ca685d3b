"""Limits and deadlines on a real daemon with a real model, as its clients meet them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from integration.daemons import Daemon, start

from edgeqwen.client import (
    Client,
    DeadlineExceeded,
    Event,
    InvalidRequest,
    Options,
    QueueFull,
    RateLimited,
    Started,
)
from runtime.access.tokens import digest_of, make_token

pytestmark = pytest.mark.slow

SHORT = Options(max_tokens=2, temperature=0)
CANARY = "Zq7xCanary"


@pytest.fixture(scope="module")
def daemon(int4_package: Path) -> Iterator[Daemon]:
    limits = "{default: {requests_per_minute: 30, output_tokens: 16, concurrent_requests: 2}}"
    environment = os.environ | {"EDGEQWEN_LIMITS": limits}
    with start(int4_package, "--log-level", "debug", "--log-format", "json", environment=environment) as daemon:
        yield daemon


def test_answers_are_as_long_as_may_be(daemon: Daemon) -> None:
    with Client(daemon.target) as client:
        answer = client.chat([("user", f"Count to a thousand. {CANARY}")], options=Options(ignore_eos=True))
        with pytest.raises(InvalidRequest) as refusal:
            client.chat([("user", CANARY)], options=Options(max_tokens=17))
    assert (answer.finished.reason, answer.finished.completion_tokens) == ("length", 16)
    assert [field for field, _ in refusal.value.violations] == ["max_tokens"]


def test_a_request_that_would_be_too_late_is_refused_by_the_daemon(daemon: Daemon) -> None:
    """Once a long prompt has told how fast it is; nobody computes thousands of tokens in half a second here."""
    with Client(daemon.target, scope=b"") as client:
        client.complete("one two three " * 400, options=SHORT)
        said = []
        for _ in range(5):
            with pytest.raises(DeadlineExceeded) as refusal:
                client.complete("four five six " * 1200, options=SHORT, timeout_s=0.3)
            said.append(str(refusal.value))
    assert any(message.startswith("a first token would take about") for message in said), said


def test_more_requests_than_a_minute_allows_are_told_when_and_may_have_it_done(daemon: Daemon) -> None:
    """The rate holds for the command as for any client; with --retry it waits as long as it is told to."""
    with Client(daemon.target) as client:
        refused = None
        for _ in range(40):
            try:
                client.complete(CANARY, options=SHORT)
            except RateLimited as error:
                refused = error
                break
        assert refused is not None
        assert refused.limit == "requests_per_minute"
        assert 0 < refused.retry_after_s <= 2
        command = [sys.executable, "-m", "edgeqwen.cli", "--target", daemon.target, "generate", CANARY]
        done = subprocess.run(
            [*command, "--max-tokens", "2", "--retry", "50"], capture_output=True, text=True, check=False
        )
        [its] = client.snapshot().clients
    assert done.returncode == 0, done.stderr
    assert its.limits.requests_per_minute == 30
    assert its.refused_total >= 2
    assert (its.running, its.waiting) == (0, 0)


def test_the_whole_log_has_no_text_of_any_of_it(daemon: Daemon) -> None:
    """Of all requests above, at the level that says most."""
    said = daemon.said('"event": "started"', '"event": "refused"')
    for text in (CANARY, "thousand", "three", "five"):
        assert text not in said


def test_a_greedy_client_waits_behind_itself(int4_package: Path, tmp_path: Path) -> None:
    """With all places taken by one client, another one is let in, and is next: one of the first gives way."""
    tokens = {"greedy": make_token(), "polite": make_token()}
    file = tmp_path / "d.yaml"
    file.write_text(yaml.safe_dump({"tokens": {name: digest_of(token) for name, token in tokens.items()}}))
    flags = ("--no-verify", "--slots", "1", "--queue-limit", "8", "--config", str(file), "--listen", "127.0.0.1:0")
    ended: list[str] = []
    with start(int4_package, *flags) as daemon:
        port = daemon.ready()["listen"].split()[-1]
        with Client(port, token=tokens["greedy"]) as greedy, Client(port, token=tokens["polite"]) as polite:

            def rest(stream: Iterator[Event]) -> None:
                try:
                    list(stream)
                except QueueFull:
                    ended.append("gave way")
                else:
                    ended.append("answered")

            long = Options(max_tokens=60, ignore_eos=True, temperature=0)
            streams = [greedy.generate(prompt="One, two,", options=long) for _ in range(9)]
            for stream in streams:
                assert isinstance(next(stream), Started)
            with ThreadPoolExecutor(len(streams)) as pool:
                for stream in streams:
                    pool.submit(rest, stream)
                polite.complete("Hello", options=SHORT)
                before = list(ended)
    assert before.count("gave way") == 1
    assert before.count("answered") <= 3  # the one that ran, and those that end while the polite client hears of it
    assert sorted(ended) == ["answered"] * 8 + ["gave way"]
