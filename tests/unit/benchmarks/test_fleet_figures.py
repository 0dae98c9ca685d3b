"""The arithmetic of the guide: its tables are what the script computes, and the script computes what it says."""

from __future__ import annotations

import math
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


@given(st.integers(1, 10_000), st.integers(1, 500), st.booleans())
def test_no_wave_is_faster_than_its_links(boards: int, forks: int, mirrors: bool) -> None:
    """Neither than a board's own, nor than a site's or the registry's for all that comes over it."""
    bits = figures.PACKAGE_BYTES * 8
    sites = math.ceil(boards / figures.SITE_BOARDS)
    over_a_site, sent = (1, sites) if mirrors else (min(boards, figures.SITE_BOARDS), boards)
    seconds = figures.fetch_s(boards, forks, mirrors=mirrors) * (1 + 1e-9)
    assert seconds >= bits / figures.BOARD_BITS
    assert seconds >= over_a_site * bits / figures.SITE_BITS
    assert seconds >= sent * bits / figures.REGISTRY_BITS


def test_without_mirrors_the_links_of_the_sites_decide() -> None:
    """As the guide says: one site after another with as many forks as a site has boards."""
    a_site = figures.fetch_s(figures.SITE_BOARDS, figures.SITE_BOARDS)
    assert a_site == pytest.approx(figures.SITE_BOARDS * figures.PACKAGE_BYTES * 8 / figures.SITE_BITS)
    for sites in (1, 4):
        assert figures.fetch_s(5000, sites * figures.SITE_BOARDS) == pytest.approx(5000 / 50 / sites * a_site)


def test_a_mirror_never_makes_a_wave_slower() -> None:
    for boards in (1, 30, 1000, 5000):
        for forks in (1, 50, 200, 1000):
            assert figures.fetch_s(boards, forks, mirrors=True) <= figures.fetch_s(boards, forks)


def test_times_are_as_people_say_them() -> None:
    said = [figures.hours(seconds) for seconds in (0.25, 45, 600, 7199, 36_000, 1e6)]
    assert said == ["0.2 s", "45 s", "10 min", "120 min", "10.0 h", "11.6 d"]
