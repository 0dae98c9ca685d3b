"""Heat lowers the engine by steps, it comes back with hysteresis, and never swings."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.engine.throttle import ladder
from runtime.health.governor import NORMAL, Decision, Governor, lowered

LIMIT_C = 80.0
PERIOD_S = 2.0
HOUR = 3600


@dataclass
class ThermalModel:
    """A board as one resistance and one capacity: it goes to `ambient + gain * power` with time constant `tau_s`."""

    ambient_c: float
    idle_c: float
    full_c: float
    tau_s: float
    celsius: float

    def steady_c(self, power: float) -> float:
        return self.ambient_c + self.idle_c + (self.full_c - self.idle_c) * power

    def run(self, seconds: float, power: float) -> None:
        self.celsius += (self.steady_c(power) - self.celsius) * min(1.0, seconds / self.tau_s)


def powers(rows: int, threads: int | None) -> list[float]:
    """Of each level, as shares of full power."""
    return [each.share * (each.threads or 1) / (threads or 1) for each in ladder(rows, threads)]


boards = st.builds(
    ThermalModel,
    ambient_c=st.floats(-10, 45),
    idle_c=st.floats(5, 20),
    full_c=st.floats(25, 90),
    tau_s=st.floats(20, 900),
    celsius=st.floats(0, 79),
)


@settings(max_examples=60)
@example(ThermalModel(0.0, 5.0, 81.0, 177.0, 20.0), 1, [0.0] * 7)  # a degree too much, which takes ten minutes to show
@example(ThermalModel(44.0, 5.0, 68.0, 184.0, 20.0), 1, [0.0] * 7)  # half a degree, a level further down
@given(boards, st.sampled_from([1, 2, 4, 8, None]), st.lists(st.floats(-0.4, 0.4), min_size=7, max_size=7))
def test_any_board_settles_below_its_limit_without_swinging(
    board: ThermalModel, threads: int | None, noise: list[float]
) -> None:
    """Busy for six hours, with noise on the sensor. In the last two, a board that can be kept cool at all is never more
    than 3 C above the limit, beside what it gains within four readings, and changes its level at most about twice in
    half an hour for each of its levels."""
    power = powers(4, threads)
    if board.steady_c(power[-1]) > LIMIT_C - 2:
        return
    governor = Governor(LIMIT_C, len(power) - 1)
    late_levels, hottest_late_c = [], 0.0
    for reading in range(int(6 * HOUR / PERIOD_S)):
        level = governor.update(reading * PERIOD_S, board.celsius + noise[reading % len(noise)]).level
        board.run(PERIOD_S, power[level])
        if reading * PERIOD_S >= 4 * HOUR:
            late_levels.append(level)
            hottest_late_c = max(hottest_late_c, board.celsius)
    changes = sum(left != right for left, right in pairwise(late_levels))
    gain_c = max(0.0, board.steady_c(1.0) - LIMIT_C) / board.tau_s * PERIOD_S
    assert hottest_late_c <= LIMIT_C + 3 + 4 * gain_c
    assert changes <= 2 * (len(power) - 1) * 2 * HOUR / 1800


@settings(max_examples=60)
@given(boards, st.sampled_from([1, 4, None]))
def test_a_board_that_stays_cool_is_left_alone(board: ThermalModel, threads: int | None) -> None:
    power = powers(4, threads)
    board.celsius = min(board.celsius, LIMIT_C - 1)
    if board.steady_c(1.0) >= LIMIT_C:
        return
    governor = Governor(LIMIT_C, len(power) - 1)
    for reading in range(HOUR):
        assert governor.update(reading * PERIOD_S, board.celsius) == NORMAL
        board.run(PERIOD_S, 1.0)


def follow(governor: Governor, *temperatures: tuple[int, float | None], throttled: tuple[str, ...] = ()) -> list[int]:
    """Levels after so many readings of each temperature, a second apart; time goes on from one call to the next."""
    levels = []
    for readings, celsius in temperatures:
        for _ in range(readings):
            now_s = vars(governor).setdefault("test_now_s", 0.0)
            vars(governor)["test_now_s"] = now_s + 1
            governor.update(now_s, celsius, throttled)
        levels.append(governor.decision.level)
    return levels


def test_it_goes_down_step_by_step_and_back_after_half_a_minute_well_below() -> None:
    """One reading alone is noise; each step has ten seconds; in between limit and hysteresis nothing changes."""
    governor = Governor(LIMIT_C, 4)
    assert follow(governor, (1, 90.0), (5, 79.0), (2, 81.0), (9, 81.0), (1, 81.0), (9, 81.0), (1, 81.0)) == [
        *(0, 0, 1),
        *(1, 2, 2, 3),
    ]
    assert governor.decision.reason == "the board was at 81.0 C, its limit is 80 C"
    assert follow(governor, (100, 76.0), (30, 74.0), (1, 74.0), (30, 74.0), (30, 74.0)) == [3, 3, 2, 1, 0]
    assert governor.decision == NORMAL


def test_what_falls_by_itself_is_not_lowered_further_unless_it_is_much_too_hot() -> None:
    governor = Governor(LIMIT_C, 9)
    falling = [(1, 82.5 - 0.1 * second) for second in range(20)]
    assert set(follow(governor, (2, 82.5), *falling)) == {1}
    governor = Governor(LIMIT_C, 9)
    much = [(1, 95 - 0.1 * second) for second in range(40)]
    assert follow(governor, (2, 95.0), *much)[-1] == 5


def test_a_level_that_was_too_much_is_tried_again_after_twice_as_long() -> None:
    """Every time, up to half an hour; a board that then stays cool for long begins again at half a minute."""
    governor = Governor(LIMIT_C, 3)
    waits = []
    for _ in range(9):
        follow(governor, (2, 81.0))
        waits.append(0)
        while governor.decision.level:
            follow(governor, (1, 70.0))
            waits[-1] += 1
    assert [wait - 1 for wait in waits] == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]
    follow(governor, (2 * HOUR, 60.0), (2, 81.0), (30, 70.0))
    assert governor.decision.level == 1
    assert follow(governor, (1, 70.0)) == [0]


def test_a_sensor_that_vanishes_changes_nothing() -> None:
    """Neither way, for as long as it does not answer."""
    governor = Governor(LIMIT_C, 3)
    assert follow(governor, (2, 81.0), (HOUR, None), (31, 70.0)) == [1, 1, 0]


def test_a_board_that_throttles_itself_counts_as_hot() -> None:
    """Also without any thermometer; and it may do more once it has stopped, if a thermometer says that it is cool."""
    governor = Governor(LIMIT_C, 3)
    assert follow(governor, (12, None), throttled=("under-voltage",)) == [2]
    assert governor.decision.reason == "the board throttles itself: under-voltage"
    assert follow(governor, (62, 50.0)) == [0]


@pytest.mark.parametrize(
    ("heat", "low_power", "expected"),
    [
        (Decision(0, ""), "", (0, "")),
        (Decision(1, "hot"), "", (1, "hot")),
        (Decision(9, "hot"), "", (5, "hot")),
        (Decision(0, ""), "asked for", (2, "asked for")),
        (Decision(1, "hot"), "asked for", (2, "asked for")),
        (Decision(3, "hot"), "asked for", (3, "hot")),
    ],
)
def test_heat_and_low_power_together_take_the_lower(heat: Decision, low_power: str, expected: tuple[int, str]) -> None:
    throttle = lowered(ladder(4, 4), heat, low_power)
    assert (throttle.level, throttle.reason) == expected
