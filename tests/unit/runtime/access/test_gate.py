"""Every call passes the gate: it runs as its caller, or its handler never sees it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import structlog
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.runtime.access.guarded import NEEDS, OWN_UID, ask, guarded, start

from runtime.access.places import inner_folder, max_public_bytes
from runtime.access.rules import Evidence, Rules
from runtime.access.tokens import digest_of, make_token
from runtime.errors import ConfigError, Unauthenticated

ME = f"uid:{os.geteuid()}"
AN_OUTSIDER = 12345
TIMEOUT_S = 120  # against a hang: nothing waits so long, on a machine however busy


@pytest.fixture
def folder() -> Iterator[Path]:
    """In /tmp: the path of a unix socket has room for about 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as name:
        yield Path(name)


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo that a refused call has."""
    trailing = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert [detail.Unpack(info) for detail in status.details] == [True]
    return info


async def test_every_kind_of_handler_runs_as_its_caller(folder: Path) -> None:
    """Unary, streaming each way, and those that write to the context, over a unix socket."""
    rules = Rules({}, {ME: frozenset({"generate", "observe", "admin"})}, OWN_UID, NEEDS)
    async with guarded(rules) as it, grpc.aio.insecure_channel(await start(it, f"unix:{folder}/s")) as channel:
        me = ME.encode()
        assert await ask(channel) == ME
        assert [reply async for reply in channel.unary_stream("/t.T/Stream")(b"3")] == [me] * 3
        assert [reply async for reply in channel.unary_stream("/t.T/Written")(b"")] == [me]
        assert [reply async for reply in channel.stream_stream("/t.T/Chat")(iter([b"a", b"b"]))] == [
            me + b"a",
            me + b"b",
        ]
        assert await channel.stream_unary("/t.T/Collect")(iter([b"a", b"b"])) == me + b"ab"


async def test_a_call_without_the_role_never_reaches_its_handler(folder: Path) -> None:
    """The status says which role, in words and for machines; the log who it was and what for, and no more."""
    rules = Rules({}, {ME: frozenset({"observe"})}, OWN_UID, NEEDS)
    with structlog.testing.capture_logs() as lines:
        async with guarded(rules) as it, grpc.aio.insecure_channel(await start(it, f"unix:{folder}/s")) as channel:
            for call in (ask(channel), channel.stream_unary("/t.T/Collect")(iter([b"a"]))):
                with pytest.raises(grpc.aio.AioRpcError, match=f"{ME} may not do this, which needs the role gen") as no:
                    await call
                assert no.value.code() is grpc.StatusCode.PERMISSION_DENIED
                info = info_of(no.value)
                assert (info.reason, info.domain, dict(info.metadata)) == (
                    "ROLE_MISSING",
                    "edgeqwen",
                    {"role": "generate"},
                )
            with pytest.raises(grpc.aio.AioRpcError, match="needs the role admin"):
                [reply async for reply in channel.stream_stream("/t.T/Chat")(iter([b"a"]))]
            assert it.calls == []
            assert [reply async for reply in channel.unary_stream("/t.T/Stream")(b"1")] == [ME.encode()]
    refused = [line for line in lines if line["event"] == "call refused"]
    assert {
        "event": "call refused",
        "log_level": "warning",
        "reason": "PermissionDenied",
        "method": "/t.T/Generate",
        "caller": ME,
    } in refused


async def test_a_method_that_nobody_gave_a_role_is_for_nobody(folder: Path) -> None:
    """Even for a caller with every role; and a method that does not exist is UNIMPLEMENTED."""
    rules = Rules({}, {}, os.geteuid(), NEEDS)
    async with guarded(rules) as it, grpc.aio.insecure_channel(await start(it, f"unix:{folder}/s")) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="is for nobody") as no:
            await ask(channel, "Forgotten")
        assert no.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.aio.AioRpcError) as no:
            await ask(channel, "Nowhere")
        assert no.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert it.calls == []


async def test_a_caller_has_only_so_many_calls_open(folder: Path) -> None:
    """Over all its connections; one more hears so, others are answered, and each that ends makes room."""
    rules = Rules({"other": digest_of(TOKEN)}, {ME: frozenset({"admin", "generate"})}, OWN_UID, NEEDS)
    async with guarded(rules, calls_per_caller=2) as it, asyncio.timeout(TIMEOUT_S):
        port = it.entrance.add_port("127.0.0.1:0")
        async with (
            grpc.aio.insecure_channel(await start(it, f"unix:{folder}/s")) as channel,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as other,
        ):
            held = [channel.stream_stream("/t.T/Chat")() for _ in range(2)]
            for call in held:
                await call.write(b"a")
                assert await call.read() == ME.encode() + b"a"
            with pytest.raises(
                grpc.aio.AioRpcError, match=f"{ME} may have 2 calls open at once, .* try again in"
            ) as no:
                await ask(channel)
            assert no.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            shown = (("authorization", f"Bearer {TOKEN}"),)
            assert await ask(other, metadata=shown) == "token:other"
            await held[0].done_writing()
            assert await held[0].code() is grpc.StatusCode.OK
            assert await ask(channel) == ME
            held[1].cancel()
            again = channel.stream_stream("/t.T/Chat")()
            await again.write(b"b")
            assert await again.read() == ME.encode() + b"b"
            while await channel.unary_unary("/t.T/Generate")(b"x").code() is not grpc.StatusCode.OK:
                pass  # the daemon has not heard yet who left
            again.cancel()
    assert set(it.entrance.errors.totals()) == {("(other)", "RESOURCE_EXHAUSTED")}


async def test_grpcs_own_socket_knows_nobody(folder: Path) -> None:
    """Whoever got to it, round the public one, is nobody: health answers, nothing else. Its folder is ours alone."""
    async with guarded() as it:
        await start(it, f"unix:{folder}/s")
        (inner,) = inner_folder(folder / "s").iterdir()
        assert inner.parent.stat().st_mode & 0o777 == 0o700
        async with grpc.aio.insecure_channel(f"unix:{inner}") as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="has to know who calls") as no:
                await ask(channel)
            assert no.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert await ask(channel, "Health") == "nobody"
    assert not inner.parent.exists()


async def test_a_daemon_that_leaves_lets_its_successor_be(folder: Path) -> None:
    """One whose socket was taken away removes nothing of the one that took its place; sockets of the dead go."""
    async with guarded() as first:
        await start(first, f"unix:{folder}/s")
        (folder / "s").unlink()
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(f"{inner_folder(folder / 's')}/dead")
        async with guarded() as second, grpc.aio.insecure_channel(await start(second, f"unix:{folder}/s")) as channel:
            assert len(list(inner_folder(folder / "s").iterdir())) == 2
            await first.server.stop(0)
            await first.entrance.close()
            async with grpc.aio.insecure_channel(f"unix:{folder}/s") as another:
                assert await ask(another) == await ask(channel) == ME
    assert [path.name for path in folder.iterdir()] == ["s"]


async def test_the_longest_path_works(folder: Path) -> None:
    """That the address allows: gRPC's own socket has a longer one."""
    path = folder / ("x" * (max_public_bytes() - len(os.fsencode(folder)) - 1))
    async with guarded() as it, grpc.aio.insecure_channel(await start(it, f"unix:{path}")) as channel:
        assert await ask(channel) == ME


async def test_a_folder_that_others_may_enter_is_refused(folder: Path) -> None:
    """Somebody may have made it before the daemon came."""
    inner_folder(folder / "s").mkdir(0o755)
    async with guarded() as it:
        with pytest.raises(ConfigError, match="in the way of a folder that only this user may enter"):
            it.entrance.add_port(f"unix:{folder}/s")


AS_ANOTHER = """
import os, sys
import grpc
with grpc.insecure_channel(sys.argv[1]) as channel:  # connects later; another user may not even read Python's modules
    os.setgroups([int(sys.argv[3])]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
    for method in sys.argv[4:]:
        try:
            print(channel.unary_unary(method)(b"", timeout=20).decode())
        except grpc.RpcError as error:
            print(error.code().name)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
async def test_users_are_told_apart(folder: Path) -> None:
    """One of the socket's group generates and observes; others do not even connect. Root has every role."""
    folder.chmod(0o755)
    group = AN_OUTSIDER + 1
    async with guarded() as it:
        target = await start(it, f"unix:{folder}/s")
        os.chown(folder / "s", -1, group)
        (folder / "s").chmod(0o660)

        async def ask_as(uid: int, gid: int) -> list[str]:
            methods = ["/t.T/Generate", "/t.T/Reflection", "/t.T/Forgotten"]
            command = [sys.executable, "-c", AS_ANOTHER, target, str(uid), str(gid), *methods]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
            return done.stdout.split()

        assert await ask_as(AN_OUTSIDER, group) == [f"uid:{AN_OUTSIDER}"] * 2 + ["PERMISSION_DENIED"]
        assert await ask_as(AN_OUTSIDER, AN_OUTSIDER) == ["UNAVAILABLE"] * 3
        assert (await ask_as(0, 0))[0] == "uid:0"


TOKEN = make_token()
WRONG = [
    [],
    [f"Bearer {TOKEN}x"],
    [f"Bearer {TOKEN.swapcase()}"],
    [f"Bearer {TOKEN[:-1]}"],
    ["Bearer "],
    ["Bearer"],
    [TOKEN],
    [f"Basic {TOKEN}"],
    [f"Bearer {digest_of(TOKEN)}"],
    [f"Bearer {TOKEN}", f"Bearer {TOKEN}"],
    [f"Bearer {TOKEN}", "Bearer other"],
]


@pytest.mark.parametrize("headers", WRONG)
async def test_where_tokens_count_a_tcp_caller_must_have_a_right_one(headers: list[str]) -> None:
    """Every wrong one gets the same answer, which tells nothing about those that there are, nor does the log."""
    rules = Rules({"pump": digest_of(TOKEN)}, {}, OWN_UID, NEEDS)
    with structlog.testing.capture_logs() as lines:
        async with guarded(rules) as it, grpc.aio.insecure_channel(await start(it, "127.0.0.1:0")) as channel:
            metadata = tuple(("authorization", header) for header in headers)
            with pytest.raises(grpc.aio.AioRpcError) as no:
                await ask(channel, metadata=metadata)
            assert no.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert no.value.details() == (
                "this daemon has to know who calls: send a bearer token or a client certificate that it accepts"
            )
            assert info_of(no.value).reason == "CALLER_UNKNOWN"
            assert it.calls == []
            assert await ask(channel, "Health", metadata=metadata) == "nobody"
            for scheme in ("Bearer", "bearer", "BEARER "):
                assert await ask(channel, metadata=(("authorization", f"{scheme} {TOKEN}"),)) == "token:pump"
    assert not any(TOKEN[4:20] in str(line) for line in lines)


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80), max_size=4))
@settings(max_examples=300)
def test_no_header_but_the_right_one_is_a_token(headers: list[str]) -> None:
    """Whatever is sent, nothing but the answer comes of it."""
    rules = Rules({"pump": digest_of(TOKEN)}, {}, OWN_UID, NEEDS)
    with pytest.raises(Unauthenticated):
        rules.identify(Evidence(address="10.0.0.1", authorization=headers))


async def test_metadata_of_any_kind_is_answered() -> None:
    """Binary values, long ones and other names make no difference to a daemon that knows callers by address."""
    async with guarded() as it, grpc.aio.insecure_channel(await start(it, "127.0.0.1:0")) as channel:
        odd: tuple[tuple[str, str | bytes], ...] = (
            ("authorization", "~ ~" * 900),
            ("authorization-bin", b"\0\xff" * 100),
            ("x-uid", "0"),
            ("x-forwarded-for", "127.0.0.1"),
        )
        assert await ask(channel, metadata=odd) == "address:127.0.0.1"


async def test_a_plaintext_caller_is_known_by_its_address() -> None:
    """On loopback as before, but it changes nothing: that takes a role that somebody gave it."""
    async with guarded() as it, grpc.aio.insecure_channel(await start(it, "[::1]:0")) as channel:
        assert await ask(channel) == "address:::1"
        with pytest.raises(grpc.aio.AioRpcError, match="needs the role admin"):
            [reply async for reply in channel.stream_stream("/t.T/Chat")(iter([b"a"]))]


async def test_a_reload_counts_from_the_next_call(folder: Path) -> None:
    """On connections that are open, too: a token is revoked, another gets another role."""
    rules = Rules({"pump": digest_of(TOKEN)}, {}, OWN_UID, NEEDS)
    shown = (("authorization", f"Bearer {TOKEN}"),)
    async with guarded(rules) as it, grpc.aio.insecure_channel(await start(it, "127.0.0.1:0")) as channel:
        assert await ask(channel, metadata=shown) == "token:pump"
        it.entrance.reload(Rules({"pump": digest_of(TOKEN)}, {"token:pump": frozenset({"observe"})}, OWN_UID, NEEDS))
        with pytest.raises(grpc.aio.AioRpcError, match="needs the role generate"):
            await ask(channel, metadata=shown)
        it.entrance.reload(Rules({"other": digest_of("x")}, {}, OWN_UID, NEEDS))
        with pytest.raises(grpc.aio.AioRpcError, match="has to know who calls"):
            await ask(channel, metadata=shown)


async def test_refusals_do_not_fill_the_log() -> None:
    """Ten lines a minute, whoever knocks how often."""
    rules = Rules({"pump": digest_of(TOKEN)}, {}, OWN_UID, NEEDS)
    with structlog.testing.capture_logs() as lines:
        async with guarded(rules) as it, grpc.aio.insecure_channel(await start(it, "127.0.0.1:0")) as channel:
            for _ in range(40):
                with pytest.raises(grpc.aio.AioRpcError):
                    await ask(channel)
    assert len([line for line in lines if line["event"] == "call refused"]) == 10
