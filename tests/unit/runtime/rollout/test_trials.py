"""A package on trial: kept when it has proved itself, given up by itself when it has not."""

from __future__ import annotations

from pathlib import Path

import grpc.aio
from fakes import ScriptedSession
from unit.runtime.models.test_registry import ask, refused, tokens_of
from unit.runtime.rollout.a_daemon import daemon
from unit.runtime.rollout.a_device import Device

from edgeqwen.v1 import rollout_pb2 as pb
from runtime.health.checks import Status
from runtime.rollout.boot import Boot
from runtime.rollout.gate import Terms


async def test_a_package_that_is_well_for_long_enough_is_kept(device: Device) -> None:
    async with daemon(device, Terms(commit_after_s=100.0, commit_after_calls=1000)) as running:
        await running.activate()
        await running.until(running.committed)
        told = await running.stub.GetRollout(pb.GetRolloutRequest())
        assert dict(told.committed) == {"tiny": "2.0.0"}
        assert told.history[-1].event == "committed"
        assert told.history[-1].why == "well for 100 s, in which 0 calls ended well"
        assert running.rollouts.standing.check(9.0).summary == "tiny 2.0.0 is committed."


async def test_a_commit_makes_room_for_what_comes(device: Device) -> None:
    """What no slot names leaves the disk, down to the budget; while somebody installs, that is left to them."""
    device.install("1.5.0")
    async with daemon(device, budget_bytes=0) as running:
        with device.store.installing():
            await running.activate("2.0.0")
            await running.rollouts.commit(by="somebody", why="")
            assert len(device.store.read().packages) == 3
        await running.activate("1.5.0", allow_downgrade=True)
        await running.rollouts.commit(by="somebody", why="")
    state = device.store.read()
    assert [package.version for package in (state.active_package, state.previous_package) if package] == [
        "1.5.0",
        "2.0.0",
    ]
    assert sorted(path.name for path in device.store.packages.iterdir()) == sorted(state.packages)
    assert state.history[-1].event == "collected"
    assert state.history[-1].why.startswith("in no slot, and packages took more than 0 MB")


async def test_calls_of_clients_count_and_those_of_the_daemon_do_not(device: Device) -> None:
    """Neither the canary's nor those by which it sees whether the model is there while nobody asks."""
    async with daemon(device, Terms(commit_after_s=1e6, commit_after_calls=3), idle_s=0.0) as running:
        await running.activate()
        engine, gate = running.models.get().engine, running.rollouts.standing.gate
        assert gate is not None
        asked = engine.stats().requests_total
        await running.until(lambda: gate.healthy_s > 100 and engine.stats().requests_total > asked + 3)
        assert gate.last.calls == 0
        for _ in range(3):
            assert await running.says() == "2.0.0"
        await running.until(running.committed)
    assert device.why().startswith("3 calls ended well, in ")


async def test_a_model_that_breaks_calls_is_rolled_back(device: Device) -> None:
    """By itself; streams of what failed end, and what served before answers. Health says so for an hour."""
    session = ScriptedSession(lambda history: device.says["2.0.0"])
    device.sessions["2.0.0"] = session
    async with daemon(device) as running:
        await running.activate()
        for _ in range(3):
            session.fail_next = "broken"
            with refused(grpc.StatusCode.INTERNAL, "broken"):
                await tokens_of(ask(running.channel))
        await running.until(lambda: "rolled_back 2.0.0" in device.history())
        await running.until(lambda: [m.facts.package_version for m in running.models.ready] == ["1.0.0"])
        assert await running.says() == "1.0.0"
        check = running.rollouts.standing.check(9.0 + 1800)
        assert check.status is Status.DEGRADED
        assert check.summary == (
            "tiny 2.0.0 was rolled back 30 min ago: the model broke 3 of 3 calls; tiny 1.0.0 serves."
        )
        assert running.rollouts.standing.check(9.0 + 3601).status is Status.OK
        assert running.rollouts.standing.check(9.0 - 3601).status is Status.OK, "the clock was put right since"
        served = running.rollouts.standing.served
        assert served is not None
        assert (served.version, served.trial, served.rollbacks_total) == ("1.0.0", False, 1)
        with refused(grpc.StatusCode.NOT_FOUND, "there are"):
            await running.activate("tiny-9.0.0")
        assert (await running.activate("tiny-2.0.0"))[-1].changed, "who says so may try again"
        assert running.rollouts.standing.check(9.0).status is Status.OK


async def test_a_model_that_always_fails_while_nobody_asks_is_found_out(device: Device) -> None:
    """The daemon asks it itself."""
    session = ScriptedSession(lambda history: device.says["2.0.0"])
    device.sessions["2.0.0"] = session

    def break_down() -> None:
        session.fail_next = "broken"

    async with daemon(device, idle_s=0.0) as running:
        await running.activate()
        session.during_run = break_down
        await running.until(lambda: "rolled_back 2.0.0" in device.history())
    assert device.store.read().history[-1].by == "edgeqwend"


async def test_a_state_is_flipped_before_what_hangs_is_waited_for(device: Device) -> None:
    """The watchdog ends the process soon: the next start must not meet that package again."""
    async with daemon(device) as running:
        await running.activate()
        running.stalled.add("2.0.0")
        await running.until(lambda: "rolled_back 2.0.0" in device.history())
        assert device.why() == "the engine hangs"


async def test_the_trial_of_a_first_package_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    """Whatever is found, it serves on, and the caller is told so."""
    device = Device(tmp_path)
    device.activate(device.install("1.0.0"))
    async with daemon(device) as running:
        running.stalled.add("1.0.0")
        gate = running.rollouts.standing.gate
        assert gate is not None
        await running.until(lambda: gate.last.stalled)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "is the first package here"):
            await running.stub.RollBack(pb.RollBackRequest())
        assert await running.says() == "1.0.0"
    assert "rolled_back 1.0.0" not in device.history()


async def test_a_trial_does_not_end_with_what_is_damaged(device: Device) -> None:
    """What fails serves on while what came before has no graph, and goes once that is mended."""
    session = ScriptedSession(lambda history: device.says["2.0.0"])
    device.sessions["2.0.0"] = session
    graph = device.store.packages / "tiny-1.0.0.ortpackage/models/decoder/board/serving.onnx"
    async with daemon(device) as running:
        await running.activate()
        graph.rename(graph.with_suffix(".away"))
        first = running.rollouts.standing.gate
        assert first is not None
        running.stalled.add("2.0.0")
        await running.until(lambda: first.last.stalled)
        running.stalled.clear()
        await running.until(lambda: not first.last.stalled)
        assert await running.says() == "2.0.0"
        assert "rolled_back 2.0.0" not in device.history()
        graph.with_suffix(".away").rename(graph)
        running.stalled.add("2.0.0")
        await running.until(lambda: "rolled_back 2.0.0" in device.history())


async def test_a_trial_goes_on_after_a_failed_activation(device: Device) -> None:
    device.install("3.0.0", answer=99)
    async with daemon(device, Terms(commit_after_s=50.0, commit_after_calls=1000)) as running:
        await running.activate("tiny-2.0.0")
        with refused(grpc.StatusCode.ABORTED, "failed its canary"):
            await running.activate("tiny-3.0.0")
        await running.until(running.committed)
    assert str(device.store.read().active_package) == "tiny 2.0.0"


async def test_a_clean_stop_is_no_failed_start(device: Device) -> None:
    """However often the board is switched off as it should be, a trial goes on; a kill counts."""
    device.activate(device.install("3.0.0"))
    for _ in range(5):
        async with daemon(device):
            pass
        trial = device.store.read().trial
        assert trial is not None
        assert trial.starts == 0
    model = Boot(device.store, device.load_at, device.canary().try_at_start).model()
    model.engine.stop()
    trial = device.store.read().trial
    assert trial is not None
    assert trial.starts == 1


async def test_a_package_that_settles_may_fail_three_more_times(device: Device) -> None:
    """Its starts are forgiven once: one that settles and dies again and again does not stay on trial for good."""
    device.activate(device.install("3.0.0"))
    for start in range(1, 5):
        async with daemon(device, killed=True) as running:
            await running.until(lambda: (trial := device.store.read().trial) is not None and trial.healthy)
            trial = device.store.read().trial
            assert trial is not None
            assert trial.starts == start - 1
    async with daemon(device) as running:
        assert await running.says() == "1.0.0"
