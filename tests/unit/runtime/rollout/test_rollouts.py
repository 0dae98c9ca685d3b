"""Packages take each other's place in a daemon that answers: tried before, moved to at once, and back if they fail."""

from __future__ import annotations

import asyncio
import errno
import gc
import threading
import weakref
from pathlib import Path

import grpc.aio
import pytest
from fakes import ScriptedSession
from unit.runtime.fake_engine import TIMEOUT_S, serving
from unit.runtime.models.test_registry import ask, refused, tokens_of
from unit.runtime.rollout.a_daemon import daemon
from unit.runtime.rollout.a_device import MB, Device, Waits

from edgeqwen.v1 import health_pb2, rollout_pb2_grpc
from edgeqwen.v1 import rollout_pb2 as pb
from runtime.api.rollout_service import RolloutService
from runtime.disk import LocalDisk
from runtime.health.checks import Status
from runtime.models.model import Model
from runtime.package import Package
from runtime.rollout.gate import Terms
from runtime.store.collect import collect
from runtime.store.state import Cause, State
from runtime.store.store import Store


def phases(replies: list[pb.ActivateResponse]) -> list[str]:
    return [pb.ActivationPhase.Name(reply.phase).removeprefix("ACTIVATION_PHASE_") for reply in replies]


class Held(Waits):
    """The first time until it may go on."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.entered, self.may_go = threading.Event(), threading.Event()

    def __call__(self, seconds: float) -> None:
        self.entered.set()
        assert self.may_go.wait(TIMEOUT_S)
        super().__call__(seconds)


async def test_a_package_that_passes_its_canary_serves_on_trial(device: Device) -> None:
    """Its phases are told, its checks, and what serves; the history says by whom and what was found."""
    async with daemon(device) as running:
        replies = await running.activate()
        assert phases(replies) == ["VERIFYING", "LOADING", "CHECKING", "CHECKING", "DRAINING", "DONE"]
        [checks] = [reply.checks for reply in replies if reply.checks]
        assert {check.status for check in checks} == {health_pb2.CHECK_STATUS_OK}
        assert [check.name for check in checks] == ["temperature", "golden transcript", "first token", "speed"]
        done = replies[-1]
        assert (done.changed, done.active.version, done.active.slot) == (True, "2.0.0", "b")
        assert await running.says() == "2.0.0"
        told = await running.stub.GetRollout(pb.GetRolloutRequest())
    assert (told.active.version, told.previous.version, told.HasField("trial")) == ("2.0.0", "1.0.0", True)
    assert [event.event for event in told.history] == ["installed", "activated", "committed", "installed", "activated"]
    assert (told.history[-1].by, told.history[-1].slot) == ("local", "b")
    assert "8 of 8 tokens are those of the build host" in told.history[-1].why


async def test_activating_what_serves_changes_nothing(device: Device) -> None:
    async with daemon(device) as running:
        content = (device.store.folder / "state.json").read_bytes()
        for name in ("tiny-1.0.0", "tiny-1.0.0.ortpackage", "1.0.0"):
            [reply] = await running.activate(name)
            assert (reply.changed, reply.active.version) == (False, "1.0.0")
        assert (device.store.folder / "state.json").read_bytes() == content
        reply = await running.stub.Commit(pb.CommitRequest())
        assert not reply.changed
    assert device.log == ["load 1.0.0", "stop 1.0.0"]


async def test_streams_during_a_switch_end_on_the_model_that_they_began_with(device: Device) -> None:
    """While requests keep coming, each gets an answer of one package alone, and none is refused."""
    device.gate = threading.Semaphore(0)
    async with daemon(device) as running:
        before = ask(running.channel)
        await before.read()
        activation = asyncio.create_task(running.activate())
        await running.until(lambda: running.device.store.read().trial is not None)
        during = [asyncio.create_task(tokens_of(ask(running.channel))) for _ in range(16)]
        device.gate.release(10_000)
        assert set(await tokens_of(before)) == {device.says["1.0.0"]}
        answers = await asyncio.gather(*during)
        assert all(len(answer) == 20 and len(set(answer)) == 1 for answer in answers)
        assert phases(await activation)[-1] == "DONE"
        assert await running.says() == "2.0.0"


@pytest.mark.parametrize("room", [None, 150 * MB])
async def test_a_failed_canary_leaves_what_served_serving(tmp_path: Path, room: int | None) -> None:
    """Or brings it back, where memory has no room for both; the caller hears what was found, the state is as it was."""
    device = Device(tmp_path, free_bytes=room)
    device.activate(device.install("1.0.0"), commit=True)
    device.install("2.0.0", answer=99)
    async with daemon(device) as running:
        told: list[pb.ActivateResponse] = []
        with refused(grpc.StatusCode.ABORTED, r"tiny 2.0.0 failed its canary: golden transcript: 0 of 8 tokens are"):
            await running.activate(told=told)
        [checks] = [reply.checks for reply in told if reply.checks]
        assert checks[-1].status == health_pb2.CHECK_STATUS_FAILED
        assert await running.says() == "1.0.0"
        assert not running.rollouts.lost.is_set()
    assert device.history()[-1] == "refused 2.0.0"
    state = device.store.read()
    assert (state.trial, state.attempt, str(state.active_package)) == (None, None, "tiny 1.0.0")
    together = ["load 1.0.0", "load 2.0.0", "stop 2.0.0"]
    in_turn = ["load 1.0.0", "stop 1.0.0", "load 2.0.0", "stop 2.0.0", "load 1.0.0"]
    assert device.log[:-1] == (in_turn if room else together)


async def test_where_both_do_not_fit_nothing_holds_the_one_that_failed(tmp_path: Path) -> None:
    """Its memory is there when the other one comes back."""
    device = Device(tmp_path, free_bytes=150 * MB)
    device.activate(device.install("1.0.0"), commit=True)
    device.install("2.0.0", answer=99)
    session = ScriptedSession(lambda history: 5)
    gone = weakref.ref(session)
    device.sessions["2.0.0"] = session
    del session
    there_at_last: list[bool] = []
    load = device.load

    def watched(package: object) -> Model:
        if device.log[-1:] == ["stop 2.0.0"]:
            gc.collect()
            there_at_last.append(gone() is not None)
        return load(package)  # type: ignore[arg-type]

    device.load = watched  # type: ignore[method-assign]
    async with daemon(device) as running:
        with refused(grpc.StatusCode.ABORTED, "failed its canary"):
            await running.activate()
    assert there_at_last == [False]


@pytest.mark.parametrize("how", ["failing", "damaged"])
async def test_a_package_that_cannot_be_loaded_is_refused(device: Device, how: str) -> None:
    """And the refusal is in the history."""
    getattr(device, how).add("2.0.0")
    code = grpc.StatusCode.INTERNAL if how == "failing" else grpc.StatusCode.FAILED_PRECONDITION
    async with daemon(device) as running:
        with refused(code, r"2.0.0 (does not run|is damaged)"):
            await running.activate()
        assert await running.says() == "1.0.0"
    assert device.history()[-1] == "refused 2.0.0"


async def test_what_cannot_be_is_refused_before_anything_is_loaded(device: Device) -> None:
    """Names that lead elsewhere, packages that are not there, versions below what was committed, and long texts."""
    device.activate(device.install("3.0.0"), commit=True)
    async with daemon(device) as running:
        for name in ("nothing", "../packages/tiny-2.0.0", "/etc", "."):
            with refused(grpc.StatusCode.NOT_FOUND, "there are: tiny-1.0.0"):
                await running.activate(name)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, r"2.0.0 is older than 3.0.0, which was committed here"):
            await running.activate("tiny-2.0.0")
        for text in ("x" * 201, "a\nb"):
            with refused(grpc.StatusCode.INVALID_ARGUMENT, "must be at most 200 printable characters"):
                await running.activate(text)
            with refused(grpc.StatusCode.INVALID_ARGUMENT, "why"):
                await running.stub.RollBack(pb.RollBackRequest(why=text))
        assert device.log == ["load 3.0.0"]
        assert (await running.activate("tiny-2.0.0", allow_downgrade=True))[-1].changed
        assert await running.says() == "2.0.0"


async def test_a_hot_board_says_come_again(device: Device) -> None:
    """It is held against nobody."""
    async with daemon(device) as running:
        device.celsius = [95.0]
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "cooled down"):
            await running.activate()
        assert await running.says() == "1.0.0"
    assert device.history()[-1] == "installed 2.0.0"


async def test_an_operator_goes_back_and_keeps(device: Device) -> None:
    """Twice is the same as once, and a rollback undoes a commit too; an operator's own wish makes nothing degraded."""
    async with daemon(device) as running:
        await running.activate()
        assert (await running.stub.Commit(pb.CommitRequest(why="it is good"))).changed
        assert not (await running.stub.Commit(pb.CommitRequest())).changed
        reply = await running.stub.RollBack(pb.RollBackRequest(why="too talkative"))
        assert (reply.changed, reply.active.version) == (True, "1.0.0")
        assert await running.says() == "1.0.0"
        assert not (await running.stub.RollBack(pb.RollBackRequest())).changed
        assert running.rollouts.standing.check(9.0).status is Status.OK
    assert device.why() == "too talkative"


@pytest.mark.parametrize("damage", [b"", b"g r h"], ids=["cut", "changed"])
async def test_nothing_goes_back_to_what_is_damaged(device: Device, damage: bytes) -> None:
    """What serves would lose its slot to what cannot, and the board would be dark."""
    async with daemon(device) as running:
        await running.activate()
        graph = device.store.packages / "tiny-1.0.0.ortpackage/models/decoder/board/serving.onnx"
        content = graph.read_bytes()
        graph.write_bytes(damage)
        for call in (running.stub.RollBack(pb.RollBackRequest()), running.activate("tiny-1.0.0")):
            with refused(grpc.StatusCode.FAILED_PRECONDITION, r"not rolled back, as tiny 1.0.0 could not serve: .*"):
                await call
        assert await running.says() == "2.0.0"
        graph.write_bytes(content)
        assert (await running.stub.RollBack(pb.RollBackRequest())).changed
        assert await running.says() == "1.0.0"


async def test_activating_what_came_before_is_a_rollback(device: Device) -> None:
    """It is known to work: no canary, no trial."""
    async with daemon(device) as running:
        await running.activate()
        replies = await running.activate("tiny-1.0.0")
        assert (replies[-1].changed, replies[-1].active.version) == (True, "1.0.0")
        assert await running.says() == "1.0.0"
    assert device.history()[-1] == "rolled_back 2.0.0"
    assert device.store.read().trial is None


async def test_a_second_package_during_a_trial_takes_the_trials_slot(device: Device) -> None:
    """What was known to work stays what a rollback goes back to."""
    device.install("3.0.0")
    async with daemon(device) as running:
        await running.activate("tiny-2.0.0")
        await running.activate("tiny-3.0.0")
        assert await running.says() == "3.0.0"
        await running.stub.RollBack(pb.RollBackRequest())
        assert await running.says() == "1.0.0"


async def test_two_activations_come_one_after_the_other(device: Device) -> None:
    """Of both one serves, the one that the state names, and nothing of the other is left."""
    device.install("3.0.0")
    async with daemon(device) as running:
        await asyncio.gather(running.activate("tiny-2.0.0"), running.activate("tiny-3.0.0"))
        serves = await running.says()
        assert [model.facts.package_version for model in running.models.loaded] == [serves]
        assert str(device.store.read().active_package) == f"tiny {serves}"
        assert device.history()[-2:] == [f"activated {each}" for each in ("2.0.0", "3.0.0") if each != serves] + [
            f"activated {serves}"
        ]


@pytest.mark.parametrize("room", [None, 150 * MB])
async def test_what_was_gone_back_to_while_another_was_tried_serves(tmp_path: Path, room: int | None) -> None:
    """Though that other one fails: no answer of what was given up, and no new process for that."""
    device = Device(tmp_path, free_bytes=room)
    device.activate(device.install("1.0.0"), commit=True)
    device.install("2.0.0")
    device.install("3.0.0", answer=99)
    device.pause = held = Held(device)
    async with daemon(device) as running:
        await running.activate("tiny-2.0.0")
        device.celsius = [95.0, 20.0]
        activation = asyncio.create_task(running.activate("tiny-3.0.0"))
        await asyncio.to_thread(held.entered.wait, TIMEOUT_S)
        back = asyncio.create_task(running.stub.RollBack(pb.RollBackRequest()).code())
        await running.until(lambda: "rolled_back 2.0.0" in device.history())
        held.may_go.set()
        with refused(grpc.StatusCode.ABORTED, "tiny 3.0.0 failed its canary"):
            await activation
        assert await back is grpc.StatusCode.OK
        assert await running.says() == "1.0.0"
        assert [model.facts.package_version for model in running.models.loaded] == ["1.0.0"]
        assert not running.rollouts.lost.is_set()
    assert device.store.read().trial is None


async def test_a_package_that_is_removed_while_it_is_loaded_is_refused(device: Device) -> None:
    """As `edgeqwen collect` may do. What was watched is watched on."""
    third = device.install("3.0.0")
    device.failing.add("3.0.0")
    load = device.load

    def removed(package: Package) -> Model:
        if package.build.version == "3.0.0":
            with device.store.installing():
                collect(device.store, 0, Cause(9.0, "root"))
        return load(package)

    device.load = removed  # type: ignore[method-assign]
    async with daemon(device, Terms(commit_after_s=50.0, commit_after_calls=1000)) as running:
        await running.activate("tiny-2.0.0")
        with refused(grpc.StatusCode.INTERNAL, "3.0.0 does not run"):
            await running.activate(third.folder)
        await running.until(running.committed)
    assert str(device.store.read().active_package) == "tiny 2.0.0"


async def test_a_caller_that_leaves_does_not_stop_an_activation(device: Device) -> None:
    async with daemon(device) as running:
        call = running.stub.Activate(pb.ActivateRequest())
        await call.read()
        call.cancel()
        await running.until(lambda: [m.facts.package_version for m in running.models.loaded] == ["2.0.0"])
        assert await running.says() == "2.0.0"


async def test_a_daemon_that_leaves_takes_no_new_package(device: Device) -> None:
    """One that is being tried is not refused for that."""
    device.celsius = [95.0]
    device.pause = held = Held(device)
    async with daemon(device) as running:
        activation = asyncio.create_task(running.activate())
        await asyncio.to_thread(held.entered.wait, TIMEOUT_S)
        assert device.store.read().attempt == "tiny-2.0.0.ortpackage"
        assert collect(device.store, 0, Cause(3.0, "root")).packages == (), "what is tried is in use"
        await running.rollouts.stop()
        assert device.store.read().attempt is None
        held.may_go.set()
        with refused(grpc.StatusCode.UNAVAILABLE, "shutting down"):
            await activation
    assert device.history()[-1] == "installed 2.0.0"


class SlowlyRead(Store):
    """Its first read from now on takes until it may come back, with what was there before."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reads, self.may_come = threading.Event(), threading.Event()
        self.slow = False

    def read(self) -> State:
        state = super().read()
        if self.slow:
            self.slow = False
            self.reads.set()
            assert self.may_come.wait(TIMEOUT_S)
        return state


async def test_what_was_read_before_a_change_is_not_taken_for_what_is_there_after_it(device: Device) -> None:
    """However long the disk takes for whoever only looks."""
    device.store = store = SlowlyRead(device.store.folder)
    async with daemon(device) as running:
        await running.activate()
        store.slow = True
        look = asyncio.create_task(running.rollouts.refresh())
        await asyncio.to_thread(store.reads.wait, TIMEOUT_S)
        back = asyncio.create_task(running.rollouts.roll_back(by="local", why=""))
        for _ in range(1000):
            await asyncio.sleep(0)
        store.may_come.set()
        await asyncio.gather(look, back)
        assert str(running.rollouts.standing.state.active_package) == "tiny 1.0.0"
        assert await running.says() == "1.0.0"


class FullDisk(LocalDisk):
    def __init__(self) -> None:
        super().__init__()
        self.full = False

    def write(self, path: Path, content: bytes) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(path, content)


async def test_a_full_disk_changes_nothing(device: Device) -> None:
    """What cannot be noted does not serve."""
    disk = FullDisk()
    device.store = Store(device.store.folder, disk)
    async with daemon(device) as running:
        disk.full = True
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "is full: free some"):
            await running.activate()
        assert await running.says() == "1.0.0"
        disk.full = False
        assert (await running.activate())[-1].changed


async def test_a_verdict_is_carried_out_when_the_disk_takes_it(device: Device) -> None:
    """Until then the trial goes on."""
    device.activate(device.install("3.0.0"))
    device.store = Store(device.store.folder, disk := FullDisk())
    disk.full = True
    async with daemon(device, Terms(commit_after_s=20.0, commit_after_calls=1000)) as running:
        gate = running.rollouts.standing.gate
        assert gate is not None
        await running.until(lambda: gate.healthy_s > 40)
        assert not running.committed()
        disk.full = False
        await running.until(running.committed)


async def test_what_a_start_could_not_note_is_noted_when_the_disk_takes_it(device: Device) -> None:
    """Until then the daemon knows what serves, and what failed does not come again without its canary."""
    device.activate(device.install("3.0.0", answer=99))
    device.store = Store(device.store.folder, disk := FullDisk())
    disk.full = True
    async with daemon(device) as running:
        assert await running.says() == "1.0.0"
        told = await running.stub.GetRollout(pb.GetRolloutRequest())
        assert (told.active.version, told.HasField("trial"), told.history[-1].event) == ("1.0.0", False, "rolled_back")
        assert str(device.store.read().active_package) == "tiny 3.0.0"
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "is full"):
            await running.activate("tiny-3.0.0")
        disk.full = False
        await running.until(lambda: str(device.store.read().active_package) == "tiny 1.0.0")
        with refused(grpc.StatusCode.ABORTED, "failed its canary"):
            await running.activate("tiny-3.0.0")
        assert (await running.activate("tiny-2.0.0"))[-1].changed
    told_of = ["activated 3.0.0", "rolled_back 3.0.0", "refused 3.0.0", "activated 2.0.0"]
    assert device.history()[-4:] == told_of


async def test_what_cannot_come_back_asks_for_another_start(tmp_path: Path) -> None:
    """The state says what to serve, and only a new process can: nothing may answer for good instead."""
    device = Device(tmp_path, free_bytes=150 * MB)
    device.activate(device.install("1.0.0"), commit=True)
    device.install("2.0.0")
    async with daemon(device) as running:
        await running.activate()
        device.failing.add("1.0.0")
        with refused(grpc.StatusCode.INTERNAL, r"1.0.0 does not run"):
            await running.stub.RollBack(pb.RollBackRequest())
        assert running.rollouts.lost.is_set()
    assert str(device.store.read().active_package) == "tiny 1.0.0"


async def test_a_daemon_without_a_store_says_so() -> None:
    def add(server: grpc.aio.Server) -> None:
        rollout_pb2_grpc.add_RolloutServicer_to_server(RolloutService(None), server)

    async with serving(add) as channel:
        stub = rollout_pb2_grpc.RolloutStub(channel)
        for call in (
            stub.GetRollout(pb.GetRolloutRequest()),
            stub.Commit(pb.CommitRequest()),
            stub.RollBack(pb.RollBackRequest()),
            stub.Activate(pb.ActivateRequest()).read(),
        ):
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "give it a `store`"):
                await call
