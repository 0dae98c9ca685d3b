"""A battery counts while it is what feeds the board."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.health.battery import battery_percent


def supply(root: Path, name: str, **files: str) -> None:
    folder = root / "sys/class/power_supply" / name
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(f"{text}\n")


def test_there_may_be_none(tmp_path: Path) -> None:
    """A board without the folder, and one with mains alone."""
    assert battery_percent(tmp_path) is None
    supply(tmp_path, "AC", type="Mains", online="1")
    assert battery_percent(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 12.0),
        ({"status": "Charging"}, None),
        ({"status": "Full"}, None),
        ({"scope": "Device"}, None),
        ({"scope": "System"}, 12.0),
        ({"capacity": "a lot"}, None),
        ({"capacity": "120"}, None),
        ({"type": "UPS"}, None),
    ],
)
def test_one_that_discharges_counts(tmp_path: Path, changes: dict[str, str], expected: float | None) -> None:
    """Not one that is charged, nor that of a device, nor what is no percentage."""
    supply(tmp_path, "BAT0", **{"type": "Battery", "status": "Discharging", "capacity": "12"} | changes)
    assert battery_percent(tmp_path) == expected


def test_of_several_the_emptiest_counts(tmp_path: Path) -> None:
    for name, capacity in (("BAT0", "70"), ("BAT1", "9")):
        supply(tmp_path, name, type="Battery", status="Discharging", capacity=capacity)
    assert battery_percent(tmp_path) == 9.0
