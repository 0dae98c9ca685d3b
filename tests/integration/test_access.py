"""Who may call a real daemon: by its socket, with tokens and with certificates."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import grpc
import pytest
import yaml
from certificates import Authority
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from integration.daemons import Daemon, start
from integration.test_daemon import run_daemon

from edgeqwen.client import Client, Connection, InvalidRequest, Options, PermissionDenied, Unauthenticated
from runtime.access.methods import NEEDS
from runtime.access.tokens import digest_of, make_token

pytestmark = pytest.mark.slow

TOKEN = make_token()


def port_of(daemon: Daemon) -> str:
    """Where its second address is."""
    return str(daemon.ready()["listen"]).split()[1]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def guarded(authority: Authority, int4_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon at a unix socket and at a TLS port, whose clients have tokens."""
    server = authority.server()
    file = tmp_path_factory.mktemp("config") / "d.yaml"
    config = {
        "tls": {"certificate": str(server.certificate), "key": str(server.key)},
        "tokens": {"gateway": digest_of(TOKEN)},
        "clients": {"token:gateway": ["generate"]},
    }
    file.write_text(yaml.safe_dump(config))
    with start(int4_package, "--no-verify", "--config", str(file), "--listen", "127.0.0.1:0") as daemon:
        yield daemon


def test_one_daemon_at_a_socket_and_at_a_port(guarded: Daemon, authority: Authority) -> None:
    """Each client has what its identity may; the log says who was refused, and no token."""
    with Client(guarded.target) as local:
        assert local.snapshot().models
        assert list(local.snapshot().warnings) == []
    with Client(Connection(port_of(guarded), ca=authority.file, token=TOKEN)) as remote:
        answer = remote.chat([("user", "Hello")], options=Options(max_tokens=4, ignore_eos=True))
        assert answer.finished.completion_tokens == 4
        with pytest.raises(PermissionDenied, match="token:gateway may not do this, which needs the role observe"):
            remote.snapshot()
    with Client(Connection(port_of(guarded), ca=authority.file)) as stranger:
        assert stranger.health() == "SERVING"
        with pytest.raises(Unauthenticated):
            stranger.complete("a")
    while (log := guarded.log.read_text()).count("call refused") < 2:  # nobody waits for the log
        time.sleep(0.05)
    assert TOKEN not in log
    refused = [line for line in map(json.loads, log.splitlines()) if line["event"] == "call refused"]
    assert [line["reason"] for line in refused] == ["PermissionDenied", "Unauthenticated"]


def test_every_method_that_the_daemon_has_is_in_the_table(guarded: Daemon) -> None:
    """As reflection tells them: whoever adds a service decides who may call it."""
    with grpc.insecure_channel(guarded.target) as channel:
        ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo

        def one(**request: str) -> reflection_pb2.ServerReflectionResponse:
            return next(ask(iter([reflection_pb2.ServerReflectionRequest(**request)])))

        services = [service.name for service in one(list_services="").list_services_response.service]
        files = {
            content
            for name in services
            for content in one(file_containing_symbol=name).file_descriptor_response.file_descriptor_proto
        }
    methods = {
        f"/{file.package}.{service.name}/{method.name}"
        for file in map(FileDescriptorProto.FromString, files)
        for service in file.service
        for method in service.method
    }
    assert len(methods) > 8
    assert methods <= set(NEEDS)


def test_a_renewed_certificate_is_used_without_a_restart(guarded: Daemon, authority: Authority) -> None:
    """By the next client; the daemon's process is the same."""
    renewed = authority.server(file="renewed")
    (current,) = authority.file.parent.glob("server.pem")
    renewed.certificate.replace(current)
    renewed.key.replace(current.with_suffix(".key"))
    with Client(Connection(port_of(guarded), ca=authority.file, token=TOKEN)) as client:
        assert client.complete("a", options=Options(max_tokens=1)).finished
    assert guarded.process.poll() is None
    assert guarded.said("certificate reloaded")


def ask_on(client: Client, max_tokens: int) -> NoReturn:
    """Until it fails: a signal is handled soon."""
    while True:
        client.complete("a", options=Options(max_tokens=max_tokens))


def test_a_reload_revokes_tokens_and_limits_clients(int4_package: Path, tmp_path: Path) -> None:
    """From the next call on, on connections that are open; no restart. What waits for one is said."""
    file = tmp_path / "d.yaml"
    both = {"gateway": digest_of(TOKEN), "other": digest_of("x")}
    file.write_text(yaml.safe_dump({"tokens": both}))
    with start(int4_package, "--no-verify", "--config", str(file), "--listen", "127.0.0.1:0") as daemon:
        with Client(port_of(daemon), token=TOKEN) as client:
            assert client.complete("a", options=Options(max_tokens=2)).finished.completion_tokens == 2
            limits = {"default": {"output_tokens": 1}}
            file.write_text(yaml.safe_dump({"tokens": both, "limits": limits, "queue_limit": 5}))
            daemon.process.send_signal(signal.SIGHUP)
            with pytest.raises(InvalidRequest, match="max_tokens: must be 1 to 1"):
                ask_on(client, 2)
            file.write_text(yaml.safe_dump({"tokens": {"other": digest_of("x")}, "limits": limits}))
            daemon.process.send_signal(signal.SIGHUP)
            with pytest.raises(Unauthenticated):
                ask_on(client, 1)
        log = daemon.said('"changed": ["tokens"]')
    assert '"changed": ["limits"]' in log
    assert '"settings": ["queue_limit"]' in log


def test_plaintext_off_loopback_is_said_everywhere(int4_package: Path) -> None:
    """In the log at start, and by `edgeqwen status` to whoever looks."""
    with start(int4_package, "--no-verify", "--listen", "0.0.0.0:0", "--insecure") as daemon:
        port = port_of(daemon).rpartition(":")[2]
        with Client(f"127.0.0.1:{port}") as client:
            (warning,) = client.snapshot().warnings
            assert warning.startswith("0.0.0.0:0 is open to the network without TLS, as `insecure: true` says: ")
        assert daemon.said("open to the network without TLS")


def test_a_bad_certificate_ends_the_start_before_the_model_is_loaded(tmp_path: Path) -> None:
    """With exit status 3, and one line that says what is wrong with which file."""
    file = tmp_path / "d.yaml"
    file.write_text("package: /nowhere\ntls: {certificate: /none.pem, key: /none.key, client_ca: /none.pem}\n")
    done = run_daemon("--config", str(file), "--listen", f"unix:{tmp_path}/s")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "tls: /none.pem cannot be read: No such file or directory" in done.stderr


def test_a_socket_and_its_folder_go_with_the_daemon_and_outlive_no_kill(int4_package: Path, tmp_path: Path) -> None:
    """What a killed daemon leaves, the next one at the same place takes over."""
    with start(int4_package, "--no-verify") as first:
        folder = Path(first.target.removeprefix("unix:")).parent
        assert {path.name for path in folder.iterdir()} == {"d.sock", ".d.sock", "log"}
        first.process.kill()
        first.process.wait()
        command = ["--package", str(int4_package), "--no-verify", "--listen", first.target]
        second = subprocess.Popen([sys.executable, "-m", "runtime.daemon", *command], stderr=subprocess.DEVNULL)
        try:
            with Client(first.target) as client:
                client.wait_until_serving(timeout_s=60)
        finally:
            second.terminate()
            assert second.wait(30) == 0
        assert {path.name for path in folder.iterdir()} == {"log"}
