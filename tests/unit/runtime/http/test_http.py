"""HTTP as it comes over the wire: curl, TCP, bodies that are wrong, clients that are slow or leave."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx2
import pytest
from fakes import ScriptedSession
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import MODEL, serving_http
from starlette.requests import HTTPConnection

from runtime.access.call_errors import OTHER, CallErrors
from runtime.access.limits import LimitBook, Limits
from runtime.errors import ConfigError, EdgeQwenError, ModelNotFound, QueueFull, Unavailable
from runtime.http.failures import body_of, status_and_headers
from runtime.http.listener import HttpListener

CHAT = "/v1/chat/completions"
GOOD = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}


def letters(history: tuple[int, ...]) -> int:
    """A model that says letters, one after the other: token 32 is an A."""
    return 32 + len(history) % 26


@pytest.fixture(scope="module")
def where() -> Iterator[str]:
    with serving_http(ScriptedSession(letters), "127.0.0.1:0", max_body_bytes=4000) as where:
        yield where


@pytest.fixture(scope="module")
def client(where: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://{where}", timeout=20) as client:
        yield client


def raw(where: str, sent: bytes) -> bytes:
    """What comes back for these bytes until the daemon closes the connection."""
    host, _, port = where.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def curl(*arguments: str) -> str:
    done = subprocess.run(["curl", "-sSN", "-m", "20", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_curl_over_tcp_and_a_unix_socket(where: str) -> None:
    """An answer, a stream that ends as the API's do, and health."""
    data = ["-H", "content-type: application/json", "-d"]
    answer = json.loads(curl(f"http://{where}{CHAT}", *data, json.dumps(GOOD)))
    text = answer["choices"][0]["message"]["content"]
    assert len(text) == 3
    with serving_http(ScriptedSession(letters)) as unix:
        path = ["--unix-socket", unix.removeprefix("unix:")]
        lines = curl(*path, f"http://localhost{CHAT}", *data, json.dumps(GOOD | {"stream": True})).split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        deltas = [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines[:-2]]
        assert "".join(delta.get("content", "") for delta in deltas) == text
        assert json.loads(curl(*path, "http://localhost/healthz")) == {"status": "ok"}
        assert json.loads(curl(*path, "http://localhost/readyz")) == {"status": "ok"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "is no JSON"),
        (b"[]", "must be keys and values"),
        (b'{"a":', "is no JSON"),
        (b"\xff\xfe", "must be UTF-8"),
        (b'{"temperature": NaN}', "NaN is no number"),
        (b'{"temperature": 1e999}', "too large"),
        (b'{"seed": ' + b"9" * 3000 + b"}", "has 3000 digits"),
        (b'{"model": "a", "model": "b"}', "a key twice"),
        (b'{"messages": ' + b"[" * 1000 + b"]" * 1000 + b"}", "within each other"),
        (b'{"model": "\\ud800", "messages": []}', "halves of characters"),
        (b"{}", "messages: is required"),
    ],
)
def test_bodies_that_are_wrong(client: httpx2.Client, body: bytes, says: str) -> None:
    """400, in the API's words."""
    answer = client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", CHAT, {"content-type": "text/plain"}, 415),
        ("POST", CHAT, {"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ("POST", CHAT, {"content-type": "application/json", "host": "evil.example:80"}, 421),
        ("GET", CHAT, {}, 405),
        ("GET", "/v1/files", {}, 404),
        ("GET", "/v1/models/other", {}, 404),
    ],
)
def test_requests_that_are_wrong(
    client: httpx2.Client, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """Each with its status, and a body that clients of the API can read."""
    answer = client.request(method, path, content=b"{}" if method == "POST" else None, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_bodies_and_headers_that_are_too_large(where: str, client: httpx2.Client) -> None:
    """Refused before they are read, whether they say how large they are or not; the daemon goes on."""
    big = json.dumps(GOOD | {"user": "x" * 5000}).encode()
    answer = client.post(CHAT, content=big, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    chunks = (big[at : at + 1000] for at in range(0, len(big), 1000))
    answer = client.post(CHAT, content=chunks, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    start = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    assert raw(where, start + b"x: " + b"y" * 100_000).startswith(b"HTTP/1.1 400")
    assert raw(where, start + b"content-length: 99999999999999999999999\r\n\r\n").startswith(b"HTTP/1.1 4")
    assert client.get("/healthz").status_code == 200


def test_clients_that_take_too_long_are_sent_away() -> None:
    """With a body that does not come, with headers that do not end, with nothing at all."""
    with serving_http(ScriptedSession(letters), "127.0.0.1:0", body_timeout_s=0.05, header_timeout_s=0.05) as where:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        slow = raw(where, head + b"content-length: 100\r\n\r\n{")
        assert slow.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in slow
        assert raw(where, head) == b""
        assert raw(where, b"") == b""


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_the_slot(stream: bool) -> None:
    """In the middle of a stream, and while a whole answer is made: there is one slot, and the next client gets it."""
    begun = threading.Event()
    session = ScriptedSession(letters, context_tokens=200_000, slots=1)
    session.during_run = begun.set
    with serving_http(session, limits={"kv_budget_tokens": 200_000}) as where:
        body = json.dumps(GOOD | {"max_tokens": 190_000, "stream": stream}).encode()
        path = where.removeprefix("unix:")
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
            connection.settimeout(20)
            connection.connect(path)
            connection.sendall(
                f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\n\r\n".encode()
                + body
            )
            if stream:
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
            assert begun.wait(20)
        transport = httpx2.HTTPTransport(uds=path)
        with httpx2.Client(base_url="http://localhost", transport=transport, timeout=20) as client:
            assert client.post(CHAT, json=GOOD).status_code == 200


def test_an_engine_that_fails_is_told() -> None:
    """By the status, if nothing was sent; in a stream by its last event, and no [DONE] follows it."""
    session = ScriptedSession(letters)
    with serving_http(session, "127.0.0.1:0") as where, httpx2.Client(base_url=f"http://{where}") as client:
        for stream in (False, True):
            session.fail_next = "the device is gone"
            assert client.post(CHAT, json=GOOD | {"stream": stream}).status_code == 500
        runs = session.runs

        def fail_later() -> None:
            if session.runs >= runs + 20:
                session.during_run = lambda: None
                session.fail_next = "the device is gone"

        session.during_run = fail_later
        answer = client.post(CHAT, json=GOOD | {"max_tokens": 100, "stream": True})
        assert answer.status_code == 200
        last = answer.text.strip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
        assert client.post(CHAT, json=GOOD).status_code == 200


def test_errors_are_counted_by_the_status_that_grpc_has_for_them() -> None:
    """Once each, in the middle of a stream too; paths that there are not count as one, and who leaves as none."""
    session, errors = ScriptedSession(letters), CallErrors()
    with (
        serving_http(session, "127.0.0.1:0", max_body_bytes=4000, errors=errors) as where,
        httpx2.Client(base_url=f"http://{where}") as client,
    ):
        for _ in range(2):
            client.post(CHAT, json=GOOD | {"top_p": 7})
        client.post(CHAT, json=GOOD | {"user": "u" * 5000})
        client.post(CHAT, content=b"{}", headers={"content-type": "text/plain"})
        client.get(CHAT)
        client.get("/v1/models/other")
        client.get("/one")
        client.get("/two")
        client.get("/v1/models", headers={"host": "evil.example"})
        session.during_run = lambda: setattr(session, "fail_next", "the device is gone")
        client.post(CHAT, json=GOOD | {"stream": True})
        session.during_run, session.fail_next = lambda: None, None
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(where.rpartition(":")[2]))) as connection:
            connection.sendall(head.encode())
        assert client.post(CHAT, json=GOOD).status_code == 200
    assert errors.totals() == {
        (OTHER, "UNIMPLEMENTED"): 2,
        (CHAT, "INTERNAL"): 1,
        (CHAT, "INVALID_ARGUMENT"): 3,
        (CHAT, "RESOURCE_EXHAUSTED"): 1,
        (CHAT, "UNIMPLEMENTED"): 1,
        ("/v1/models", "NOT_FOUND"): 1,
        ("/v1/models", "PERMISSION_DENIED"): 1,
    }


def test_limits_are_those_of_every_protocol() -> None:
    """A client that has had what it may have gets 429, and how long to wait, in a stream too."""
    book = LimitBook(Limits(requests_per_minute=1))
    with serving_http(ScriptedSession(letters), book=book) as where:
        transport = httpx2.HTTPTransport(uds=where.removeprefix("unix:"))
        with httpx2.Client(base_url="http://localhost", transport=transport) as client:
            assert client.post(CHAT, json=GOOD).status_code == 200
            for stream in (True, False):
                answer = client.post(CHAT, json=GOOD | {"stream": stream})
                assert answer.status_code == 429
                assert 0 < int(answer.headers["retry-after"]) <= 60
                assert answer.json()["error"]["code"] == "rate_limit_exceeded"


def test_logs_say_nothing_of_what_was_sent(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a text nor a key that nobody knows; where the fault is they do say."""
    secret = "xyzzy"
    wrongs = (
        {secret: 1},
        {"messages": [{"role": secret}]},
        {"logit_bias": {secret: 1}},
        {"preset": secret},
        {"tools": [{"type": "function", "function": {"name": "a b", "parameters": {secret: 1}}}]},
    )
    served = serving_http(ScriptedSession(letters), "127.0.0.1:0")
    with served as where, httpx2.Client(base_url=f"http://{where}") as client:
        for wrong in wrongs:
            assert client.post(CHAT, json=GOOD | wrong).status_code == 400
    log = capsys.readouterr().err
    assert log.count("refused") == len(wrongs)
    assert "messages" in log
    assert secret not in log


def test_callers_are_let_in_or_not() -> None:
    """Each request but health is asked about; the connection says who it is."""
    seen: list[tuple[str, Any]] = []

    def admit(connection: HTTPConnection, path: str) -> None:
        seen.append((path, connection.scope["state"]["uid"]))
        if connection.headers.get("authorization") != "Bearer right":
            raise ModelNotFound("no")

    with serving_http(ScriptedSession(letters), admit=admit) as where:
        transport = httpx2.HTTPTransport(uds=where.removeprefix("unix:"))
        with httpx2.Client(base_url="http://localhost", transport=transport) as client:
            assert client.post(CHAT, json=GOOD).status_code == 404
            right = {"authorization": "Bearer right"}
            assert client.post(CHAT, json=GOOD, headers=right).status_code == 200
            assert client.get("/v1/models", headers=right).status_code == 200
            assert client.get("/healthz").status_code == 200
    assert {path for path, _ in seen} == {CHAT, "/v1/models"}
    assert all(isinstance(uid, int) for _, uid in seen)


def test_errors_have_the_statuses_of_http() -> None:
    """From the one table of gRPC codes; 429 says when to come back."""
    assert status_and_headers(QueueFull(64, 2.3)) == (429, {"retry-after": "3"})
    assert status_and_headers(Unavailable("draining"))[0] == 503
    assert status_and_headers(EdgeQwenError("broken"))[0] == 500
    assert body_of(QueueFull(64, 2.3))["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("listen", ["0.0.0.0:8000", "unix:/no/such/folder/s"])
def test_places_that_are_not_allowed(listen: str) -> None:
    """The setting is named as its operator knows it."""
    with pytest.raises(ConfigError, match="http_listen: "):
        HttpListener(listen, 1000)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["messages", "tools", "stop", "logit_bias", "response_format", "tool_choice", "seed", "prompt", "logprobs"]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from([CHAT, "/v1/completions"]), more=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_whatever_is_sent_is_answered_or_refused(client: httpx2.Client, path: str, more: dict[str, Any]) -> None:
    """Never a 500, and always JSON."""
    body = json.dumps({"prompt": "x"} if path != CHAT else GOOD) if not more else json.dumps(GOOD | more)
    answer = client.post(path, content=body.encode("utf-8"), headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 413)
    answer.json()
