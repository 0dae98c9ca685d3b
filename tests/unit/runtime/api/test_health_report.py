"""The report and the power mode over gRPC, of engines that run on a scripted session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import fields

import grpc
import pytest
from fakes import ScriptedSession
from unit.runtime.engine.test_engine import Inbox
from unit.runtime.engine.test_progress import Clock, ThreadsSession, make_engine
from unit.runtime.fake_engine import make_reader, serving
from unit.runtime.health.test_caretaker import Care, reading

from edgeqwen.v1 import control_pb2, control_pb2_grpc, health_pb2_grpc
from edgeqwen.v1 import health_pb2 as pb
from runtime.api.control import ControlService
from runtime.api.health_report import HealthService
from runtime.engine.sequence import Request
from runtime.footprint import Footprint
from runtime.health.checks import Check, Status
from runtime.models.expectation import Expectation
from runtime.models.model import Model, ModelFacts

EXPECTED = Expectation(20.0, "were measured on this board", 2000.0, "as a prompt takes", 4, 0.2)
FOOTPRINT = Footprint(10**12, 10, 256, 4, 10**9, 150_000_000)


@pytest.fixture
def care() -> Care:
    """Of a board that the tests set."""
    return Care(Clock(), read=lambda: reading(50.0, ()))


@pytest.fixture
async def channel(care: Care) -> AsyncIterator[grpc.aio.Channel]:
    def add(server: grpc.aio.Server) -> None:
        care.taker.warn_by(lambda: care.warnings)
        health = HealthService(care.taker, memory_use=lambda: (10**8, 10**9))
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        control_pb2_grpc.add_ControlServicer_to_server(ControlService(care.taker), server)

    async with serving(add) as channel:
        yield channel
    await care.close()


def add_model(care: Care, session: ScriptedSession) -> Model:
    facts = ModelFacts("m", provider_requested="CPU", provider="CPU")
    model = Model(make_engine(session, Clock()), make_reader(), facts, footprint=FOOTPRINT, expectation=EXPECTED)
    care.models.add(model)
    return model


async def ask(channel: grpc.aio.Channel) -> tuple[int, dict[str, pb.Check]]:
    report = await health_pb2_grpc.HealthStub(channel).GetHealthReport(pb.GetHealthReportRequest())
    return report.status, {check.name: check for check in report.checks}


def test_checks_are_what_the_proto_says() -> None:
    """The same fields, and the same numbers for a status."""
    assert {field.name for field in fields(Check)} == set(pb.Check.DESCRIPTOR.fields_by_name)
    assert {status.name: status.value for status in Status} == {
        name.removeprefix("CHECK_STATUS_"): value for name, value in pb.CheckStatus.items() if value
    }


async def test_all_is_well(care: Care, channel: grpc.aio.Channel) -> None:
    """Every check is there, those of a model with its name."""
    add_model(care, ScriptedSession())
    await care.taker.look()
    status, checks = await ask(channel)
    assert status == pb.CHECK_STATUS_OK, checks
    of_model = ["engine", "provider", "speed", "latency", "token time", "queue", "power"]
    of_board = ["temperature", "throttling", "memory", "disk", "footprint", "warnings"]
    assert list(checks) == [*of_model, *of_board]
    assert {name for name, check in checks.items() if check.model == "m"} == set(of_model)
    assert (checks["temperature"].value, checks["temperature"].unit) == (50.0, "C")
    assert not checks["speed"].HasField("value")


async def test_what_was_generated_is_judged(care: Care, channel: grpc.aio.Channel) -> None:
    """Speed, first token and tokens have figures once there are some."""
    model = add_model(care, ScriptedSession())
    inbox = Inbox()
    model.engine.submit(Request((1, 2, 3), 9), inbox)
    await asyncio.to_thread(inbox.all)
    _, checks = await ask(channel)
    assert all(checks[name].HasField("value") for name in ("latency", "token time"))


async def test_no_model_is_a_failure(care: Care, channel: grpc.aio.Channel) -> None:
    status, checks = await ask(channel)
    assert (status, checks["engine"].summary) == (pb.CHECK_STATUS_FAILED, "No model is loaded.")


async def test_a_hot_board_and_warnings_are_degraded(care: Care, channel: grpc.aio.Channel) -> None:
    """The report says how far the engine is lowered, and why."""
    model = add_model(care, ThreadsSession())
    await care.taker.look()
    care.warnings.append(("TCP is plain.", "Use TLS."))
    for _ in range(2):
        care.taker.note(reading(86.0))
    status, checks = await ask(channel)
    assert model.engine.throttled.level == 1
    assert status == pb.CHECK_STATUS_DEGRADED
    assert checks["power"].summary == "The engine is 1 of 5 levels down: the board was at 86.0 C, its limit is 85 C."
    assert (checks["warnings"].summary, checks["warnings"].recommendation) == ("TCP is plain.", "Use TLS.")


async def test_power_is_saved_until_it_is_called_off(care: Care, channel: grpc.aio.Channel) -> None:
    """Saving is no fault: the report says so, and stays ok."""
    model = add_model(care, ThreadsSession())
    await care.taker.look()
    control = control_pb2_grpc.ControlStub(channel)
    reply = await control.SetPowerMode(control_pb2.SetPowerModeRequest(mode=control_pb2.POWER_MODE_LOW))
    assert (reply.mode, reply.saving_power) == (control_pb2.POWER_MODE_LOW, "low power was asked for")
    assert (model.engine.throttled.threads, model.engine.throttled.rows) == (2, 2)
    status, checks = await ask(channel)
    assert status == pb.CHECK_STATUS_OK
    assert checks["power"].summary == "The engine is 2 of 5 levels down: low power was asked for."
    reply = await control.SetPowerMode(control_pb2.SetPowerModeRequest(mode=control_pb2.POWER_MODE_NORMAL))
    assert (reply.saving_power, model.engine.throttled) == ("", model.engine.levels[0])


async def test_a_power_mode_must_be_named(channel: grpc.aio.Channel) -> None:
    """Programs are told which field is wrong, as of every request that can never work."""
    for mode in (control_pb2.POWER_MODE_UNSPECIFIED, 77):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await control_pb2_grpc.ControlStub(channel).SetPowerMode(control_pb2.SetPowerModeRequest(mode=mode))
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert b"BadRequest" in dict(error.value.trailing_metadata() or ())["grpc-status-details-bin"]
