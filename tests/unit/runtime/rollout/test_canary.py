"""The canary: what is wrong with a model is found before any request goes to it, and what is wrong with the board is
not held against it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import ScriptedSession
from unit.runtime.fake_engine import make_reader
from unit.runtime.rollout.a_device import Device, make_engine

from runtime.errors import CanaryFailed, TooHot, Unavailable
from runtime.health.checks import Check, Status
from runtime.models.expectation import Expectation
from runtime.models.model import Model, ModelFacts
from runtime.rollout.asking import Heard
from runtime.rollout.canary import Before, require_well, said_of

MB = 1_000_000


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.fixture
def model(device: Device) -> Iterator[Model]:
    model = running(device, "1.0.0")
    yield model
    model.engine.stop()


def running(device: Device, version: str, **more: int) -> Model:
    model = device.load_at(device.store.path(device.install(version, **more)))
    model.engine.start()
    return model


def of(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.status.name for check in checks}


def expecting(tokens_per_second: float | None, first_token_ms: float = 10_000.0) -> Expectation:
    return Expectation(tokens_per_second, "were measured on this board", first_token_ms, "people leave", 1, 0.1)


def before(tokens_per_second: float, first_token_s: float = 10.0, weights_bytes: int = 100 * MB) -> Before:
    return Before("0.9.0", weights_bytes, Heard((), (), first_token_s, tokens_per_second))


def test_a_model_that_is_as_it_should_be_passes(device: Device, model: Model) -> None:
    """Every check is named, and the line for the history says what was found."""
    found = device.canary().try_out(model)
    assert of(found) == dict.fromkeys(("temperature", "golden transcript", "first token", "speed"), "OK")
    require_well("tiny 1.0.0", found)
    assert said_of(found).startswith(
        "temperature: No sensor answers. golden transcript: 8 of 8 tokens are those of the build host. first token: "
    )


def test_another_answer_than_the_build_hosts_fails(device: Device) -> None:
    """And nothing is measured any more; the error is a line that says which check and why."""
    model = running(device, "1.0.0", answer=99)
    found = device.canary().try_out(model)
    model.engine.stop()
    assert of(found) == {"temperature": "OK", "golden transcript": "FAILED"}
    with pytest.raises(CanaryFailed) as refusal:
        require_well("tiny 1.0.0", found)
    assert str(refusal.value) == (
        "tiny 1.0.0 failed its canary: golden transcript: 0 of 8 tokens are those of the build host; token 1 is 20 in"
        " place of 99."
    )


def test_a_model_that_does_not_answer_fails(device: Device) -> None:
    """Not by an error: what was found until then is told too."""
    session = ScriptedSession()
    session.fail_next = "out of memory"
    device.sessions["1.0.0"] = session
    model = running(device, "1.0.0")
    found = device.canary().try_out(model)
    model.engine.stop()
    assert of(found) == {"temperature": "OK", "golden transcript": "FAILED"}
    assert "out of memory" in found[-1].summary


@pytest.mark.parametrize(
    ("expected", "earlier", "status"),
    [
        (1e-3, None, "OK"),
        (1e9, None, "FAILED"),
        (None, 1e-3, "OK"),
        (None, 1e9, "FAILED"),
        (1e-3, 1e9, "FAILED"),
        (1e9, 1e-3, "FAILED"),
        (None, None, "OK"),
    ],
)
def test_the_speed_is_judged_by_what_is_expected_and_by_what_served_before(
    tmp_path: Path, expected: float | None, earlier: float | None, status: str
) -> None:
    """By the stricter of both; where nothing is known, everything is well. It is measured again before it fails."""
    device = Device(tmp_path, expects=expecting(expected))
    model = running(device, "1.0.0")
    requests = model.engine.stats().requests_total
    found = device.canary().try_out(model, None if earlier is None else before(earlier))
    model.engine.stop()
    assert of(found)["speed"] == status
    measured = model.engine.stats().requests_total - requests - 1  # the transcript
    assert measured == (4 if status == "FAILED" else 1)


def test_a_package_of_twice_the_weights_may_take_twice_as_long(device: Device, model: Model) -> None:
    """Each token reads all of them."""
    canary = device.canary()
    same, half = (canary.try_out(model, before(1e9, weights_bytes=size)) for size in (100 * MB, 50 * MB))
    assert {each.name: each.bound for each in same}["speed"] == pytest.approx(1e9 / 3)
    assert {each.name: each.bound for each in half}["speed"] == pytest.approx(1e9 / 6)
    light = canary.try_out(model, before(1e9, weights_bytes=200 * MB))
    assert {each.name: each.bound for each in light}["speed"] == pytest.approx(1e9 / 3), "fewer weights ask for no more"


def test_a_first_token_may_take_a_moment_whatever_it_took_before(device: Device, model: Model) -> None:
    """And never more than what is expected of a whole context."""
    canary = device.canary()
    bounds = [
        {each.name: each.bound for each in canary.try_out(model, its)}["first token"]
        for its in (before(1.0, 0.01), before(1.0, 3.0), before(1.0, 60.0))
    ]
    assert bounds == pytest.approx([1000.0, 9000.0, 10_000.0])


def test_what_serves_meanwhile_is_measured_at_the_same_time(device: Device, model: Model) -> None:
    """So that what disturbs one disturbs the other; the figure of before does not count any more."""
    beside = running(device, "0.9.0")
    found = device.canary().try_out(model, before(1e9), beside)
    beside.engine.stop()
    bound = {each.name: each.bound for each in found}["speed"]
    assert bound is not None
    assert 0 < bound < 0.3e9
    assert beside.engine.stats().requests_total >= 1


def test_a_hot_board_gets_time_to_cool_down(device: Device, model: Model) -> None:
    device.celsius = [90.0, 86.0, 84.0]
    found = device.canary().try_out(model)
    assert of(found)["temperature"] == "OK"
    assert device.log.count("wait") == 2
    assert found[0].summary == "84.0 C; the limit is 85 C."


def test_a_board_that_stays_hot_says_nothing_of_a_package(device: Device, model: Model) -> None:
    """It is no failed canary, and the waiting is bounded; at a start nobody waits, and only the speed is left out."""
    device.celsius = [90.0]
    with pytest.raises(TooHot, match=r"the board is at 90.0 C and its limit is 85 C"):
        device.canary(cool_s=60.0).try_out(model)
    assert device.log.count("wait") == 12
    found = device.canary().try_at_start(model)
    assert of(found) == {"golden transcript": "OK", "temperature": "OK"}
    assert device.log.count("wait") == 12


def test_a_daemon_that_leaves_does_not_wait_for_the_weather(device: Device, model: Model) -> None:
    device.celsius = [90.0]
    device.pause.end()
    with pytest.raises(Unavailable):
        device.canary().try_out(model)


def test_an_engine_that_is_lowered_is_not_measured(tmp_path: Path) -> None:
    """Heat and saving power are no fault of the package."""
    device = Device(tmp_path, expects=expecting(1e9))
    model = running(device, "1.0.0")
    model.engine.throttle(replace(model.engine.levels[-1], reason="low power was asked for"))
    found = device.canary().try_out(model)
    model.engine.stop()
    assert found[-1] == Check("speed", Status.OK, "Not measured: the engine is lowered, as low power was asked for.")


def test_a_model_that_is_too_busy_to_be_measured_is_no_measure(device: Device, model: Model) -> None:
    """None of what served before, rather than a figure that means nothing; so too where nothing served."""
    canary = device.canary()
    assert canary.before(None) is None
    assert (its := canary.before(model)) is not None
    assert its.version == "1.0.0"
    model.engine.drain()
    assert canary.before(model) is None


def test_a_model_of_no_package_has_no_transcript(device: Device) -> None:
    model = Model(make_engine(ScriptedSession()), make_reader(), ModelFacts("nothing"))
    model.engine.start()
    found = device.canary().try_out(model)
    model.engine.stop()
    assert of(found) == dict.fromkeys(("temperature", "first token", "speed"), "OK")
