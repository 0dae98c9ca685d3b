"""A push sends what is missing, once; nobody ever sees half a package; cuts and refusals are lived with or said."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_registry import PASSWORD, USER, FakeRegistry, fake_registry
from unit.runtime.oci.remotes import Waits, files_of, package_with
from unit.runtime.tiny_package import edit_build

from runtime.disk import LocalDisk
from runtime.errors import PackageCorrupt, PackageError, RemoteRefused, RemoteUnavailable, TransferError
from runtime.oci.fetching import fetch
from runtime.oci.opening import open_source
from runtime.oci.patience import Patience
from runtime.oci.reference import RegistryReference
from runtime.oci.settings import Settings
from runtime.oci.transport import Access, Transport
from toolchain.progress import Reporter
from toolchain.publishing.publication import read_publication
from toolchain.publishing.push import Pushed, push
from toolchain.publishing.uploads import Repository

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxies and no credentials but those of a test."""
    for name in ("http_proxy", "HTTP_PROXY", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Two variants with the same weights."""
    files = {f"models/decoder/{name}/model.onnx.data": CONTENT for name in "ab"}
    return package_with(tmp_path / "p", {**files, "configs/empty.json": b""}, "a", "b")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as found:
        yield found


def repository_at(registry: FakeRegistry, access: Access | None = None, chunk_bytes: int | None = None) -> Repository:
    patience = Patience(3, Waits(), lambda: 0.0)
    return Repository(Transport(registry.host, access or Access()), "edge", patience, chunk_bytes)


def pushed(package: Path, repository: Repository, *tags: str) -> Pushed:
    reporter = Reporter(io.StringIO())
    return push(read_publication(package, reporter), repository, tags, reporter)


def test_weights_that_variants_share_go_once_and_what_is_there_not_at_all(
    registry: FakeRegistry, package: Path
) -> None:
    """By what the registry was asked."""
    first = pushed(package, repository_at(registry))
    distinct = {hashlib.sha256(content).hexdigest(): len(content) for content in files_of(package).values()}
    assert first == Pushed(("1.0.0",), changed=True, sent_bytes=sum(distinct.values()), present_bytes=0)
    assert len(registry.asked("POST", "/uploads/")) == len({*distinct, hashlib.sha256(b"{}").hexdigest()})
    registry.requests.clear()
    (package / "configs/tokenizer.json").write_bytes(b"{}")
    again = pushed(package, repository_at(registry))
    assert again == Pushed(("1.0.0",), changed=False, sent_bytes=0, present_bytes=0)
    assert [method for method, _ in registry.requests] == ["HEAD"]
    other = pushed(package, repository_at(registry), "1.0.0", "latest")
    assert (other.changed, other.sent_bytes) == (True, 0)
    assert registry.manifests["latest"] == registry.manifests["1.0.0"]


def test_the_tag_comes_last(registry: FakeRegistry, package: Path) -> None:
    """After the manifests, which come after the blobs."""
    pushed(package, repository_at(registry), "stable")
    order = [path for method, path in registry.requests if method == "PUT"]
    manifests = [place for place, path in enumerate(order) if "/manifests/" in path]
    assert manifests == list(range(len(order) - 3, len(order)))
    assert order[-1] == "/v2/edge/manifests/stable"


@pytest.mark.parametrize("chunk_bytes", [None, 50_000, 256_000, 256_001])
def test_what_was_pushed_can_be_fetched(
    registry: FakeRegistry, package: Path, tmp_path: Path, chunk_bytes: int | None
) -> None:
    """Byte for byte, in however many pieces it went."""
    pushed(package, repository_at(registry, chunk_bytes=chunk_bytes))
    source = open_source(RegistryReference(registry.host, "edge", "1.0.0"), Settings())
    (tmp_path / "incoming").mkdir()
    offer = next(offer for offer in source.offers() if offer.variant == "b")
    fetch(source, source.contents(offer), tmp_path / "incoming/p", LocalDisk())
    expected = {path: content for path, content in files_of(package).items() if "/a/" not in path}
    assert files_of(tmp_path / "incoming/p") == expected
    sent = [int(headers["Content-Length"]) for headers in registry.headers if "Content-Length" in headers]
    assert max(sent) <= (chunk_bytes or len(CONTENT))


@pytest.mark.parametrize("forgets", [False, True])
def test_an_upload_that_was_cut_goes_on_if_the_registry_lets_it(
    registry: FakeRegistry, package: Path, forgets: bool
) -> None:
    """From the byte that it has; else from the begin."""
    registry.keeps_of_uploads, registry.forgets_uploads = deque([100_000]), forgets
    registry.blobs = {sha: content for sha, content in blobs_of(package).items() if sha != SHA256}
    pushed(package, repository_at(registry))
    assert registry.blobs[SHA256] == CONTENT
    ranges = [headers["Content-Range"] for headers in registry.headers if "Content-Range" in headers]
    assert ranges == ([] if forgets else [f"100000-{len(CONTENT) - 1}"])


def test_an_upload_that_gets_on_is_not_given_up(registry: FakeRegistry, package: Path) -> None:
    """However often it is cut: retries are those without any progress."""
    registry.keeps_of_uploads = deque([20_000] * 10)
    registry.blobs = {sha: content for sha, content in blobs_of(package).items() if sha != SHA256}
    pushed(package, repository_at(registry))
    assert registry.blobs[SHA256] == CONTENT


def test_a_registry_that_takes_nothing_of_what_it_is_sent_is_given_up(registry: FakeRegistry, package: Path) -> None:
    """Though it says each time that it did."""
    registry.drops_uploads = True
    with pytest.raises(RemoteUnavailable, match="took nothing of what it was sent"):
        pushed(package, repository_at(registry, chunk_bytes=50_000))


def blobs_of(package: Path) -> dict[str, bytes]:
    return {hashlib.sha256(content).hexdigest(): content for content in files_of(package).values()}


def test_a_registry_that_is_busy_is_waited_for(registry: FakeRegistry, package: Path) -> None:
    """With each kind of request."""
    registry.answers = deque([(503, {"Retry-After": "2"}), (429, {})])
    repository = repository_at(registry)
    assert pushed(package, repository).changed
    assert SHA256 in registry.blobs


def test_a_registry_that_stays_away_is_given_up(registry: FakeRegistry, package: Path) -> None:
    registry.answers = deque([(500, {})] * 50)
    with pytest.raises(RemoteUnavailable, match="cannot answer now"):
        pushed(package, repository_at(registry))
    assert len(registry.requests) == 4


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_who_may_pushes(package: Path, kind: str) -> None:
    with fake_registry(asks_for=kind) as registry:
        assert pushed(package, repository_at(registry, Access((USER, PASSWORD)))).changed
        with pytest.raises(RemoteRefused):
            pushed(package, repository_at(registry, Access((USER, "wrong"))), "other")
    assert "other" not in registry.manifests


def test_a_registry_that_takes_none_is_quoted(registry: FakeRegistry, package: Path) -> None:
    """Such as one that is only to be read."""
    registry.answers = deque([(404, {}), (404, {}), (405, {})])
    with pytest.raises(TransferError, match=r"does not take what was asked of blob .* \(status 405"):
        pushed(package, repository_at(registry))


def test_a_package_that_is_not_what_was_built_is_not_pushed(registry: FakeRegistry, package: Path) -> None:
    """Nothing is asked of the registry before all is read."""
    (package / "models/decoder/b/serving.onnx").write_bytes(b"grapH")
    with pytest.raises(PackageCorrupt, match=r"models/decoder/b/serving\.onnx of .* is not what was built"):
        pushed(package, repository_at(registry))
    assert registry.requests == []


@pytest.mark.parametrize(
    "name", ["README.md", "models/decoder/c/model.onnx", "configs/a\nb", "configs/\udcff", "configs/\x9b1m"]
)
def test_a_file_that_is_no_part_of_a_package_is_named(registry: FakeRegistry, package: Path, name: str) -> None:
    """A device would refuse it."""
    (package / name).parent.mkdir(exist_ok=True)
    (package / name).write_bytes(b"?")
    with pytest.raises(PackageError, match="so remove it"):
        pushed(package, repository_at(registry))


@pytest.mark.parametrize("name", ["a b", "caf\u00e9", "../up", "x" * 129])
def test_a_name_that_no_device_takes_is_said_before_anything_is_sent(
    registry: FakeRegistry, tmp_path: Path, name: str
) -> None:
    root = package_with(tmp_path / "q", {})
    edit_build(root, {"name": name})
    with pytest.raises(PackageError, match=r"no device takes .* as a name"):
        pushed(root, repository_at(registry))
    assert registry.requests == []


def test_a_link_is_not_followed(registry: FakeRegistry, package: Path) -> None:
    (package / "configs/shadow").symlink_to("/etc/shadow")
    with pytest.raises(PackageError, match="is neither a file nor a folder"):
        pushed(package, repository_at(registry))


def test_what_is_no_package_is_said(registry: FakeRegistry, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(PackageError):
            pushed(path, repository_at(registry))
