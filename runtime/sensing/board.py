"""The board as a whole: one reading of everything that it has sensors for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .disk import Disk, read_disks
from .gpu import Gpu, Gpus
from .hwmon import find_chips
from .memory import Memory, Pressure, read_memory, read_pressure
from .network import Interface, read_interfaces
from .nvml import Nvml
from .power import EnergyMeter, Power, PowerSensors, Rail
from .processor import Core, Cores, read_load_1m
from .temperature import Temperature, Thermometers
from .throttle import ThrottleEvents, Throttling

SEARCH_S = 60.0
"""How often sensors are looked for anew: drivers come and go."""


@dataclass(frozen=True)
class Reading:
    """What the board said at `when_s`, on the clock of its `Board`. What it does not tell is None or empty, never 0.

    Args:
        throttled: what holds the board back now, sorted, such as "under-voltage"; None if it has no way to tell.
        power: of the whole board, as far as `power.covers` says.
        rails: what goes through each rail, which may be within another.
    """

    when_s: float
    temperatures: tuple[Temperature, ...] = ()
    throttled: tuple[str, ...] | None = None
    cores: tuple[Core, ...] = ()
    load_1m: float | None = None
    memory: Memory = field(default_factory=Memory)
    memory_pressure: Pressure | None = None
    cpu_pressure: Pressure | None = None
    io_pressure: Pressure | None = None
    power: Power = field(default_factory=Power)
    rails: tuple[Rail, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    disks: tuple[Disk, ...] = ()
    interfaces: tuple[Interface, ...] = ()

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature, in degrees Celsius."""
        return max((each.celsius for each in self.temperatures), default=None)

    @property
    def power_watts(self) -> float | None:
        """What the board uses."""
        return self.power.watts

    @property
    def memory_available_bytes(self) -> int | None:
        """What the kernel can give out without swapping."""
        return self.memory.available_bytes

    @property
    def memory_psi_full_avg10(self) -> float | None:
        """Percent of the last 10 seconds in which nothing could work, as all waited for memory."""
        return None if self.memory_pressure is None else self.memory_pressure.full_avg10

    @property
    def disk_free_bytes(self) -> int | None:
        """Of the folders' filesystems that which has the least."""
        return min((disk.free_bytes for disk in self.disks), default=None)


class Board:
    """Reads the sensors, in one thread at a time. What it adds up, energy and events, is its own.

    Args:
        root: where /proc and /sys are.
        sensors: patterns of the temperature sensors that count; none counts all.
        folders: whose filesystems count.
        clock: seconds, never backwards.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        sensors: Sequence[str] = (),
        folders: Sequence[Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._wanted = tuple(sensors)
        self._folders = tuple(folders)
        self._clock = clock
        self._events = ThrottleEvents()
        self._energy = EnergyMeter()
        self._nvml: Nvml | None = None
        self._search()

    def read(self) -> Reading:
        """All that answers now. Never raises; a sensor on a slow bus may take its milliseconds."""
        now_s = self._clock()
        if now_s - self._searched_s >= SEARCH_S:
            self._search()
        root, gpus, rails = self._root, self._gpus.read(), self._power.rails()
        watts = sum(gpu.watts for gpu in gpus if gpu.watts is not None)
        return Reading(
            when_s=now_s,
            temperatures=self._thermometers.read(),
            throttled=self._throttled(now_s, gpus),
            cores=self._cores.read(),
            load_1m=read_load_1m(root),
            memory=read_memory(root),
            memory_pressure=read_pressure(root, "memory"),
            cpu_pressure=read_pressure(root, "cpu"),
            io_pressure=read_pressure(root, "io"),
            power=self._energy.update(now_s, rails, self._power.counters(), watts),
            rails=rails,
            gpus=gpus,
            disks=read_disks(root, self._folders),
            interfaces=read_interfaces(root),
        )

    def close(self) -> None:
        """Lets go of NVIDIA's library."""
        if self._nvml is not None:
            self._nvml.close()

    def _search(self) -> None:
        chips = find_chips(self._root)
        self._thermometers = Thermometers(self._root, chips, self._wanted)
        self._throttling = Throttling(self._root, chips)
        self._power = PowerSensors(self._root, chips)
        self._cores = Cores(self._root)
        if self._nvml is None or not self._nvml.alive():  # a start takes long, and may wake the card
            self.close()
            self._nvml = Nvml.open(self._root)
        self._gpus = Gpus(self._root, self._nvml)
        self._searched_s = self._clock()

    def _throttled(self, now_s: float, gpus: Sequence[Gpu]) -> tuple[str, ...] | None:
        active, counters = self._throttling.active(), self._throttling.counters()
        grown = self._events.update(now_s, counters)
        by_gpu = [gpu.throttled for gpu in gpus if gpu.throttled is not None]
        if active is None and not counters and not by_gpu:
            return None
        return tuple(sorted((active or set()) | grown | {reason for reasons in by_gpu for reason in reasons}))
