"""Workers: how cores are split, what a cluster is refused for, and packages that come through a real scheduler."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import BuildError
from runtime.package import File
from toolchain.matrix.building import files_of
from toolchain.matrix.cluster import cluster_workers, shares_of
from toolchain.matrix.transfer import PART_BYTES, fetch
from toolchain.matrix.versions import all_versions, differences
from toolchain.matrix.work import BuildDied


@given(cores=st.sets(st.integers(min_value=0, max_value=400), min_size=1, max_size=40), workers=st.integers(1, 60))
def test_cores_are_split_evenly(cores: set[int], workers: int) -> None:
    """Each worker has some, all are used, and where there are enough, none twice."""
    shares = list(shares_of(sorted(cores), workers).values())
    assert len(shares) == workers
    sizes = [len(share) for share in shares]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    used = [core for share in shares for core in share]
    if workers <= len(cores):
        assert sorted(used) == sorted(cores)
    else:
        assert set(used) == cores


def test_differences_name_both_versions() -> None:
    """Nothing is said of what is the same, nor of what only the other has."""
    here = all_versions()
    assert differences(here, here | {"more": "1"}) == ""
    assert differences(here, here | {"torch": "1.0"}) == f"torch is 1.0 (here {here['torch']})"
    assert differences({"a": "1", "b": "2"}, {"b": "3"}) == "a is missing (here 1), b is 3 (here 2)"


@pytest.mark.parametrize(
    "address", ["", "build.example", "tcp://build.example", "http://build.example:1", "tcp://a b:1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(BuildError, match="looks like tcp://HOST:PORT"), cluster_workers(address):
        pass


def test_encrypted_addresses_need_certificates() -> None:
    """Before anybody is asked."""
    with pytest.raises(BuildError, match=r"set distributed\.comm\.tls"), cluster_workers("tls://127.0.0.1:1"):
        pass


def refused(address: str) -> str:
    """Why no workers were found there."""
    with pytest.raises(BuildError) as raised, cluster_workers(address, patience_s=0.1):
        pass
    return str(raised.value)


def test_nobody_at_an_address_is_said() -> None:
    assert refused("tcp://127.0.0.1:1") == "no Dask scheduler answers at tcp://127.0.0.1:1 within 0.1 s"


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 64])
def test_who_is_no_scheduler_is_not_waited_for(said: bytes) -> None:
    """Whether it says nothing, as one that hangs, or something else."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with suppress(OSError):  # the end of the test
                while True:
                    connections.append(server.accept()[0])
                    connections[-1].sendall(said)

        connections: list[socket.socket] = []
        answering = threading.Thread(target=answer)
        answering.start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        assert refused(address).startswith(f"no Dask scheduler answers at {address}")
        server.shutdown(socket.SHUT_RDWR)
        answering.join()
    for connection in connections:
        connection.close()


def test_a_worker_that_builds_several_at_once_is_refused(client: Client) -> None:
    """Its address is named, and what to do."""
    [worker] = client.scheduler_info()["workers"]
    with (
        pytest.raises(BuildError, match=f"^{worker} would build 2 packages at once: start it with --nthreads 1$"),
        cluster_workers(client.scheduler.address),
    ):
        pass


def package_at(root: Path) -> dict[str, File]:
    """Files around the size of a part."""
    for size in (0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1):
        file = root / "models" / f"{size}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(1024) * (size // 1024) + os.urandom(size % 1024))
    return files_of(root)


def test_a_package_is_fetched_to_the_last_byte(client: Client, tmp_path: Path) -> None:
    """Over one that was there, and it is gone where it came from."""
    [worker] = client.scheduler_info()["workers"]
    root, out = tmp_path / "there" / "a.ortpackage", tmp_path / "out"
    files = package_at(root)
    (out / root.name).mkdir(parents=True)
    (out / root.name / "old").touch()
    fetch(client, worker, root, files, out)
    assert files_of(out / root.name) == files
    assert [path.name for path in out.iterdir()] == [root.name]
    assert not root.parent.exists()


@pytest.mark.parametrize("fault", ["changed", "cut", "missing", "no worker"])
def test_what_does_not_come_whole_does_not_appear(client: Client, tmp_path: Path, fault: str) -> None:
    """And the job can be tried again."""
    [worker] = client.scheduler_info()["workers"]
    root, out = tmp_path / "there" / "a.ortpackage", tmp_path / "out"
    files = package_at(root)
    victim = root / "models" / f"{PART_BYTES + 1}.bin"
    if fault == "changed":
        victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    elif fault == "cut":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif fault == "missing":
        victim.unlink()
    out.mkdir()
    with pytest.raises(BuildDied):
        fetch(client, worker if fault != "no worker" else "tcp://127.0.0.1:1", root, files, out)
    assert not list(out.iterdir())
