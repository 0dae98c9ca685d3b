"""Who may ask over HTTP: tokens and certificates under TLS, user ids on unix sockets, by the rules that gRPC has."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx2
import openai
import pytest
from certificates import Authority
from fakes import ScriptedSession
from openai import OpenAI
from serving import MODEL, serving_http
from starlette.requests import HTTPConnection
from unit.runtime.fake_engine import FakeEngine, only_model

from runtime.access.caller import Role
from runtime.access.rules import Rules
from runtime.access.tokens import digest_of, make_token
from runtime.configuration.access_settings import Tls
from runtime.http.callers import Callers
from runtime.http.listener import HttpListener
from runtime.otel import context as trace

TOKEN, WATCHERS = make_token(), make_token()
GOOD = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
CHAT = "/v1/chat/completions"


def callers(clients: dict[str, frozenset[Role]] | None = None) -> Callers:
    rules = Rules(
        {"gateway": digest_of(TOKEN), "watcher": digest_of(WATCHERS)},
        {"token:watcher": frozenset({"observe"}), **(clients or {})},
        os.geteuid(),
    )
    return Callers(lambda: rules)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def with_tokens(authority: Authority) -> Iterator[str]:
    """A listener whose port is TLS, open to other machines, for clients with a token."""
    server = authority.server()
    tls = Tls(certificate=server.certificate, key=server.key)
    with serving_http(ScriptedSession(), "0.0.0.0:0", admit=callers().admit, tls=tls) as where:
        yield f"https://localhost:{where.rpartition(':')[2]}"


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.file))


def test_a_request_belongs_to_its_callers_trace() -> None:
    """By the headers of W3C Trace Context; without them it belongs to none, whatever came before."""
    seen = []

    def admit(connection: HTTPConnection, path: str) -> None:
        Callers(lambda: Rules({}, {}, os.geteuid())).admit(connection, path)
        seen.append(trace.current())

    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with serving_http(ScriptedSession(), "127.0.0.1:0", admit=admit) as where, httpx2.Client() as client:
        for headers in ({"traceparent": parent, "tracestate": "a=b"}, {}):
            assert client.post(f"http://{where}{CHAT}", json=GOOD, headers=headers).status_code == 200
    assert seen == [trace.TraceContext(parent, "a=b"), None]


def test_a_token_is_the_api_key(with_tokens: str, authority: Authority) -> None:
    """The client's own setting, and its own errors: of a wrong token, and of one without the role."""
    wrong = ((make_token(), openai.AuthenticationError), (WATCHERS, openai.PermissionDeniedError))
    for key, error in ((TOKEN, None), *wrong):
        with (
            httpx2.Client(verify=trusting(authority)) as http,
            OpenAI(base_url=f"{with_tokens}/v1", api_key=key, http_client=http, max_retries=0) as client,
        ):
            if error is None:
                assert client.completions.create(model=MODEL, prompt="a", max_tokens=2).usage is not None
                continue
            with pytest.raises(error):
                client.completions.create(model=MODEL, prompt="a", max_tokens=2)


def test_without_a_token_only_health_answers(with_tokens: str, authority: Authority) -> None:
    """401 says what kind of credentials is wanted. Plaintext gets nothing."""
    with httpx2.Client(base_url=with_tokens, verify=trusting(authority)) as client:
        answer = client.get("/v1/models")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert client.get("/healthz").status_code == 200
    with httpx2.Client(base_url=with_tokens.replace("https", "http")) as client, pytest.raises(httpx2.HTTPError):
        client.get("/healthz")


def test_a_client_is_who_its_certificate_says(authority: Authority) -> None:
    """With a client_ca every client must have a certificate, and its name decides."""
    server = authority.server(file="mutual")
    tls = Tls(certificate=server.certificate, key=server.key, client_ca=authority.file)
    admit = callers({"certificate:spiffe://fleet/watcher": frozenset({"observe"})}).admit
    pump, watcher = authority.issue("pump"), authority.issue("w", uri="spiffe://fleet/watcher", file="watcher")
    with serving_http(ScriptedSession(), "127.0.0.1:0", admit=admit, tls=tls) as where:
        for pair, status in ((pump, 200), (watcher, 403)):
            context = trusting(authority)
            context.load_cert_chain(pair.certificate, pair.key)
            with httpx2.Client(base_url=f"https://{where}", verify=context) as client:
                assert client.post(CHAT, json=GOOD).status_code == status
        with (
            httpx2.Client(base_url=f"https://{where}", verify=trusting(authority)) as client,
            pytest.raises(httpx2.TransportError),
        ):
            client.get("/healthz")


def test_users_of_a_unix_socket_are_known(authority: Authority) -> None:
    """Tokens say nothing there: the kernel says who it is."""
    own = frozenset[Role]({"observe"})
    for clients, status in (({}, 200), ({f"uid:{os.geteuid()}": own}, 403)):
        with serving_http(ScriptedSession(), admit=callers(clients).admit) as where:
            transport = httpx2.HTTPTransport(uds=where.removeprefix("unix:"))
            with httpx2.Client(base_url="http://localhost", transport=transport) as client:
                answer = client.post(CHAT, json=GOOD, headers={"authorization": f"Bearer {make_token()}"})
                assert answer.status_code == status
                assert client.get("/v1/models").status_code == 200


async def test_a_reload_reads_the_certificate_again(authority: Authority) -> None:
    """The next connection gets what is in the files then; files that cannot be used change nothing."""
    server = authority.server(file="renewed")
    listener = HttpListener(
        "127.0.0.1:0", 1000, callers().admit, tls=Tls(certificate=server.certificate, key=server.key)
    )
    host, _, port = (await listener.start(only_model(FakeEngine()))).rpartition(":")

    async def certificate() -> object:
        async with asyncio.timeout(20):
            _, writer = await asyncio.open_connection(host, int(port), ssl=trusting(authority))
        try:
            return writer.get_extra_info("peercert")["serialNumber"]
        finally:
            writer.close()

    try:
        first = await certificate()
        authority.server(file="renewed")
        listener.reload()
        second = await certificate()
        server.key.write_text("nothing")
        listener.reload()
        assert await certificate() == second != first
    finally:
        await listener.close()


def test_one_user_has_a_share_of_the_connections() -> None:
    """Beyond it connections are closed at once; those that are open are answered, and one that ends makes room."""

    def answered(client: socket.socket) -> bool:
        answer = b""
        with suppress(ConnectionError):
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not answer.endswith(b"}") and (more := client.recv(1 << 16)):
                answer += more
        return answer.startswith(b"HTTP/1.1 200")

    with serving_http(ScriptedSession(), connections_per_client=2) as where, ExitStack() as opened:

        def connect() -> socket.socket:
            client = opened.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(20)
            client.connect(where.removeprefix("unix:"))
            return client

        first, second = connect(), connect()
        assert answered(first)
        assert answered(second)
        assert not answered(connect())
        assert answered(second)
        first.close()
        while not answered(connect()):  # the daemon has not noticed yet
            pass


def test_a_handshake_that_fails_leaves_no_connection_behind(authority: Authority) -> None:
    """Nor one that does not come. Before it is made a connection counts, too: those beyond are closed at once."""
    server = authority.server(file="shaking")
    tls = Tls(certificate=server.certificate, key=server.key)
    with serving_http(ScriptedSession(), "127.0.0.1:0", tls=tls, connections=1) as where:
        place = ("127.0.0.1", int(where.rpartition(":")[2]))
        with socket.create_connection(place, timeout=20) as wrong:
            wrong.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while wrong.recv(1 << 16):
                pass
        socket.create_connection(place, timeout=20).close()
        with httpx2.Client(base_url=f"https://{where}", verify=trusting(authority)) as client:
            while True:
                with suppress(httpx2.TransportError):
                    assert client.get("/healthz").status_code == 200
                    break
        with socket.create_connection(place, timeout=20), socket.create_connection(place, timeout=20) as second:
            assert second.recv(1) == b""
