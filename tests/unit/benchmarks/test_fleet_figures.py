"""The arithmetic of the guide: its tables are what the script computes, and the script computes what it says."""

from __future__ import annotations

import re

import fleet_figures as figures
import pytest
from hypothesis import given
from hypothesis import strategies as st


def test_the_guide_has_the_tables_that_the_script_makes() -> None:
    """All of them, each once."""
    guide = figures.GUIDE.read_text(encoding="utf-8")
    assert figures.with_tables(guide) == guide, "run benchmarks/fleet_figures.py --write"
    assert sorted(re.findall(r"<!-- figures: (\w+) -->", guide)) == sorted(figures.TABLES)


@given(st.integers(1, 100_000))
def test_waves_have_every_board_once(boards: int) -> None:
    sizes = figures.wave_sizes(boards)
    assert sum(sizes) == boards
    assert min(sizes) >= 0
    assert sizes[0] == 1


@given(st.integers(1, 10_000), st.integers(1, 500))
def test_no_wave_is_faster_than_its_links(boards: int, forks: int) -> None:
    """Neither than a board's own, nor than the registry's for all of them."""
    bits = figures.PACKAGE_BYTES * 8
    assert figures.fetch_s(boards, forks) >= bits / figures.BOARD_BITS * (1 - 1e-9)
    assert figures.fetch_s(boards, forks) >= boards * bits / figures.REGISTRY_BITS * (1 - 1e-9)


def test_from_some_number_of_forks_on_the_registry_decides() -> None:
    """As the guide says: a hundred boards of 10 Mbit/s fill its link."""
    assert figures.fetch_s(5000, 100) < figures.fetch_s(5000, 50)
    assert figures.fetch_s(5000, 200) == pytest.approx(figures.fetch_s(5000, 100))


def test_times_are_as_people_say_them() -> None:
    said = [figures.hours(seconds) for seconds in (0.25, 45, 600, 7199, 36_000)]
    assert said == ["0.2 s", "45 s", "10 min", "120 min", "10.0 h"]
