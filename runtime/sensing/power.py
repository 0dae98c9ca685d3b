"""Power and energy: INA3221 rails, other hwmon chips, and RAPL.

- INA3221 (Documentation/hwmon/ina3221.rst): three channels of voltage and current, named by `in*_label`. Its
  channels 4 to 7 are shunt voltages and sums, no rails.
- hwmon: `power*_input` in microwatts (Documentation/hwmon/sysfs-interface.rst).
- RAPL (Documentation/power/powercap/powercap.rst): counters in microjoules that start again at `max_energy_range_uj`.
  Since Linux 5.10 only root may read them, unless somebody gives the daemon's group the right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .files import names_in, read_counter, read_number, read_text
from .hwmon import Chip

_INPUTS = ("VDD_IN", "VIN", "5V_IN", "POM_5V_IN")
"""Rails through which all goes that a Jetson's module uses."""

_PARTS = (("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"))
"""Rails that together are all of it, of Jetson AGX Orin and of Thor."""

_MOST_W = 5000.0  # more than that is a counter that was reset, not one that came round
_WRAP_W = 1000.0  # a counter comes round at most once in the time in which this much would take it round
_GAP_S = 10.0  # a wattage says nothing about what was used longer ago than this


@dataclass(frozen=True)
class Rail:
    """What goes through a rail, or into a part, now."""

    name: str
    watts: float


@dataclass(frozen=True)
class EnergyCounter:
    """Joules that a part has used; `range_joules` is where the counter starts again, None if nobody says."""

    name: str
    joules: float
    range_joules: float | None


@dataclass(frozen=True)
class Power:
    """What the board uses.

    Args:
        watts: None if no sensor tells, or not yet: a counter needs two readings.
        covers: names of the rails and parts that are counted; empty if there are none.
        joules: used since `joules_since_s`, on the clock of the readings; None if nobody counts. Starts again after a
            time for which nothing is known.
    """

    watts: float | None = None
    covers: tuple[str, ...] = ()
    joules: float | None = None
    joules_since_s: float | None = None


class PowerSensors:
    """The sensors under `root`."""

    def __init__(self, root: Path, chips: Sequence[Chip]) -> None:
        self._pairs = list(_pairs(chips))
        self._powers = list(_powers(chips))
        self._counters = list(_rapl(root))

    def rails(self) -> tuple[Rail, ...]:
        """Those that answer, by name."""
        rails = []
        for name, voltage, current in self._pairs:
            millivolts, milliamperes = read_number(voltage), read_number(current)
            if millivolts is not None and milliamperes is not None:
                rails.append(Rail(name, millivolts * milliamperes / 1e6))
        for name, path in self._powers:
            if (microwatts := read_number(path)) is not None:
                rails.append(Rail(name, microwatts / 1e6))
        return tuple(sorted((rail for rail in rails if abs(rail.watts) <= _MOST_W), key=lambda rail: rail.name))

    def counters(self) -> tuple[EnergyCounter, ...]:
        """Those that may be read."""
        read = ((name, read_counter(path), range_uj) for name, path, range_uj in self._counters)
        return tuple(
            EnergyCounter(name, microjoules / 1e6, range_uj / 1e6 if range_uj else None)
            for name, microjoules, range_uj in read
            if microjoules is not None
        )


class EnergyMeter:
    """Adds up what the board uses, from reading to reading."""

    def __init__(self) -> None:
        self._when_s: float | None = None
        self._counters: dict[str, EnergyCounter] = {}
        self._covers: tuple[str, ...] = ()
        self._watts: float | None = None
        self._joules = 0.0
        self._since_s: float | None = None

    def update(self, now_s: float, rails: Sequence[Rail], counters: Sequence[EnergyCounter], gpus_w: float) -> Power:
        """Counts the next reading. `gpus_w` is what graphics cards say that they use.

        A rail that all goes through comes before a counter of the whole platform (`psys`), and this before the counters
        of the processor's packages and memory, to which graphics cards are added.
        """
        before, before_s = self._counters, self._when_s
        self._counters, self._when_s = {counter.name: counter for counter in counters}, now_s
        elapsed_s = 0.0 if before_s is None else now_s - before_s
        through = _whole(rails)
        watts: float | None = None
        if through:
            covers = tuple(rail.name for rail in through)
            watts = max(0.0, sum(rail.watts for rail in through))  # at rest a shunt's offset may be below nothing
            last = self._watts if covers == self._covers and 0 < elapsed_s <= _GAP_S else None
            used = None if last is None else max(0.0, (last + watts) / 2 * elapsed_s)
        else:
            chosen = _chosen(self._counters)
            covers = (*chosen, *(("gpu",) if gpus_w and chosen and "psys" not in chosen else ()))
            grown = [_grown(before.get(name), self._counters[name], elapsed_s) for name in chosen]
            known = [joules for joules in grown if joules is not None]
            used = None
            if covers == self._covers and chosen and len(known) == len(chosen):
                used = sum(known) + (gpus_w * elapsed_s if "gpu" in covers else 0.0)
                watts = used / elapsed_s
        self._covers, self._watts = covers, watts
        return self._count(now_s, watts, used)

    def _count(self, now_s: float, watts: float | None, used: float | None) -> Power:
        if not self._covers:
            self._since_s = None
            return Power()
        if used is None or self._since_s is None:
            self._joules, self._since_s = 0.0, now_s
        else:
            self._joules += used
        return Power(watts, self._covers, self._joules, self._since_s)


def _whole(rails: Sequence[Rail]) -> list[Rail]:
    """The rails that make up what the whole board uses; none if the board has no such rails."""
    by_name = {rail.name.upper(): rail for rail in rails}
    for names in (*((name,) for name in _INPUTS), *_PARTS):
        if all(name in by_name for name in names):
            return [by_name[name] for name in names]
    return [rail for rail in rails if rail.name.startswith("power_meter/")][:1]


def _chosen(counters: Mapping[str, EnergyCounter]) -> tuple[str, ...]:
    """Counters that together miss the least and count nothing twice; cores and graphics are within their package."""
    if "psys" in counters:
        return ("psys",)
    return tuple(name for name in sorted(counters) if name.startswith(("package-", "dram")))


def _grown(before: EnergyCounter | None, now: EnergyCounter, elapsed_s: float) -> float | None:
    """Joules between two readings; None if that cannot be known."""
    if before is None or elapsed_s <= 0:
        return None
    if now.range_joules is not None and elapsed_s > now.range_joules / _WRAP_W:
        return None
    grown = now.joules - before.joules
    if grown < 0 and now.range_joules is not None:
        grown += now.range_joules
    return grown if 0 <= grown <= _MOST_W * elapsed_s else None


def _pairs(chips: Sequence[Chip]) -> Iterator[tuple[str, str, str]]:
    for chip in chips:
        if chip.name.startswith("ina3221"):
            for number, path in chip.channels(r"curr([123])_input"):
                name = chip.label(f"in{number}") or f"{chip.name}/{number}"
                if name != "NC":  # as device trees call a channel that is not connected
                    yield name, str(chip.folder / f"in{number}_input"), str(path)


def _powers(chips: Sequence[Chip]) -> Iterator[tuple[str, str]]:
    for chip in chips:
        for number, path in chip.channels(r"power(\d+)_(?:input|average)"):
            if not path.name.endswith("_average") or f"power{number}_input" not in chip.files:
                yield f"{chip.name}/{chip.label(f'power{number}') or f'power{number}'}", str(path)


def _rapl(root: Path) -> Iterator[tuple[str, str, int | None]]:
    """Each domain once: `intel-rapl-mmio` has the packages a second time."""
    folder, seen = root / "sys/class/powercap", set()
    for zone in names_in(folder, "intel-rapl:"):
        name = read_text(folder / zone / "name")
        parent = read_text(folder / zone.rpartition(":")[0] / "name") if zone.count(":") > 1 else None
        if name is None:
            continue
        name = f"{name}-{parent.removeprefix('package-')}" if parent and name == "dram" else name
        if parent is None or name.startswith("dram"):
            if name not in seen:
                yield name, str(folder / zone / "energy_uj"), read_counter(folder / zone / "max_energy_range_uj")
            seen.add(name)
