"""HTTP with registries: who we are, what is never done, and faults in our words."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import ssl
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("oras", reason="needs the extra `oci`")

from certificates import Authority
from fake_registry import PASSWORD, USER, FakeRegistry, fake_registry
from listening import listening
from unit.runtime.oci.remotes import WEIGHTS, Clock, MemoryRemote, Waits, contents_from, files_of, package_with

from runtime.disk import LocalDisk
from runtime.errors import PackageNotThere, RemoteRefused, RemoteUnavailable, TransferError
from runtime.oci.documents import INDEX_TYPE, MANIFEST_TYPE, digest_of
from runtime.oci.fetching import fetch
from runtime.oci.opening import open_source
from runtime.oci.patience import Patience
from runtime.oci.rate import Rate
from runtime.oci.reference import Mirror, RegistryReference
from runtime.oci.registry import RegistryRemote
from runtime.oci.settings import Settings
from runtime.oci.source import Source
from runtime.oci.transport import Access, Transport, is_loopback

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxies and no credentials but those of a test."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return package_with(tmp_path / "p", {WEIGHTS: CONTENT})


def filled(registry: FakeRegistry, package: Path) -> FakeRegistry:
    """With `package` under the tag 1.0.0."""
    memory = MemoryRemote.of(package)
    registry.blobs = dict(memory.blobs)
    registry.manifests = {digest: (MANIFEST_TYPE, content) for digest, content in memory.documents.items() if digest}
    registry.manifests["1.0.0"] = (INDEX_TYPE, memory.documents[""])
    return registry


def source_at(host: str, settings: Settings | None = None, tag: str = "1.0.0") -> tuple[Source, list[str]]:
    notes: list[str] = []
    patient = replace(settings or Settings(), patience=Patience(3, Waits(), lambda: 0.0))
    return open_source(RegistryReference(host, "edge", tag), patient, notes.append), notes


def pulled(source: Source, tmp_path: Path) -> dict[str, bytes]:
    """The files that a fetch brings."""
    (tmp_path / "incoming").mkdir(exist_ok=True)
    fetch(source, contents_from(source), tmp_path / "incoming/p.ortpackage", LocalDisk())
    return files_of(tmp_path / "incoming/p.ortpackage")


def test_a_download_goes_on_where_it_was_cut(package: Path, tmp_path: Path) -> None:
    """Each time with a range from there on."""
    with fake_registry(cut_every=3000) as registry:
        source, _ = source_at(filled(registry, package).host)
        assert pulled(source, tmp_path) == files_of(package)
    ranges = [headers["Range"] for headers in registry.headers if "Range" in headers]
    assert ranges == ["bytes=3000-", "bytes=6000-", "bytes=9000-"]


def test_a_registry_that_knows_no_ranges_is_read_from_the_begin(package: Path, tmp_path: Path) -> None:
    """What is there already is passed over, and no byte is written twice."""
    with fake_registry(ignores_ranges=True) as registry:
        filled(registry, package)
        source, _ = source_at(registry.host)
        contents = contents_from(source)
        (tmp_path / "incoming").mkdir()
        weights = next(layer for layer in contents.layers if layer.path == WEIGHTS)
        (tmp_path / "incoming" / f"sha256-{weights.sha256}.part").write_bytes(CONTENT[:777])
        assert pulled(source, tmp_path) == files_of(package)
    assert "bytes=777-" in [headers.get("Range") for headers in registry.headers]


def test_a_registry_that_sends_another_part_is_refused(package: Path) -> None:
    """A part that begins later would leave a hole."""
    answer = (206, {"Content-Range": "bytes 900-1000/2000"})
    with fake_registry() as registry:
        source, _ = source_at(filled(registry, package).host)
        registry.answers.append(answer)
        with pytest.raises(TransferError, match="sends another part of a blob than was asked for"):
            list(source.remotes[0].blob(next(iter(registry.blobs)), 5))


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_registry_that_is_busy_is_asked_again_when_it_says(package: Path, tmp_path: Path, status: int) -> None:
    with fake_registry(answers=deque([(status, {"Retry-After": "17"}), (status, {})])) as registry:
        source, _ = source_at(filled(registry, package).host)
        assert pulled(source, tmp_path) == files_of(package)
    assert source.patience.sleep == [17.0, 0.5]


def test_a_tag_that_is_not_there_is_said_with_those_that_are(package: Path) -> None:
    """Without asking again and again."""
    with fake_registry() as registry:
        source, _ = source_at(filled(registry, package).host, tag="9.9.9")
        with pytest.raises(
            PackageNotThere, match=r"there is no .*/edge:9\.9\.9 \(manifest unknown\); there are 1\.0\.0"
        ) as error:
            source.offers()
    assert error.value.exit_code == 4
    assert source.patience.sleep == []


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_a_registry_that_asks_who_we_are_is_told(package: Path, tmp_path: Path, kind: str) -> None:
    """Once: what it gave is shown with all that follows."""
    with fake_registry(asks_for=kind) as registry:
        source, _ = source_at(filled(registry, package).host, Settings(credentials=(USER, PASSWORD)))
        assert pulled(source, tmp_path) == files_of(package)
    assert sum("Authorization" not in headers for headers in registry.headers) == 1


@pytest.mark.parametrize("kind", ["basic", "bearer"])
@pytest.mark.parametrize("credentials", [None, (USER, "wrong")])
def test_who_may_not_is_told_so(package: Path, kind: str, credentials: tuple[str, str] | None) -> None:
    """In one line and once: nothing is locked by trying again."""
    with fake_registry(asks_for=kind) as registry:
        source, _ = source_at(filled(registry, package).host, Settings(credentials=credentials))
        with pytest.raises(RemoteRefused, match=r"does not let us have .* \(status 401") as error:
            source.offers()
    assert error.value.exit_code == 77
    assert len(registry.requests) <= 4


def test_what_docker_login_left_is_used(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the registry that it is for, wherever Docker looks for it; or in a file that is named."""
    with fake_registry(asks_for="basic") as registry:
        filled(registry, package)
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        for place in ("home/.docker/config.json", "elsewhere/config.json", "auth.json"):
            file = tmp_path / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
            if place.startswith("elsewhere"):
                monkeypatch.setenv("DOCKER_CONFIG", str(file.parent))
            settings = Settings(auth_file=file) if place == "auth.json" else Settings()
            assert source_at(registry.host, settings)[0].offers()
            file.unlink()
        with pytest.raises(RemoteRefused):
            source_at(registry.host)[0].offers()


def test_dockers_credential_helpers_are_asked(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "bin/docker-credential-tests"
    helper.parent.mkdir()
    helper.write_text(f'#!/bin/sh\necho \'{{"Username": "{USER}", "Secret": "{PASSWORD}"}}\'\n')
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{helper.parent}{os.pathsep}{os.environ['PATH']}")
    with fake_registry(asks_for="basic") as registry:
        file = tmp_path / "auth.json"
        file.write_text(json.dumps({"credHelpers": {filled(registry, package).host: "tests"}}))
        assert source_at(registry.host, Settings(auth_file=file))[0].offers()


@pytest.mark.parametrize("content", ["{", "[]", '{"auths": []}', '{"auths": {"HOST": {"auth": 7}}}'])
def test_a_broken_file_of_credentials_is_one_line(package: Path, tmp_path: Path, content: str) -> None:
    with fake_registry(asks_for="basic") as registry:
        file = tmp_path / "auth.json"
        file.write_text(content.replace("HOST", filled(registry, package).host))
        with pytest.raises(RemoteRefused):
            source_at(registry.host, Settings(auth_file=file))[0].offers()


def test_a_password_is_never_shown_to_a_mirror_or_where_a_registry_sends_us(package: Path, tmp_path: Path) -> None:
    """It is for the registry that was named."""
    with (
        fake_registry(asks_for="basic") as mirror,
        fake_registry() as storage,
        fake_registry(asks_for="basic") as registry,
    ):
        filled(storage, package)
        filled(registry, package).redirect_to = f"http://{storage.host}"
        settings = Settings(mirrors=(Mirror(mirror.host),), credentials=(USER, PASSWORD))
        source, notes = source_at(registry.host, settings)
        assert pulled(source, tmp_path) == files_of(package)
    assert storage.requests
    assert not [headers for each in (mirror, storage) for headers in each.headers if "Authorization" in headers]
    assert notes


def test_netrc_does_not_take_the_place_of_what_was_given(package: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.netrc").write_text("machine 127.0.0.1 login other password other\n")
    with fake_registry(asks_for="bearer") as registry:
        source, _ = source_at(filled(registry, package).host, Settings(credentials=(USER, PASSWORD)))
        assert source.offers()


def test_a_file_of_credentials_counts_more_than_dockers_and_has_to_be_there(package: Path, tmp_path: Path) -> None:
    with fake_registry(asks_for="basic") as registry:
        filled(registry, package)
        for place, password in (("home/.docker/config.json", "wrong"), ("auth.json", PASSWORD)):
            file = tmp_path / place
            file.parent.mkdir(parents=True, exist_ok=True)
            auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
            file.write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
        assert source_at(registry.host, Settings(auth_file=tmp_path / "auth.json"))[0].offers()
        with pytest.raises(TransferError, match="cannot read the credentials in"):
            source_at(registry.host, Settings(auth_file=tmp_path / "missing.json"))[0].offers()


@pytest.mark.parametrize(
    "place", ["https://[", "http://[::::]", "ftp://a.example", "https://a.example:99999", "//\x00"]
)
def test_a_place_that_a_registry_leads_to_may_be_none(package: Path, place: str) -> None:
    """One line, and no other error."""
    with fake_registry(redirect_to=place) as registry:
        source, _ = source_at(filled(registry, package).host)
        with pytest.raises(TransferError) as error:
            list(source.remotes[0].blob(next(iter(registry.blobs)), 0))
    assert str(error.value).isprintable()


def test_a_place_that_a_registry_leads_to_gets_nothing_of_netrc(package: Path, tmp_path: Path) -> None:
    """Though that has a password for it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.netrc").write_text("machine 127.0.0.1 login other password other\n")
    with fake_registry() as storage, fake_registry() as registry:
        filled(storage, package)
        filled(registry, package).redirect_to = f"http://{storage.host}"
        assert pulled(source_at(registry.host)[0], tmp_path) == files_of(package)
    assert storage.requests
    assert not [headers for headers in storage.headers if "Authorization" in headers]


def test_a_registry_that_leads_in_a_circle_is_left(package: Path) -> None:
    with fake_registry() as registry:
        registry.redirect_to = f"http://{filled(registry, package).host}"
        source, _ = source_at(registry.host)
        with pytest.raises(TransferError, match="leads from one place to another without end"):
            list(source.remotes[0].blob(next(iter(registry.blobs)), 0))


def test_tls_is_done_without_on_this_machine_only() -> None:
    """Elsewhere only where somebody said so."""
    for host in ("localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000"):
        assert is_loopback(host)
    for host in ("registry.example", "10.0.0.5:5000", "localhost.example", "[fe80::1]:5000", "127.0.0.1.example"):
        assert not is_loopback(host)


def test_a_registry_with_tls_does_not_lead_us_away_from_it(package: Path, tmp_path: Path) -> None:
    """Neither to blobs nor to a place that wants our password."""
    with fake_registry() as plain, tls_registry(package, tmp_path, lambda host: plain.host) as (host, authority):
        source, _ = source_at(host, Settings(ca_file=authority, plain_http=False, credentials=(USER, PASSWORD)))
        contents = contents_from(source)
        with pytest.raises(TransferError, match=rf"http://{plain.host} would be asked without TLS"):
            list(source.remotes[0].blob(contents.layers[0].sha256, 0))
    assert plain.requests == []


@contextmanager
def tls_registry(package: Path, tmp_path: Path, plain: Callable[[str], str]) -> Iterator[tuple[str, Path]]:
    """One with TLS whose blobs are said to be at a place without."""
    memory = MemoryRemote.of(package)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "/blobs/" in self.path:
                self.send_response(307)
                self.send_header("Location", f"http://{plain('')}{self.path}")
                self.end_headers()
                return
            reference = self.path.rpartition("/")[2]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(memory.documents[reference if reference.startswith("sha256:") else ""])

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    authority = Authority(tmp_path)
    pair = authority.server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with listening(server) as where:
        yield where, authority.file


def test_a_certificate_that_nobody_vouches_for_is_one_line_and_asked_once(package: Path, tmp_path: Path) -> None:
    with tls_registry(package, tmp_path, lambda host: host) as (host, _):
        source, _ = source_at(host, Settings(plain_http=False))
        with pytest.raises(
            TransferError, match=r"certificate of .* is not trusted .* name its authority with --ca-file"
        ):
            source.offers()
    assert source.patience.sleep == []


def test_a_registry_without_tls_is_said_to_have_none(package: Path) -> None:
    with fake_registry() as registry:
        source, _ = source_at(filled(registry, package).host, Settings(plain_http=False))
        with pytest.raises(TransferError, match="has no TLS: give --plain-http if that is as it should be"):
            source.offers()


def test_authorities_that_are_none_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for file in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(TransferError, match="cannot be read as certificates"):
            Transport("registry.example", Access(ca_file=file))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def test_a_registry_that_is_not_there_is_one_line_after_some_retries() -> None:
    source, _ = source_at(f"127.0.0.1:{free_port()}")
    with pytest.raises(RemoteUnavailable, match=r"127\.0\.0\.1:\d+ does not answer: connection refused") as error:
        source.offers()
    assert error.value.exit_code == 69
    assert source.patience.sleep == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("host", ["127.0.0.1:99999", "xn--.example"])
def test_a_host_that_can_be_none_is_one_line(host: str) -> None:
    source, _ = source_at(host)
    with pytest.raises(TransferError):
        source.offers()


def test_a_rate_counts_what_is_passed_over(package: Path) -> None:
    """A registry that knows no ranges sends all again, over the same link."""
    clock = Clock()
    with fake_registry(ignores_ranges=True) as registry:
        filled(registry, package)
        transport = Transport(registry.host, Access(rate=Rate(1000, clock, clock.sleep)))
        remote = RegistryRemote(transport, RegistryReference(registry.host, "edge"))
        at, sha256 = len(CONTENT) - 10, hashlib.sha256(CONTENT).hexdigest()
        assert b"".join(remote.blob(sha256, at)) == CONTENT[at:]
    assert clock.now_s - Clock().now_s > len(CONTENT) / 1000 - 0.3


def test_mirrors_come_first_and_the_registry_last(package: Path, tmp_path: Path) -> None:
    """One that is down, one that has nothing, one that has half of it."""
    with fake_registry() as empty, fake_registry() as half, fake_registry() as registry:
        filled(registry, package)
        filled(half, package).blobs = {}
        down = f"127.0.0.1:{free_port()}"
        settings = Settings(mirrors=(Mirror(down), Mirror(empty.host), Mirror(half.host)))
        source, notes = source_at(registry.host, settings)
        assert pulled(source, tmp_path) == files_of(package)
    assert not registry.asked("GET", "/manifests/")
    assert registry.asked("GET", "/blobs/")
    assert all(note.endswith("; asking the next") for note in notes)
    assert any(down in note for note in notes)


def test_a_digest_that_is_pinned_counts_more_than_what_a_mirror_says(package: Path, tmp_path: Path) -> None:
    other = package_with(tmp_path / "other", {WEIGHTS: b"older"})
    with fake_registry() as mirror, fake_registry() as registry:
        filled(registry, package)
        filled(mirror, other)
        pinned = digest_of(MemoryRemote.of(package).documents[""])
        registry.manifests[pinned] = registry.manifests["1.0.0"]
        mirror.manifests[pinned] = mirror.manifests["1.0.0"]
        notes: list[str] = []
        settings = Settings(mirrors=(Mirror(mirror.host),), patience=Patience(0))
        source = open_source(RegistryReference(registry.host, "edge", None, pinned), settings, notes.append)
        assert pulled(source, tmp_path) == files_of(package)
    assert "has something else in the place of" in notes[0]


def test_a_proxy_is_asked_for_all(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an option, or of the environment; NO_PROXY goes past it."""
    with fake_registry() as proxy:
        filled(proxy, package)
        settings = Settings(proxy=f"http://{proxy.host}", plain_http=True)
        source, _ = source_at("registry.invalid:5000", settings)
        assert pulled(source, tmp_path) == files_of(package)
        assert {path.partition("/v2/")[0] for _, path in proxy.requests} == {"http://registry.invalid:5000"}
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        assert source_at("registry.invalid:5000", Settings(plain_http=True))[0].offers()
        monkeypatch.setenv("no_proxy", "registry.invalid")
        with pytest.raises(RemoteUnavailable, match="its name is not known"):
            source_at("registry.invalid:5000", Settings(plain_http=True))[0].offers()


def test_a_proxy_that_is_down_is_said(package: Path) -> None:
    settings = Settings(proxy=f"http://127.0.0.1:{free_port()}", plain_http=True)
    source, _ = source_at("registry.invalid:5000", settings)
    with pytest.raises(RemoteUnavailable, match="does not answer: connection refused"):
        source.offers()
