"""The dashboards that are shipped: of the types that Grafana publishes, and with data in every panel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grafana_foundation_sdk", reason="needs the extra `dev`")

import grafana_dashboard
import grafana_fleet
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from integration.dashboards import FOLDER, require_choices, require_data
from integration.full_board import serving
from integration.prometheus import scraping

pytestmark = pytest.mark.slow

BOARD, FLEET = FOLDER / "edgeqwen.json", FOLDER / "edgeqwen-fleet.json"
each_file = pytest.mark.parametrize("file", [BOARD, FLEET], ids=lambda file: file.stem)


def test_the_files_are_what_their_scripts_make() -> None:
    """Changes go into the scripts."""
    assert BOARD.read_text() == grafana_dashboard.render(), "run scripts/grafana_dashboard.py"
    assert FLEET.read_text() == grafana_fleet.render(), "run scripts/grafana_fleet.py"


@each_file
def test_grafanas_own_types_read_it_without_loss(file: Path) -> None:
    """Nothing in it is unknown to them: all of it comes back, beside what they set where nothing is said."""
    told = json.loads(file.read_text())
    assert _within(told, json.loads(JSONEncoder().encode(Dashboard.from_json(told))))


def _within(some: Any, more: Any) -> bool:
    if isinstance(some, dict):
        return isinstance(more, dict) and all(key in more and _within(its, more[key]) for key, its in some.items())
    if isinstance(some, list):
        return isinstance(more, list) and len(some) == len(more) and all(map(_within, some, more))
    return bool(some == more)


@each_file
def test_panels_have_numbers_of_their_own_and_do_not_overlap(file: Path) -> None:
    everything = json.loads(file.read_text())["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_every_panel_of_a_board_has_data(tmp_path: Path) -> None:
    """A real Prometheus scrapes a board that has everything. test_fleet does the same for a fleet."""
    with serving() as target, scraping(target, tmp_path) as prometheus:
        prometheus.wait_for("count_over_time(edgeqwen_slots[1m]) >= 3")  # a rate takes two
        require_data(BOARD, prometheus)
        require_choices(BOARD, prometheus)
