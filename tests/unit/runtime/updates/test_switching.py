"""What serves is changed by the daemon, or in the store while there is none; never in the store beneath a daemon."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner
from unit.runtime.rollout.a_daemon import daemon
from unit.runtime.rollout.a_device import Device
from unit.runtime.store.stocked import add, built, serves, switch

from edgeqwen.client import Connection
from runtime.errors import PackageCorrupt, StoreBusy
from runtime.store.store import Store
from runtime.updates.command import rollback
from runtime.updates.switching import DaemonSwitch, StoreSwitch, Switch, Switched, switch_of

CHANGES: dict[str, Callable[[Switch], Switched]] = {
    "activate": lambda switch: switch.activate("1.2.0", allow_downgrade=False, note=print),
    "roll_back": lambda switch: switch.roll_back("because"),
    "commit": lambda switch: switch.commit("because"),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """1.0.0 is committed, 1.1.0 on trial, and 1.2.0 installed."""
    store = Store(tmp_path / "store")
    switch(store, add(store, built(tmp_path, "1.0.0")))
    switch(store, add(store, built(tmp_path, "1.1.0")), keep=False)
    add(store, built(tmp_path, "1.2.0"))
    return store


@pytest.fixture
def address() -> Iterator[Path]:
    """Where nobody listens yet."""
    with TemporaryDirectory(prefix="eq-", dir="/tmp") as folder:
        yield Path(folder) / "s"


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_changes_beneath_a_daemon_that_does_not_answer(change: str, store: Store, address: Path) -> None:
    """What it loads meanwhile would be another package than the state names, for as long as it lives."""
    before = (store.folder / "state.json").read_bytes()
    with store.serving():
        found = switch_of(Connection(f"unix:{address}"), store, "root", lambda line: None, patience_s=0.0)
        with pytest.raises(StoreBusy, match=r"an edgeqwend has .*store and does not answer here: try again"):
            CHANGES[change](found)
    assert (store.folder / "state.json").read_bytes() == before


def test_a_daemon_that_starts_is_waited_for(store: Store, address: Path) -> None:
    """It is told once, and then the daemon is asked."""
    with ExitStack() as held:
        held.enter_context(store.serving())
        listener = held.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(address))
        said: list[str] = []

        def note(line: str) -> None:
            said.append(line)
            listener.listen()

        found = switch_of(Connection(f"unix:{address}"), store, "root", note)
    assert isinstance(found, DaemonSwitch)
    assert said == [f"an edgeqwend has {store.folder} and does not answer at unix:{address} yet: waiting for it"]


def test_between_two_starts_of_one_that_crashes_the_store_is_changed(store: Store, address: Path) -> None:
    """Whoever goes back from a package that ends its daemon need not stop the service before."""
    with ExitStack() as held:
        held.enter_context(store.serving())
        found = switch_of(Connection(f"unix:{address}"), store, "root", lambda line: held.close())
    assert isinstance(found, StoreSwitch)
    assert found.roll_back("it crashes", if_active="1.1.0").changed
    assert serves(store) == "1.0.0"
    assert not store.is_served


def test_nothing_goes_back_to_what_is_damaged(store: Store, address: Path) -> None:
    """Without a daemon, too: the next start would have nothing to serve."""
    previous = store.previous()
    assert previous is not None
    (previous / "models/decoder/board/serving.onnx").write_bytes(b"g r h")
    before = (store.folder / "state.json").read_bytes()
    switch = switch_of(Connection(f"unix:{address}"), store, "root", lambda line: None)
    with pytest.raises(PackageCorrupt, match=r"not rolled back, as tiny 1.0.0 could not serve: .*serving.onnx"):
        switch.roll_back("because")
    assert (store.folder / "state.json").read_bytes() == before


async def test_a_rollback_of_one_package_only_at_a_daemon(tmp_path: Path, address: Path) -> None:
    """It leaves a daemon alone that serves another one, and goes back once."""
    device = Device(tmp_path)
    device.activate(device.install("1.0.0"), commit=True)
    device.install("2.0.0")
    target = Connection(f"unix:{address}")

    async def rolled_back(if_active: str) -> tuple[bool, str, bool]:
        flags = ["--store", str(device.store.folder), "--if-active", if_active, "--why", "its wave failed", "--json"]
        done = await asyncio.to_thread(CliRunner().invoke, rollback, flags, obj=target)
        assert done.exit_code == 0, done.stderr
        [said] = [
            json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")
        ]  # beside the daemon's log
        return said["changed"], said["serving"]["version"], said["by_daemon"]

    async with daemon(device, listen=target.address) as running:
        await running.activate("tiny-2.0.0")
        assert await rolled_back("1.0.0") == (False, "2.0.0", True)
        assert await rolled_back("tiny-3.0.0") == (False, "2.0.0", True)
        assert await running.says() == "2.0.0"
        assert await rolled_back("tiny-2.0.0") == (True, "1.0.0", True)
        assert await running.says() == "1.0.0"
        assert await rolled_back("2.0.0") == (False, "1.0.0", True)
    assert device.why() == "its wave failed"
    assert device.history()[-1] == "rolled_back 2.0.0"
