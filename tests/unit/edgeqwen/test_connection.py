"""How clients and the `edgeqwen` command show who they are, to the real services behind a real gate."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from certificates import Authority, Pair
from click.testing import CliRunner, Result
from fakes import ScriptedSession
from serving import make_entrance, serving

from edgeqwen.cli import main
from edgeqwen.client import (
    AsyncClient,
    Client,
    ClientError,
    Connection,
    Options,
    PermissionDenied,
    ServerUnavailable,
    Unauthenticated,
    checked_target,
)
from runtime.access.caller import Role
from runtime.access.certificates import Certificates, Files
from runtime.access.entrance import Entrance
from runtime.access.rules import Rules
from runtime.access.tokens import digest_of, make_token

TOKEN = make_token()
NOBODYS = make_token()


def entrance(certificates: Certificates | None, clients: dict[str, frozenset[Role]] | None = None) -> Entrance:
    return make_entrance(Rules({"gateway": digest_of(TOKEN)}, clients or {}, os.geteuid()), certificates)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def with_tokens(authority: Authority) -> Iterator[str]:
    """A daemon whose TCP port is TLS, for clients with a token."""
    server = authority.server()
    certificates = Certificates(Files(server.certificate, server.key))
    with serving(ScriptedSession(), entrance=entrance(certificates), listen="127.0.0.1:0") as target:
        yield target


@pytest.fixture(scope="module")
def with_certificates(authority: Authority) -> Iterator[str]:
    """One for clients with a certificate."""
    server = authority.server(file="mutual")
    certificates = Certificates(Files(server.certificate, server.key, authority.file))
    clients: dict[str, frozenset[Role]] = {"certificate:watcher": frozenset({"observe"})}
    with serving(ScriptedSession(), entrance=entrance(certificates, clients), listen="127.0.0.1:0") as target:
        yield target


def ask(connection: Connection) -> str:
    with Client(connection) as client:
        client.wait_until_serving(timeout_s=20)
        assert client.snapshot().models
        return client.complete("a", options=Options(max_tokens=3, ignore_eos=True), timeout_s=20).finished.reason


def ask_async(connection: Connection) -> str:
    async def run() -> str:
        async with AsyncClient(connection) as client:
            assert (await client.snapshot()).models
            answer = await client.complete("a", options=Options(max_tokens=3, ignore_eos=True), timeout_s=20)
            return answer.finished.reason

    return asyncio.run(run())


Ask = Callable[[Connection], str]
both = pytest.mark.parametrize("ask", [ask, ask_async])


@both
def test_a_token_over_tls(ask: Ask, with_tokens: str, authority: Authority) -> None:
    """https:// or a CA make it TLS; every call has the token."""
    assert ask(Connection(f"https://{with_tokens}", ca=authority.file, token=TOKEN)) == "length"
    assert ask(Connection(with_tokens, ca=authority.file, token=TOKEN)) == "length"


@both
def test_a_certificate(ask: Ask, with_certificates: str, authority: Authority) -> None:
    pump = authority.issue("pump")
    assert ask(Connection(with_certificates, authority.file, pump.certificate, pump.key)) == "length"


@both
@pytest.mark.parametrize("token", [None, NOBODYS], ids=["none", "nobodys"])
def test_who_is_not_known_is_told_so(ask: Ask, with_tokens: str, authority: Authority, token: str | None) -> None:
    """And what to do about it."""
    with pytest.raises(Unauthenticated, match=r"has to know who calls: send a bearer token .*\(--token-file, "):
        ask(Connection(with_tokens, ca=authority.file, token=token))


@both
def test_who_lacks_a_role_is_told_which(ask: Ask, with_certificates: str, authority: Authority) -> None:
    """Here it may observe, and not generate."""
    watcher = authority.issue("watcher")
    with pytest.raises(PermissionDenied, match="certificate:watcher may not do this, which needs the role") as no:
        ask(Connection(with_certificates, authority.file, watcher.certificate, watcher.key))
    assert no.value.role == "generate"


@both
def test_without_agreement_on_tls_nothing_is_sent(
    ask: Ask, with_tokens: str, with_certificates: str, authority: Authority, tmp_path: Path
) -> None:
    """A daemon that another authority vouches for; one that wants a certificate; plaintext to a TLS port."""
    stranger = Authority(tmp_path)
    for connection in (
        Connection(with_tokens, ca=stranger.file, token=TOKEN),
        Connection(with_certificates, ca=authority.file),
        Connection(with_tokens),
    ):
        with pytest.raises(ClientError) as no:
            ask_async(connection)
        assert type(no.value) is ServerUnavailable


# The command


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env=environment)


def test_flags_and_environment_of_the_command(
    with_tokens: str, with_certificates: str, authority: Authority, tmp_path: Path
) -> None:
    """Either says the same; a token is never an argument, which everybody on the machine can read."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    pump: Pair = authority.issue("pump", file="cli")
    ca, certificate, key = str(authority.file), str(pump.certificate), str(pump.key)
    by_token = ("--target", f"https://{with_tokens}", "--ca", ca, "--token-file", str(file))
    by_certificate = ("--target", with_certificates, "--ca", ca, "--certificate", certificate, "--key", key)
    asked = ("generate", "abc", "--max-tokens", "3")
    for shown in (by_token, by_certificate):
        done = run(*shown, *asked)
        assert done.exit_code == 0, done.stderr
    done = run(*asked, EDGEQWEN_TARGET=f"https://{with_tokens}", EDGEQWEN_CA=ca, EDGEQWEN_TOKEN_FILE=str(file))
    assert done.exit_code == 0, done.stderr
    environment = {"EDGEQWEN_CA": ca, "EDGEQWEN_CERTIFICATE": certificate, "EDGEQWEN_KEY": key}
    done = run(*asked, EDGEQWEN_TARGET=with_certificates, **environment)
    assert done.exit_code == 0, done.stderr


def test_exit_status_77_is_not_allowed(with_tokens: str, authority: Authority, tmp_path: Path) -> None:
    """As sysexits.h has it, with one line."""
    file = tmp_path / "token"
    file.write_text(NOBODYS)
    done = run("--target", with_tokens, "--ca", str(authority.file), "--token-file", str(file), "generate", "abc")
    assert done.exit_code == 77
    assert done.stderr.count("\n") == 1
    assert NOBODYS not in done.stderr


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--target", "unix:/a", "--ca", "x"], "unix:/a is not TLS"),
        (["--target", "http://a:1", "--certificate", "x", "--key", "y"], "http://a:1 is not TLS"),
        (["--target", "a:1", "--certificate", "x"], "belong together"),
        (["--target", "a:1", "--token-file", "TOKEN"], "all can read it: use https://a:1"),
        (["--target", "https://a:1", "--token-file", "none"], "cannot read the token in none: No such file"),
        (["--target", "https://a:1", "--token-file", "EMPTY"], "no token has"),
        (["--target", "https://a/b:1"], "after https:// for TLS"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(flags: list[str], reason: str, tmp_path: Path) -> None:
    (tmp_path / "TOKEN").write_text(TOKEN)
    (tmp_path / "EMPTY").write_text("\n")
    arguments = [str(tmp_path / flag) if flag.isupper() else flag for flag in flags]
    done = run(*arguments, "status")
    assert done.exit_code == 2
    assert reason in done.stderr
    assert TOKEN not in done.stderr


def test_a_file_that_cannot_be_read_is_a_usage_error() -> None:
    done = run("--target", "https://127.0.0.1:1", "--ca", "/none.pem", "status")
    assert done.exit_code == 2
    assert "cannot read /none.pem: No such file" in done.stderr


def test_a_token_is_not_shown() -> None:
    """A connection's repr goes where errors go."""
    assert TOKEN not in repr(Connection("https://a:1", token=TOKEN))


@pytest.mark.parametrize("target", ["unix:/a", "127.0.0.1:1", "[::1]:1", "localhost:1", "https://a:1", "http://a:1"])
def test_where_a_token_may_go(target: str) -> None:
    """Where nobody reads along, or where somebody said that it is as it should be."""
    assert Connection(target, token=TOKEN).target == checked_target(target)
