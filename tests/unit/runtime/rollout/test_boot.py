"""A start of a daemon with a store: whatever the package on trial does, something that works serves in the end."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from unit.runtime.rollout.a_device import Device, damage

from runtime.disk import LocalDisk
from runtime.errors import PackageCorrupt, PackageError, SessionError, StateNewer
from runtime.models.model import Model
from runtime.rollout.boot import MOST_STARTS, Boot
from runtime.store.state import MOST_INTERRUPTIONS, attempt, last_failure
from runtime.store.store import Store


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@contextmanager
def booted(device: Device) -> Iterator[Model]:
    model = Boot(device.store, device.load_at, device.canary().try_at_start, now=lambda: 9.0).model()
    try:
        yield model
    finally:
        model.engine.stop()


def version(model: Model) -> str:
    return model.facts.package_version


def two(device: Device) -> None:
    """1.0.0 is committed, 2.0.0 is on trial."""
    device.activate(device.install("1.0.0"), commit=True)
    device.activate(device.install("2.0.0"))


def test_a_committed_package_is_loaded_without_much_ado(device: Device) -> None:
    """Nothing is written, and nothing is tried."""
    device.activate(device.install("1.0.0", answer=99), commit=True)
    content = (device.store.folder / "state.json").read_bytes()
    with booted(device) as model:
        assert version(model) == "1.0.0"
        assert model.engine.stats().requests_total == 0
    assert (device.store.folder / "state.json").read_bytes() == content


def test_an_empty_store_says_what_to_do(device: Device) -> None:
    with (
        pytest.raises(PackageError, match=r"no package is active in .*: edgeqwen install REF --activate"),
        booted(device),
    ):
        pass
    device.install("1.0.0")
    with pytest.raises(PackageError, match="no package is active"), booted(device):
        pass


def test_a_start_of_a_trial_is_counted_before_anything_is_loaded(device: Device) -> None:
    """So one that takes the process with it is counted too."""
    two(device)
    counted = []

    class Killed(BaseException):
        pass

    def load(path: Path) -> Model:
        trial = device.store.read().trial
        assert trial is not None
        counted.append(trial.starts)
        raise Killed

    for _ in range(MOST_STARTS):
        with pytest.raises(Killed):
            Boot(device.store, load, device.canary().try_at_start).model()
    assert counted == [1, 2, 3]
    with booted(device) as model:
        assert version(model) == "1.0.0"
    assert device.log == ["load 1.0.0", "stop 1.0.0"], "the fourth start does not even try"
    assert device.history()[-1] == "rolled_back 2.0.0"
    assert device.why() == "3 starts with it did not end as they should"


@pytest.mark.parametrize("how", ["failing", "damaged", "canary", "digest"])
def test_a_trial_that_fails_at_a_start_is_given_up_in_that_start(device: Device, how: str) -> None:
    """By an error of the loader, of the package or of the canary; the process goes on with what served before."""
    device.activate(device.install("1.0.0"), commit=True)
    package = device.install("2.0.0", answer=99 if how == "canary" else None)
    device.activate(package)
    if how == "digest":
        damage(device, package)
    elif how != "canary":
        getattr(device, how).add("2.0.0")
    with booted(device) as model:
        assert version(model) == "1.0.0"
        assert device.resident == 1, "the one that failed has left"
    state = device.store.read()
    assert (state.trial, str(state.active_package)) == (None, "tiny 1.0.0")
    assert device.history()[-1] == "rolled_back 2.0.0"
    assert device.why().startswith("it did not start: ")
    assert state.history[-1].by == "edgeqwend"


def test_an_attempt_that_took_the_daemon_with_it_is_told(device: Device) -> None:
    """Once, by the next one, which serves what served; three in a row count as a failure, and one alone does not."""
    device.activate(device.install("1.0.0"), commit=True)
    bad = device.install("2.0.0")
    for failures in range(1, MOST_INTERRUPTIONS + 1):
        assert last_failure(device.store.read(), bad) is None
        device.store.change(lambda state: attempt(state, bad.folder))
        for _ in range(2):
            with booted(device) as model:
                assert version(model) == "1.0.0"
        assert device.history().count("interrupted 2.0.0") == failures
    failure = last_failure(device.store.read(), bad)
    assert failure is not None
    assert (failure.by, failure.why) == ("edgeqwend", "the daemon before this one ended while it tried it")


def test_a_trial_that_works_stays_one(device: Device) -> None:
    """Its canary is run at each start."""
    two(device)
    for start in (1, 2):
        with booted(device) as model:
            assert version(model) == "2.0.0"
            assert model.engine.stats().requests_total > 1
        trial = device.store.read().trial
        assert trial is not None
        assert trial.starts == start


def test_a_first_package_has_nothing_behind_it(device: Device) -> None:
    """It is tried for as long as it takes; what is wrong is what the daemon ends with."""
    device.activate(device.install("1.0.0"))
    device.failing.add("1.0.0")
    for _ in range(MOST_STARTS + 2):
        with pytest.raises(SessionError, match=r"1.0.0 does not run"), booted(device):
            pass
    device.failing.clear()
    with booted(device) as model:
        assert version(model) == "1.0.0"


def test_a_committed_package_that_is_damaged_makes_way(device: Device) -> None:
    """For the one before, rather than that a board says nothing for good; another error is no damage."""
    device.activate(device.install("1.0.0"), commit=True)
    device.activate(device.install("2.0.0"), commit=True)
    device.failing.add("2.0.0")
    with pytest.raises(SessionError), booted(device):
        pass
    device.failing.clear()
    device.damaged.add("2.0.0")
    with booted(device) as model:
        assert version(model) == "1.0.0"
    assert device.history()[-1] == "rolled_back 2.0.0"


def test_where_nothing_works_the_last_error_is_said(device: Device) -> None:
    two(device)
    device.damaged |= {"1.0.0", "2.0.0"}
    with pytest.raises(PackageCorrupt, match=r"1.0.0 is damaged"), booted(device):
        pass


class FullDisk(LocalDisk):
    """Takes no more."""

    def write(self, path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_damaged_state_on_a_full_disk_is_no_reason_either(device: Device) -> None:
    """What it would be put right to serves."""
    two(device)
    (device.store.folder / "state.json").write_text("{")
    device.store = Store(device.store.folder, FullDisk())
    with booted(device) as model:
        assert version(model) == "1.0.0"
    assert (device.store.folder / "state.json").read_text() == "{"


@pytest.mark.parametrize("works", [True, False])
def test_a_full_disk_is_no_reason_to_serve_nothing(device: Device, works: bool) -> None:
    """What cannot be noted is done all the same."""
    two(device)
    if not works:
        device.failing.add("2.0.0")
    device.store = Store(device.store.folder, FullDisk())
    with booted(device) as model:
        assert version(model) == ("2.0.0" if works else "1.0.0")


def test_a_damaged_state_is_put_right(device: Device) -> None:
    """Something whole serves, on trial."""
    two(device)
    device.store.change(lambda state: state)
    for name in ("state.json", "state.json.previous"):
        (device.store.folder / name).write_text("{")
    with booted(device) as model:
        assert version(model) == "2.0.0"
    assert device.history()[0].startswith("recovered")


def test_the_state_of_a_newer_edgeqwen_is_left_alone(device: Device) -> None:
    two(device)
    path = device.store.folder / "state.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(StateNewer), booted(device):
        pass
