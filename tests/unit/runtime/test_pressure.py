"""Memory runs short and comes back: what the budget does, given what the kernel says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.pressure import KvBudget, MemoryReading

MB = 1 << 20
LIMIT = 1024 * MB
SPARE = LIMIT // 16


def reading(free_mb: float, *, stalled: float | None = None, kills: int = 0) -> MemoryReading:
    """`free_mb` beside what is always spared."""
    return MemoryReading(LIMIT, int(free_mb * MB) + SPARE, stalled, kills)


def test_with_room_the_budget_is_whole() -> None:
    budget = KvBudget(1000, MB)
    assert budget.decide(reading(1000), held_tokens=0) == 1000
    assert budget.decide(reading(400), held_tokens=600) == 1000


def test_what_is_promised_fits_beside_what_is_held() -> None:
    """As requests write what they were promised, less is free and the budget stays."""
    budget = KvBudget(1000, MB)
    assert budget.decide(reading(500), held_tokens=0) == 500
    assert budget.decide(reading(200), held_tokens=300) == 500
    assert budget.decide(reading(-100), held_tokens=300) == 200, "others took memory: something has to go"


def test_a_spare_part_of_memory_is_never_promised() -> None:
    """A sixteenth of the limit, 32 MiB at least and 256 MiB at most."""
    for limit_mb, spare_mb in ((128, 32), (1024, 64), (32 * 1024, 256)):
        at_hand = MemoryReading(limit_mb * MB, 300 * MB)
        assert KvBudget(1000, MB).decide(at_hand, held_tokens=0) == 300 - spare_mb


def test_it_comes_back_after_five_calm_readings() -> None:
    """One that is short begins the count anew; what is gained by less than an eighth is not worth a change."""
    budget = KvBudget(1000, MB)
    assert budget.decide(reading(500), held_tokens=0) == 500
    readings = [900] * 4 + [510] + [900] * 5
    assert [budget.decide(reading(free), held_tokens=0) for free in readings] == [500] * 9 + [900]
    assert [budget.decide(reading(1000), held_tokens=0) for _ in range(5)] == [900] * 4 + [1000]


def test_stalls_lower_it_step_by_step_and_keep_it_low() -> None:
    """Whatever else is free. Between stalled and calm nothing changes."""
    budget = KvBudget(1000, MB)
    assert [budget.decide(reading(2000, stalled=0.3), held_tokens=0) for _ in range(3)] == [750, 562, 421]
    assert [budget.decide(reading(2000, stalled=0.1), held_tokens=0) for _ in range(9)] == [421] * 9
    assert [budget.decide(reading(2000, stalled=0.0), held_tokens=0) for _ in range(5)] == [421] * 4 + [1000]


def test_a_kill_beside_us_halves_it_once() -> None:
    """Kills before the first reading do not count."""
    budget = KvBudget(1000, MB)
    assert [budget.decide(reading(2000, kills=kills), held_tokens=0) for kills in (3, 4, 4)] == [1000, 500, 500]


@given(
    st.lists(
        st.tuples(st.integers(-2000, 4000), st.none() | st.floats(0, 1), st.integers(0, 3), st.integers(0, 1000)),
        max_size=30,
    )
)
def test_it_is_never_more_than_fits_nor_less_than_nothing(steps: list[tuple[int, float | None, int, int]]) -> None:
    """Whatever comes; and it grows only after five readings that had room for more."""
    budget, before, since = KvBudget(1000, MB), 1000, 0
    for free_mb, stalled, kills, held in steps:
        now = budget.decide(reading(free_mb, stalled=stalled, kills=kills), held)
        assert 0 <= now <= min(1000, max(0, held + free_mb))
        since = 0 if now < before else since + 1
        assert now <= before or since >= 5
        before, since = now, 0 if now > before else since
