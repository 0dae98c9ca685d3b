"""The daemon as a 64-bit ARM board runs it: started under emulation, asked from outside.

Emulated speed says nothing about a board; tokens and probabilities do. Every package has a second variant with the same
model for this machine, and both daemons get the same requests.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

import pytest
from arm64.board import Board
from arm64.conftest import Twins, twin_of
from integration.daemons import Daemon, start
from unit.runtime import boards

from edgeqwen.client import Client, Delta, Event, Finished, Options, Started
from runtime.profile import Profile, find_profile, parse_profile

pytestmark = [pytest.mark.slow, pytest.mark.arm64]

READY_TIMEOUT_S = 240  # some ten seconds on two idle cores
TEXT = "The capital of France is Paris, and it lies on the river Seine, which flows into the English Channel."
PROMPT_TOKENS = 6  # of the text; the rest follows one by one


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
def here(package: Path, profile: Profile) -> Iterator[Daemon]:
    """The daemon with the same model on this machine."""
    with start(package, "--variant", twin_of(profile).name, "--no-verify") as daemon:
        yield daemon


def deltas(events: Iterable[Event]) -> list[Delta]:
    return [event for event in events if isinstance(event, Delta)]


def greedy(client: Client, tokens: int) -> list[int]:
    options = Options(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    prompt = client.tokenize(prompt=TEXT)[:PROMPT_TOKENS]
    return [token for delta in deltas(client.generate(token_ids=prompt, options=options)) for token in delta.token_ids]


def distributions(client: Client, count: int) -> list[dict[int, float]]:
    """The likeliest tokens after each of the first tokens of the text, with their log-probabilities."""
    text = client.tokenize(prompt=TEXT)
    options = Options(max_tokens=1, temperature=0.0, ignore_eos=True, top_logprobs=20)
    found = []
    for end in range(PROMPT_TOKENS, PROMPT_TOKENS + count):
        [delta] = deltas(client.generate(token_ids=text[:end], options=options))
        found.append(dict(delta.logprobs[0].top))
    return found


def divergence(ours: dict[int, float], theirs: dict[int, float]) -> float:
    """Kullback-Leibler, over our likeliest tokens; those that they do not list are at most as likely as their last."""
    last = min(theirs.values())
    return sum(math.exp(logprob) * (logprob - theirs.get(token, last)) for token, logprob in ours.items())


def keeping_floats(name: str) -> Profile:
    """The profile with a KV cache that rounds nothing."""
    data = find_profile(name).model_dump()
    data["runtime"]["kv_cache"]["dtype"] = "float32"
    return parse_profile(data | {"name": f"{name}-float"}, name)


def soon_built(name: str) -> Profile:
    """The profile with INT4 rounded to nearest: other weights than GPTQ's, for the same kernels."""
    data = find_profile(name).model_dump()
    data["quantization"]["int4"]["algorithm"] = "rtn"
    return parse_profile(data | {"name": f"{name}-rtn"}, name)


def test_greedy_tokens_of_the_float_package_are_those_of_this_machine(board: Board, twins: Twins) -> None:
    """On a core without dot product, the least that 64-bit ARM has."""
    profile = keeping_floats("generic-arm64")
    package = twins("float32", profile)
    with here(package, profile) as daemon, Client(daemon.target) as client:
        expected = greedy(client, 12)
    with emulated(board, "cortex-a72", package, profile) as daemon, Client(daemon.target) as client:
        assert greedy(client, 12) == expected


@pytest.mark.parametrize(
    ("precision", "name", "cpu", "count", "bound"),
    [
        ("int8", "generic-arm64", "cortex-a76", 12, 0.02),
        ("int4", "raspberry-pi-5", "cortex-a76", 12, 0.1),
        ("int4", "raspberry-pi-4", "cortex-a72", 3, 0.1),
    ],
)
def test_quantized_packages_differ_from_this_machine_by_rounding(
    board: Board, twins: Twins, precision: str, name: str, cpu: str, count: int, bound: float
) -> None:
    """ARM's kernels round activations in their own way: the mean divergence is far below what quantization costs."""
    profile = soon_built(name)
    package = twins(precision, profile)
    with here(package, profile) as daemon, Client(daemon.target) as client:
        ours = distributions(client, count)
    with emulated(board, cpu, package, profile) as daemon, Client(daemon.target) as client:
        theirs = distributions(client, count)
    assert mean(map(divergence, ours, theirs)) < bound


def test_a_chat_streams_and_sigterm_lets_it_end(board: Board, twins: Twins) -> None:
    """Health is true before and after; the answer that runs is whole, the log says so, and the daemon leaves with 0."""
    profile = soon_built("raspberry-pi-5")
    with emulated(board, "cortex-a76", twins("int4", profile), profile) as daemon, Client(daemon.target) as client:
        assert client.health() == "SERVING"
        options = Options(max_tokens=12, temperature=0.0, ignore_eos=True)
        events = client.generate(messages=[("user", "Hi")], options=options)
        started, first = next(events), next(events)
        assert isinstance(started, Started)
        assert isinstance(first, Delta)
        daemon.process.send_signal(signal.SIGTERM)
        *rest, finished = events
        assert isinstance(finished, Finished)
        assert finished.reason == "length"
        assert sum(len(delta.token_ids) for delta in deltas([first, *rest])) == 12
        assert len(rest) > 2, "it came in one piece"
        assert daemon.process.wait(timeout=60) == 0
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
        [ready] = (line for line in lines if line["event"] == "ready")
        assert ready["variant"] == profile.name
        stopped = lines[-1]
        assert (stopped["event"], stopped["drained"]) == ("stopped", True)


def test_a_board_is_recognized_on_itself(board: Board, tmp_path: Path) -> None:
    """`edgeqwen detect` runs from the wheel there, and takes the architecture from the machine."""
    code = "from edgeqwen.cli import main; main()"
    command = board.python("cortex-a76", "-c", code, "detect", "--json", "--root", str(boards.raspberry_pi_5(tmp_path)))
    done = subprocess.run(command, env=board.environment, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert (told["profile"], told["machine"]["arch"]) == ("raspberry-pi-5", "aarch64")
