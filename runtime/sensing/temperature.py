"""Temperatures: thermal zones (Documentation/driver-api/thermal/sysfs-api.rst) and hwmon chips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from .files import names_in, read_number, read_text
from .hwmon import Chip

_PLAUSIBLE_C = (-100.0, 300.0)  # Tegra's zones say -256 while what they measure is switched off


@dataclass(frozen=True)
class Temperature:
    """A temperature. `sensor` is a thermal zone's type, or CHIP/LABEL of a hwmon chip."""

    sensor: str
    celsius: float


class Thermometers:
    """The sensors under `root`; with `wanted`, those whose name matches one of the patterns."""

    def __init__(self, root: Path, chips: Sequence[Chip], wanted: Sequence[str] = ()) -> None:
        found = sorted([*_zones(root), *_channels(chips)])
        self._sensors = [(name, path) for name, path in found if _counts(name, wanted)]

    def read(self) -> tuple[Temperature, ...]:
        """Those that answer, by name."""
        read = ((name, read_number(path)) for name, path in self._sensors)
        readings = (Temperature(name, number / 1000) for name, number in read if number is not None)
        return tuple(each for each in readings if _PLAUSIBLE_C[0] <= each.celsius <= _PLAUSIBLE_C[1])


def chosen(temperatures: Sequence[Temperature], wanted: Sequence[str]) -> list[Temperature]:
    """Those whose sensor matches one of the patterns; without patterns, all."""
    return [each for each in temperatures if _counts(each.sensor, wanted)]


def _counts(name: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(fnmatchcase(name, pattern) for pattern in wanted)


def _zones(root: Path) -> Iterator[tuple[str, str]]:
    folder = root / "sys/class/thermal"
    for name in names_in(folder, "thermal_zone"):
        if kind := read_text(folder / name / "type"):
            yield kind, str(folder / name / "temp")


def _channels(chips: Sequence[Chip]) -> Iterator[tuple[str, str]]:
    for chip in chips:
        for number, path in chip.channels(r"temp(\d+)_input"):
            yield f"{chip.name}/{chip.label(f'temp{number}') or f'temp{number}'}", str(path)
