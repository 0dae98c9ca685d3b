"""The daemon as a 64-bit ARM board runs it: started under emulation, asked from outside.

Emulated speed says nothing about a board; tokens and probabilities do. Every package has a second variant with the same
model for this machine, and both daemons get the same requests.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from arm64.board import Board
from arm64.conftest import Twins, twin_of
from integration.daemons import Daemon, start
from unit.runtime import boards

from edgeqwen.client import Client, Delta, Finished, Options, Started
from runtime.profile import Profile, find_profile, parse_profile

pytestmark = [pytest.mark.slow, pytest.mark.arm64]

READY_TIMEOUT_S = 240  # some ten seconds on two idle cores
TEXT = "The capital of France is"
LIKELIEST = 5


@contextmanager
def emulated(board: Board, cpu: str, package: Path, profile: Profile) -> Iterator[Daemon]:
    """The daemon on a board with `cpu`, serving."""
    with start(
        package,
        *("--variant", profile.name, "--no-verify"),
        program=board.python(cpu, "-m", "runtime.daemon"),
        environment=board.environment,
        ready_timeout_s=READY_TIMEOUT_S,
    ) as daemon:
        yield daemon


@contextmanager
def here(package: Path, profile: Profile) -> Iterator[Client]:
    """A client of a daemon with the same model on this machine."""
    with start(package, "--variant", twin_of(profile).name, "--no-verify") as daemon, Client(daemon.target) as client:
        yield client


@dataclass
class Answer:
    """Tokens, and for each the log-probabilities of the likeliest in its place."""

    tokens: list[int] = field(default_factory=list)
    likeliest: list[dict[int, float]] = field(default_factory=list)


def ask(client: Client, tokens: int, *, prompt: str | None = None, token_ids: Sequence[int] | None = None) -> Answer:
    answer = Answer()
    options = Options(max_tokens=tokens, temperature=0.0, ignore_eos=True, top_logprobs=20)
    for event in client.generate(prompt=prompt, token_ids=token_ids, options=options):
        if isinstance(event, Delta):
            answer.tokens += event.token_ids
            answer.likeliest += [dict(each.top) for each in event.logprobs]
    assert len(answer.tokens) == len(answer.likeliest) == tokens
    return answer


def farthest(client: Client, prompt: Sequence[int], answer: Answer) -> float:
    """How far the log-probabilities of the likeliest tokens are from those of `client`, which follows the same text."""
    apart = []
    for place, theirs in enumerate(answer.likeliest):
        [ours] = ask(client, 1, token_ids=[*prompt, *answer.tokens[:place]]).likeliest
        first = sorted(theirs, key=theirs.__getitem__, reverse=True)[:LIKELIEST]
        apart += [abs(theirs[token] - ours[token]) for token in first]
    return max(apart)


def keeping_floats(name: str) -> Profile:
    """The profile with a KV cache that rounds nothing."""
    data = find_profile(name).model_dump()
    data["runtime"]["kv_cache"]["dtype"] = "float32"
    return parse_profile(data | {"name": f"{name}-float"}, name)


def test_greedy_tokens_of_the_float_package_are_those_of_this_machine(board: Board, twins: Twins) -> None:
    """On a core without dot product, the least that 64-bit ARM has."""
    profile = keeping_floats("generic-arm64")
    package = twins("float32", profile)
    with emulated(board, "cortex-a72", package, profile) as daemon, Client(daemon.target) as client:
        answer = ask(client, 12, prompt=TEXT)
        prompt = client.tokenize(prompt=TEXT)
    with here(package, profile) as client:
        assert ask(client, 12, prompt=TEXT).tokens == answer.tokens
        assert farthest(client, prompt, answer) < 1e-3


@pytest.mark.parametrize(
    ("precision", "name", "cpu", "tokens"),
    [
        ("int8", "generic-arm64", "cortex-a76", 6),
        ("int4", "raspberry-pi-5", "cortex-a76", 12),
        ("int4", "raspberry-pi-4", "cortex-a72", 3),
    ],
)
def test_quantized_packages_say_the_same_but_for_rounding(
    board: Board, twins: Twins, precision: str, name: str, cpu: str, tokens: int
) -> None:
    """Other instructions round otherwise: the likeliest tokens have nearly the probabilities that they have here."""
    profile = find_profile(name)
    package = twins(precision, profile)
    with emulated(board, cpu, package, profile) as daemon, Client(daemon.target) as client:
        answer = ask(client, tokens, prompt=TEXT)
        prompt = client.tokenize(prompt=TEXT)
    with here(package, profile) as client:
        far = farthest(client, prompt, answer)
        print("FAR", precision, name, far, ask(client, tokens, prompt=TEXT).tokens == answer.tokens)
        assert far < 0.25


def test_a_chat_streams_and_sigterm_lets_it_end(board: Board, twins: Twins) -> None:
    """Health is true before and after; the answer that runs is whole, the log says so, and the daemon leaves with 0."""
    profile = find_profile("raspberry-pi-5")
    with emulated(board, "cortex-a76", twins("int4", profile), profile) as daemon, Client(daemon.target) as client:
        assert client.health() == "SERVING"
        options = Options(max_tokens=12, temperature=0.0, ignore_eos=True)
        events = client.generate(messages=[("user", "Hi")], options=options)
        started, first = next(events), next(events)
        assert isinstance(started, Started)
        assert isinstance(first, Delta)
        daemon.process.send_signal(signal.SIGTERM)
        *deltas, finished = events
        assert isinstance(finished, Finished)
        assert finished.reason == "length"
        assert sum(len(event.token_ids) for event in (first, *deltas) if isinstance(event, Delta)) == 12
        assert len(deltas) > 2, "it came in one piece"
        assert daemon.process.wait(timeout=60) == 0
        ready, *_, stopped = map(json.loads, daemon.log.read_text().splitlines())
        assert (ready["event"], ready["variant"]) == ("ready", "raspberry-pi-5")
        assert (stopped["event"], stopped["drained"]) == ("stopped", True)


def test_a_board_is_recognized_on_itself(board: Board, tmp_path: Path) -> None:
    """`edgeqwen detect` runs from the wheel there, and takes the architecture from the machine."""
    code = "from edgeqwen.cli import main; main()"
    command = board.python("cortex-a76", "-c", code, "detect", "--json", "--root", str(boards.raspberry_pi_5(tmp_path)))
    done = subprocess.run(command, env=board.environment, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert (told["profile"], told["machine"]["arch"]) == ("raspberry-pi-5", "aarch64")
