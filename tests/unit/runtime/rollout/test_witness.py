"""What is seen of a model on trial: its own faults, and none of the board's or of its clients'."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from unit.runtime.fake_engine import TIMEOUT_S
from unit.runtime.rollout.a_device import PROMPT, Device

from runtime.models.expectation import Expectation
from runtime.models.model import Model
from runtime.rollout.asking import ask
from runtime.rollout.witness import Witness


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    """One of which far more is expected than it can do."""
    device = Device(tmp_path, expects=Expectation(1e9, "were measured", 10_000.0, "people leave", 1, 0.1))
    model = device.load_at(device.store.path(device.install("1.0.0")))
    model.engine.start()
    yield model
    model.engine.stop()


def witness(model: Model, **more: float) -> Witness:
    return Witness(model, lambda engine: False, TIMEOUT_S, **more)


def test_slow_tokens_are_a_fault_unless_the_engine_is_lowered(model: Model) -> None:
    """Heat and saving power are not the package's doing."""
    its = witness(model)
    assert its.look(0.0).fault == "", "nobody asked"
    ask(model.engine, PROMPT, 8, patience_s=TIMEOUT_S)
    assert "tokens/s for one stream; 1000000000.0 were measured" in its.look(1.0).fault
    model.engine.throttle(replace(model.engine.levels[-1], reason="the board was at 99.0 C"))
    assert its.look(2.0).fault == ""


def test_it_asks_when_nobody_else_does(model: Model) -> None:
    """And not before; its own questions are no calls."""
    its = witness(model)
    assert its.due
    its.ask()
    assert not its.due
    assert witness(model, idle_s=0.0).due
    ask(model.engine, PROMPT, 8, patience_s=TIMEOUT_S)
    assert its.look(0.0).calls == 1


def test_a_wrong_answer_is_a_fault_until_a_right_one(tmp_path: Path) -> None:
    device = Device(tmp_path)
    model = device.load_at(device.store.path(device.install("1.0.0", answer=99)))
    model.engine.start()
    its = witness(model)
    its.ask()
    model.engine.stop()
    assert its.look(0.0).fault == "asked for the first token of its golden transcript: token 1 is 20 in place of 99"
