"""TLS as the daemon does it: who gets in with what, and certificates that change while it runs."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from certificates import Authority, Pair
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import EventDict
from unit.runtime.access.guarded import NEEDS, OWN_UID, Guarded, ask, guarded, start

from runtime.access.certificates import Certificates, Files, expiry_of
from runtime.access.rules import Rules
from runtime.access.tokens import digest_of, make_token
from runtime.errors import ConfigError

DAY_S = 86_400.0
TIMEOUT_S = 20


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """In /tmp: the path of a unix socket has room for about 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


def channel_to(target: str, ca: Path, client: Pair | None = None) -> grpc.aio.Channel:
    """TLS, each time with a handshake of its own."""
    credentials = grpc.ssl_channel_credentials(
        ca.read_bytes(),
        client.key.read_bytes() if client else None,
        client.certificate.read_bytes() if client else None,
    )
    return grpc.aio.secure_channel(target, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


async def ask_by(target: str, ca: Path, client: Pair | None = None, **kwargs: Any) -> str:
    async with channel_to(target, ca, client) as channel:
        return await ask(channel, timeout=TIMEOUT_S, **kwargs)


def bearing(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def replace(target: Pair, source: Pair) -> None:
    """As programs that renew certificates do it: each file whole, the certificate before its key."""
    os.replace(source.certificate, target.certificate)  # noqa: PTH105 - the point is what the kernel does
    os.replace(source.key, target.key)  # noqa: PTH105


# Who gets in


async def test_a_client_is_who_its_certificate_says(authority: Authority) -> None:
    """By URI, else DNS name, else e-mail address, else common name; with the roles that the name has."""
    server = authority.server()
    rules = Rules({}, {"certificate:idle": frozenset()}, OWN_UID, NEEDS)
    async with guarded(rules, Certificates(Files(server.certificate, server.key, authority.file))) as it:
        target = await start(it, "127.0.0.1:0")
        issued = {
            "certificate:spiffe://fleet/pump": authority.issue("a", uri="spiffe://fleet/pump", hosts=("pump.example",)),
            "certificate:pump.example": authority.issue("b", hosts=("pump.example",), email="pump@example.com"),
            "certificate:pump@example.com": authority.issue("c", email="pump@example.com"),
            "certificate:pump 7": authority.issue("pump 7"),
        }
        for name, pair in issued.items():
            assert await ask_by(target, authority.file, pair) == name
        with pytest.raises(grpc.aio.AioRpcError, match="certificate:idle may not do this"):
            await ask_by(target, authority.file, authority.issue("idle"))


async def test_a_certificate_that_says_0_is_not_root(authority: Authority) -> None:
    """Kinds of identities do not mix, whatever a name looks like."""
    server = authority.server()
    rules = Rules({}, {"certificate:*": frozenset()}, OWN_UID, NEEDS)
    async with guarded(rules, Certificates(Files(server.certificate, server.key, authority.file))) as it:
        target = await start(it, "127.0.0.1:0")
        for name in ("0", "uid:0", "root"):
            with pytest.raises(grpc.aio.AioRpcError, match=f"certificate:{name} may not do this"):
                await ask_by(target, authority.file, authority.issue(name, file="x"))


async def test_clients_without_a_certificate_of_the_authority_do_not_connect(
    authority: Authority, tmp_path: Path
) -> None:
    """None at all, one that has expired, one of another authority of the same name, and plaintext."""
    server = authority.server()
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").issue("pump")
    expired = authority.issue("expired", days=-1)
    async with guarded(certificates=Certificates(Files(server.certificate, server.key, authority.file))) as it:
        target = await start(it, "127.0.0.1:0")
        for client in (None, expired, stranger):
            with pytest.raises(grpc.aio.AioRpcError) as no:
                await ask_by(target, authority.file, client)
            assert no.value.code() is grpc.StatusCode.UNAVAILABLE
        async with grpc.aio.insecure_channel(target) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as no:
                await ask(channel)
            assert no.value.code() is grpc.StatusCode.UNAVAILABLE
        assert it.calls == []
        assert await ask_by(target, authority.file, authority.issue("pump")) == "certificate:pump"


async def test_a_client_refuses_a_daemon_that_is_another(authority: Authority, tmp_path: Path) -> None:
    """Whose certificate another authority signed; no token is sent there."""
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    server = other.server()
    token = make_token()
    rules = Rules({"pump": digest_of(token)}, {}, OWN_UID, NEEDS)
    async with guarded(rules, Certificates(Files(server.certificate, server.key))) as it:
        target = await start(it, "127.0.0.1:0")
        with pytest.raises(grpc.aio.AioRpcError):
            await ask_by(target, authority.file, metadata=bearing(token))
        assert await ask_by(target, other.file, metadata=bearing(token)) == "token:pump"
        assert it.calls == ["unary"]


async def test_tokens_over_tls(authority: Authority) -> None:
    """A right one names the caller, whose certificate otherwise does; a wrong one is refused with any certificate."""
    server, token = authority.server(), make_token()
    rules = Rules({"pump": digest_of(token)}, {}, OWN_UID, NEEDS)
    for client_ca, client in ((None, None), (authority.file, authority.issue("board"))):
        async with guarded(rules, Certificates(Files(server.certificate, server.key, client_ca))) as it:
            target = await start(it, "127.0.0.1:0")
            assert await ask_by(target, authority.file, client, metadata=bearing(token)) == "token:pump"
            with pytest.raises(grpc.aio.AioRpcError, match="has to know who calls"):
                await ask_by(target, authority.file, client, metadata=bearing(token.upper()))
            if client is not None:
                assert await ask_by(target, authority.file, client) == "certificate:board"
                continue
            with pytest.raises(grpc.aio.AioRpcError, match="has to know who calls"):
                await ask_by(target, authority.file)


# Renewal


def serial_of(target: str, ca: Path) -> str:
    """The serial number of the certificate that a new connection is shown."""
    host, _, port = target.rpartition(":")
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), TIMEOUT_S) as raw,
        context.wrap_socket(raw, server_hostname=host) as it,
    ):
        shown = it.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])


async def test_new_files_are_used_for_the_next_connection(authority: Authority, lines: list[EventDict]) -> None:
    """Without a restart, and those that are open go on; a broken file changes nothing and is said once."""
    server = authority.server()
    token = make_token()
    rules = Rules({"pump": digest_of(token)}, {}, OWN_UID, NEEDS)
    async with guarded(rules, Certificates(Files(server.certificate, server.key))) as it:
        target = await start(it, "127.0.0.1:0")
        async with channel_to(target, authority.file) as open_channel:
            assert await ask(open_channel, metadata=bearing(token)) == "token:pump"
            first = await asyncio.to_thread(serial_of, target, authority.file)
            replace(server, authority.server(file="new"))
            second = await asyncio.to_thread(serial_of, target, authority.file)
            assert second != first
            server.certificate.write_text("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")
            for _ in range(3):
                assert await asyncio.to_thread(serial_of, target, authority.file) == second
            server.certificate.unlink()
            assert await asyncio.to_thread(serial_of, target, authority.file) == second
            replace(server, authority.server(file="newer"))
            assert await asyncio.to_thread(serial_of, target, authority.file) not in {first, second}
            assert await ask(open_channel, metadata=bearing(token)) == "token:pump"
    said = [line["event"] for line in lines if line["event"] != "socket left to own group"]
    assert said == ["certificate reloaded", *["new certificate ignored"] * 2, "certificate reloaded"]


async def test_certificates_change_under_load(authority: Authority, lines: list[EventDict]) -> None:
    """Connections are made all the time; each of 30 renewals is between two of them, and none fails."""
    server = authority.server()
    token = make_token()
    rules = Rules({"pump": digest_of(token)}, {}, OWN_UID, NEEDS)
    renewals = [authority.server(file=f"new{number}") for number in range(30)]
    async with guarded(rules, Certificates(Files(server.certificate, server.key))) as it:
        target = await start(it, "127.0.0.1:0")
        done = asyncio.Event()

        async def knock() -> int:
            answers = 0
            while not done.is_set():
                assert await ask_by(target, authority.file, metadata=bearing(token)) == "token:pump"
                answers += 1
            return answers

        async def stream() -> int:
            async with channel_to(target, authority.file) as channel:
                replies = channel.unary_stream("/t.T/Stream")(b"3000", metadata=bearing(token))
                return len([reply async for reply in replies])

        knocking = [asyncio.create_task(knock()) for _ in range(4)]
        streaming = asyncio.create_task(stream())
        for pair in renewals:
            await asyncio.to_thread(replace, server, pair)
            await ask_by(target, authority.file, metadata=bearing(token))
        done.set()
        answers = await asyncio.gather(*knocking)
        assert await streaming == 3000
    assert min(answers) > 0
    assert sum(line["event"] == "certificate reloaded" for line in lines) > 0


def test_expiry_is_said_before_and_after(authority: Authority, lines: list[EventDict]) -> None:
    """From 30 days before on, once a day where connections are made; a health check can ask."""
    server = authority.server(days=60)
    now_s = time.time()
    certificates = Certificates(Files(server.certificate, server.key), clock=lambda: now_s)
    assert certificates.days_left == pytest.approx(60, abs=0.01)
    for days in (31, 31.5, 32.2, 61):
        now_s = time.time() + days * DAY_S
        certificates._changed()
        certificates._changed()
    assert [(line["event"], line["days_left"]) for line in lines] == [
        ("certificate expires soon", 29.0),
        ("certificate expires soon", 27.8),
        ("certificate has expired", -1.0),
    ]
    assert certificates.days_left < 0


async def test_whoever_runs_the_daemon_is_warned(authority: Authority, tmp_path: Path, lines: list[EventDict]) -> None:
    """Of a certificate that ends soon, and of a port that all can read."""
    server = authority.server(days=10.2)
    async with guarded(certificates=Certificates(Files(server.certificate, server.key, authority.file))) as it:
        assert it.entrance.warnings() == ["the certificate expires in 10 days: replace its files, no restart is needed"]
        assert it.entrance.certificate_days_left == pytest.approx(10.2, abs=0.01)
    async with guarded() as it:
        assert it.entrance.warnings() == []
        it.entrance.add_port("127.0.0.1:0")
        assert it.entrance.warnings() == []
        it.entrance.add_port("0.0.0.0:0")
        assert it.entrance.warnings() == ["0.0.0.0:0 is open to the network without TLS, as `insecure: true` says"]
    assert "open to the network without TLS" in [line["event"] for line in lines]


# Files that cannot be used


def test_a_daemon_does_not_start_with_files_that_cannot_be_used(authority: Authority, tmp_path: Path) -> None:
    """Each is named with what is wrong with it, before any model is loaded."""
    server, other = authority.server(), authority.server(file="other")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    locked = tmp_path / "locked.key"
    key = serialization.load_pem_private_key(server.key.read_bytes(), None)
    password = serialization.BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, password))
    cases = [
        (Files(tmp_path / "none.pem", server.key), r"none\.pem cannot be read: No such file"),
        (Files(server.certificate, tmp_path / "none.key"), r"none\.key cannot be read: No such file"),
        (Files(server.certificate, other.key), r"server\.pem cannot be used: .*other\.key does not belong to it"),
        (Files(server.certificate, text), r"text\.pem is no key in PEM"),
        (Files(server.certificate, locked), r"locked\.key is no key in PEM without a password"),
        (Files(text, server.key), r"text\.pem cannot be used: it has no certificate in PEM"),
        (Files(server.certificate, server.key, text), r"text\.pem cannot be used: it has no certificate in PEM"),
    ]
    for files, reason in cases:
        with pytest.raises(ConfigError, match=rf"tls: .*{reason}"):
            Certificates(files)


def test_expiry_is_read_as_another_reader_reads_it(authority: Authority) -> None:
    """Before and after 2050, from where on the standard writes the year in four digits."""
    for days in (-400, 1, 30, 9_000, 20_000):
        pem = authority.server(days=days).certificate.read_text()
        expected = x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc.timestamp()
        assert expiry_of(pem) == expected


@given(st.data())
def test_a_damaged_certificate_is_a_value_error(damaged: st.DataObject) -> None:
    """Whatever byte is wrong, nothing else is raised."""
    content = bytearray(DER)
    at = damaged.draw(st.integers(0, len(content) - 1))
    content[at] = damaged.draw(st.integers(0, 255))
    cut = damaged.draw(st.integers(1, len(content)))
    for each in (content, content[:cut]):
        with suppress(ValueError):
            expiry_of(ssl.DER_cert_to_PEM_cert(bytes(each)))


def _a_certificate() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        pem = Authority(Path(folder)).server().certificate.read_text()
    return ssl.PEM_cert_to_DER_cert(pem)


DER = _a_certificate()


# Clients that say nothing


async def silent(it: Guarded, target: str, count: int) -> list[socket.socket]:
    """Connections that send nothing."""
    if target.startswith("unix:"):
        clients = [socket.socket(socket.AF_UNIX) for _ in range(count)]
        for client in clients:
            client.connect(target.removeprefix("unix:"))
        return clients
    host, _, port = target.rpartition(":")
    return [socket.create_connection((host, int(port))) for _ in range(count)]


@pytest.mark.parametrize("kind", ["unix", "plaintext", "tls"])
async def test_a_client_that_says_nothing_is_dropped(kind: str, authority: Authority, short_folder: Path) -> None:
    """After the time that a handshake may take; who calls meanwhile is answered."""
    server = authority.server()
    files = Files(server.certificate, server.key, authority.file)
    options = (("grpc.server_handshake_timeout_ms", 300),)
    async with guarded(certificates=Certificates(files) if kind == "tls" else None, options=options) as it:
        target = await start(it, f"unix:{short_folder}/s" if kind == "unix" else "127.0.0.1:0")
        clients = await silent(it, target, 8)
        if kind == "tls":
            assert await ask_by(target, authority.file, authority.issue("pump")) == "certificate:pump"
        else:
            async with grpc.aio.insecure_channel(target) as channel:
                assert await ask(channel)
        for client in clients:
            client.settimeout(TIMEOUT_S)

            def drained(client: socket.socket = client) -> bytes:
                last = b"x"
                while last:  # what the server says first, and then its end
                    last = client.recv(1 << 16)
                return last

            assert await asyncio.to_thread(drained) == b""
            client.close()


async def test_tcp_ports_take_so_many_connections(authority: Authority) -> None:
    """Beyond, they are closed at once; when one has gone, another may come."""
    options = (("grpc.max_allowed_incoming_connections", 3),)
    async with guarded(options=options) as it:
        target = await start(it, "127.0.0.1:0")
        clients = await silent(it, target, 6)
        ended = 0
        for client in clients:
            client.settimeout(0.5)

            def closed(client: socket.socket = client) -> bool:
                try:
                    while client.recv(1 << 16):
                        pass
                except TimeoutError:
                    return False
                except ConnectionError:
                    pass
                return True

            ended += await asyncio.to_thread(closed)
        assert ended == 3
        for client in clients:
            client.close()
        async with grpc.aio.insecure_channel(target) as channel:
            assert await ask(channel, wait_for_ready=True, timeout=TIMEOUT_S) == "address:127.0.0.1"
