"""What the clients make of errors, of what cannot be sent, and of answers that our daemon does not give."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.edgeqwen.scripted_server import Answer, fail, say, scripted

from edgeqwen.client import (
    AsyncClient,
    Client,
    ClientError,
    Completion,
    DeadlineExceeded,
    InvalidRequest,
    Options,
    QueueFull,
    ServerUnavailable,
    Started,
    checked_target,
)
from edgeqwen.errors import raise_for
from edgeqwen.requests import build_request
from edgeqwen.v1 import generation_pb2 as pb

CODES = [
    (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, QueueFull),
    (grpc.StatusCode.UNAVAILABLE, ServerUnavailable),
    (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
    (grpc.StatusCode.INTERNAL, ClientError),
]


def ask(target: str, timeout_s: float | None = None) -> Completion:
    with Client(target) as client:
        return client.complete("a", timeout_s=timeout_s)


def ask_async(target: str, timeout_s: float | None = None) -> Completion:
    async def run() -> Completion:
        async with AsyncClient(target) as client:
            return await client.complete("a", timeout_s=timeout_s)

    return asyncio.run(run())


def wait(target: str, timeout_s: float) -> None:
    with Client(target) as client:
        client.wait_until_serving(timeout_s=timeout_s)


def wait_async(target: str, timeout_s: float) -> None:
    async def run() -> None:
        async with AsyncClient(target) as client:
            await client.wait_until_serving(timeout_s=timeout_s)

    asyncio.run(run())


Ask = Callable[..., Completion]
both = pytest.mark.parametrize("ask", [ask, ask_async])


@both
@pytest.mark.parametrize(("code", "kind"), CODES)
def test_both_clients_name_errors_alike(ask: Ask, code: grpc.StatusCode, kind: type[ClientError]) -> None:
    """The kind follows from the code alone: the details may be missing, and an answer may have begun."""
    with scripted(fail(code, "so it is", "half an ans")) as target, pytest.raises(ClientError) as raised:
        ask(target)
    assert type(raised.value) is kind


def test_a_daemon_that_refuses_is_not_said_to_be_missing() -> None:
    """Its own words are shown; only where nothing listens is the question whether it runs."""
    with (
        scripted(fail(grpc.StatusCode.UNAVAILABLE, "the daemon is shutting down")) as target,
        pytest.raises(ServerUnavailable) as raised,
    ):
        ask(target)
    assert str(raised.value) == f"{target}: the daemon is shutting down"


def test_what_keeps_a_client_from_its_daemon_is_named(tmp_path: Path) -> None:
    """No socket, a socket that nobody listens at, a port that nobody listens at, a host that nobody knows."""
    stale = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for target, reason in (
        (f"unix:{tmp_path}/none", "No such file or directory"),
        (f"unix:{stale}", "Connection refused"),
        (f"127.0.0.1:{port}", "Connection refused"),
    ):
        with pytest.raises(ServerUnavailable) as raised:
            ask(target)
        hint = "is edgeqwend running? try `systemctl status edgeqwend`"
        assert str(raised.value) == f"nothing listens at {target} ({reason}); {hint}"


class Closed(grpc.RpcError):
    """As gRPC has it where a server ends a connection after its handshake."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:10.0.0.1:1: Socket closed"

    def trailing_metadata(self) -> None:
        return None


@pytest.mark.parametrize(
    ("target", "wants"),
    [("10.0.0.1:1", r"TLS \(https://\)"), ("https://10.0.0.1:1", r"a certificate \(--certificate and --key\)")],
)
def test_who_closes_the_connection_may_want_what_was_not_shown(target: str, wants: str) -> None:
    """Over TLS already, it is not TLS that is missing."""
    with pytest.raises(ServerUnavailable, match=f"^{target} closed the connection: does it want {wants}, or "):
        raise_for(Closed(), target)


def test_a_proxy_for_the_web_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client goes to its target itself, whatever the environment says."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(ServerUnavailable, match=r"nothing listens at 127\.0\.0\.1:1 \(Connection refused\)"):
        ask("127.0.0.1:1")


def test_a_request_too_large_for_grpc_is_not_a_full_queue() -> None:
    """The code is the same; trying again would not help."""
    with scripted(say("never")) as target, Client(target) as client, pytest.raises(InvalidRequest) as raised:
        client.complete("x" * 5_000_000)
    [(field, reason)] = raised.value.violations
    assert field == "input"
    assert "too large" in reason


@both
def test_events_of_a_later_contract_are_passed_over(ask: Ask) -> None:
    """An event without a known kind, anywhere in the stream, changes nothing."""

    def answer(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        for response in say("a", "b")(request, context):
            yield pb.GenerateResponse()
            yield response
        yield pb.GenerateResponse()

    with scripted(answer) as target:
        completion = ask(target)
    assert (completion.text, completion.finished.reason) == ("ab", "eos")


def test_a_stream_that_just_ends_is_an_error() -> None:
    """Half an answer is never passed off as a whole one."""

    def answer(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        yield pb.GenerateResponse(delta=pb.Delta(text="half an ans"))

    with scripted(answer) as target, pytest.raises(ClientError, match="ended without a result"):
        ask(target)


def until_left(left: threading.Event) -> Answer:
    def answer(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        context.add_callback(left.set)
        yield pb.GenerateResponse(started=pb.Started())
        left.wait(20)

    return answer


def test_leaving_an_asynchronous_stream_cancels_it() -> None:
    """The daemon hears of it at once."""
    left = threading.Event()

    async def leave(target: str) -> None:
        async with AsyncClient(target) as client, aclosing(client.generate(prompt="a")) as events:
            assert isinstance(await anext(events), Started)

    with scripted(until_left(left)) as target:
        asyncio.run(leave(target))
        assert left.wait(10)


@both
def test_a_timeout_is_of_the_whole_answer(ask: Ask) -> None:
    """Events that come in time do not extend it, and the daemon hears of its end."""
    left = threading.Event()
    with scripted(until_left(left)) as target:
        with pytest.raises(DeadlineExceeded):
            ask(target, timeout_s=0.1)
        assert left.wait(10)


@pytest.mark.parametrize("wait", [wait, wait_async])
def test_waiting_for_a_daemon_ends(wait: Callable[[str, float], None]) -> None:
    """At once where it serves, at the timeout where it does not serve or does not listen."""
    with scripted(say()) as target:
        wait(target, 20.0)
    with scripted(say(), serving=False) as target, pytest.raises(ServerUnavailable, match=r"after 0\.1 s"):
        wait(target, 0.1)
    with pytest.raises(ServerUnavailable, match=r"after 0\.1 s"):
        wait("unix:/nowhere.sock", 0.1)


def test_what_protobuf_cannot_hold_is_refused_with_every_field() -> None:
    """As the daemon would: field, range, what came; nothing is sent."""
    options = Options(max_tokens=-1, top_k=1 << 32, seed=1 << 64, stop=("fine", "\udcff"), logit_bias={-3: 1})
    with pytest.raises(InvalidRequest) as raised:
        build_request(messages=[("user", "fine"), ("\ud800", "a\ud800")], options=options)
    assert raised.value.violations == (
        ("chat.messages[1].content", "must be text that UTF-8 can hold (character 1 is not)"),
        ("chat.messages[1].role", "must be text that UTF-8 can hold (character 0 is not)"),
        ("max_tokens", "must be 0 to 4294967295 (got -1)"),
        ("sampling.logit_bias[-3]", "must be 0 to 4294967295 (got -3)"),
        ("sampling.seed", "must be 0 to 18446744073709551615 (got 18446744073709551616)"),
        ("sampling.top_k", "must be 0 to 4294967295 (got 4294967296)"),
        ("stop[1]", "must be text that UTF-8 can hold (character 0 is not)"),
    )
    with pytest.raises(InvalidRequest, match=r"token_ids\.ids\[1\]: must be 0 to 4294967295 \(got -7\)"):
        build_request(token_ids=[1, -7, -8])


ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates, which are no text, included


@given(
    max_tokens=st.none() | st.integers(-(1 << 70), 1 << 70),
    top_k=st.none() | st.integers(0, 1 << 33),
    seed=st.none() | st.integers(-5, 1 << 65),
    temperature=st.none() | st.floats(),
    prompt=ANY_TEXT,
    stop=st.lists(ANY_TEXT, max_size=3),
)
def test_a_request_says_what_was_asked_or_is_refused(
    max_tokens: int | None,
    top_k: int | None,
    seed: int | None,
    temperature: float | None,
    prompt: str,
    stop: list[str],
) -> None:
    """Whatever the numbers and texts: InvalidRequest, or a message with these values in which unset is unset."""
    options = Options(max_tokens=max_tokens, top_k=top_k, seed=seed, temperature=temperature, stop=tuple(stop))
    try:
        request = build_request(prompt=prompt, options=options)
    except InvalidRequest:
        return
    assert (request.prompt, list(request.stop)) == (prompt, stop)
    sampling = request.sampling
    assert (request.max_tokens if request.HasField("max_tokens") else None) == max_tokens
    assert (sampling.top_k if sampling.HasField("top_k") else None) == top_k
    assert (sampling.seed if sampling.HasField("seed") else None) == seed
    assert sampling.HasField("temperature") == (temperature is not None)
    assert not sampling.HasField("top_p")


@pytest.mark.parametrize("target", ["unix:/a", "unix:///a", "unix:a", "localhost:50051", "[::1]:1", "dns:///a:1"])
def test_targets_that_can_be_dialled_stay_as_they_are(target: str) -> None:
    """A check, not a translation."""
    assert checked_target(target) == target


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("", "unix:PATH or HOST:PORT"),
        ("localhost", "unix:PATH or HOST:PORT"),
        ("localhost:http", "unix:PATH or HOST:PORT"),
        ("localhost:65536", "unix:PATH or HOST:PORT"),
        (":50051", "unix:PATH or HOST:PORT"),
        ("/run/a.sock", "did you mean unix:/run/a.sock"),
        ("unix:", "is missing"),
        ("unix:/" + "a" * 107, "at most 107 bytes"),
    ],
)
def test_targets_that_cannot_work_are_refused_at_once(target: str, reason: str) -> None:
    """With the two forms there are, or what is wrong with this one."""
    with pytest.raises(ValueError, match=reason):
        checked_target(target)
