"""Temperatures from sysfs: thermal zones (Documentation/driver-api/thermal/sysfs-api.rst) and hwmon chips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

SYSFS = Path("/sys")


@dataclass(frozen=True)
class Reading:
    """A temperature."""

    sensor: str
    celsius: float


def read_temperatures(wanted: Sequence[str] = (), root: Path = SYSFS) -> list[Reading]:
    """All sensors under `root` that answer, by name; with `wanted`, those whose name matches one of the patterns."""
    readings = [*_thermal_zones(root), *_hwmon(root)]
    return sorted(
        (r for r in readings if not wanted or any(fnmatchcase(r.sensor, pattern) for pattern in wanted)),
        key=lambda reading: reading.sensor,
    )


def _thermal_zones(root: Path) -> Iterator[Reading]:
    for zone in sorted((root / "class/thermal").glob("thermal_zone*")):
        name, celsius = _text(zone / "type"), _celsius(zone / "temp")
        if name and celsius is not None:
            yield Reading(name, celsius)


def _hwmon(root: Path) -> Iterator[Reading]:
    for value in sorted((root / "class/hwmon").glob("hwmon*/temp*_input")):
        celsius = _celsius(value)
        if celsius is None:
            continue
        chip = _text(value.parent / "name") or value.parent.name
        label = _text(value.with_name(value.name.replace("_input", "_label")))
        yield Reading(f"{chip}/{label or value.name.removesuffix('_input')}", celsius)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # a sensor may be there and not answer
        return None


def _celsius(path: Path) -> float | None:
    text = _text(path)
    try:
        return None if text is None else int(text) / 1000
    except (ValueError, OverflowError):
        return None
