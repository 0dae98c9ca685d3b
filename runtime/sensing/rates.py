"""What happened between two readings of a board. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .board import Reading


@dataclass(frozen=True)
class Rates:
    """Per second and shares, over `seconds`; what only one of the readings has is left out.

    Args:
        core_busy: share of the time in which each core worked, 0 to 1, by its number.
        cpu_busy: the same of all cores together; None if nothing is known.
        disk_read: bytes per second, by folder.
        network_received: bytes per second, by interface.
    """

    seconds: float
    core_busy: Mapping[int, float]
    cpu_busy: float | None
    disk_read: Mapping[str, float]
    disk_written: Mapping[str, float]
    network_received: Mapping[str, float]
    network_sent: Mapping[str, float]


def rates_between(before: Reading, now: Reading) -> Rates:
    """A counter that went backwards was reset, and says nothing about this time."""
    seconds = now.when_s - before.when_s
    cores = {core.number: core for core in before.cores}
    spans = {
        core.number: (core.busy_s - cores[core.number].busy_s, core.total_s - cores[core.number].total_s)
        for core in now.cores
        if core.number in cores and core.total_s > cores[core.number].total_s
    }
    busy_s = sum(max(0.0, busy) for busy, _ in spans.values())
    total_s = sum(total for _, total in spans.values())
    disks, disks_before = ({str(disk.folder): disk for disk in each.disks} for each in (now, before))
    ports, ports_before = ({port.name: port for port in each.interfaces} for each in (now, before))
    return Rates(
        seconds=max(0.0, seconds),
        core_busy={number: _share(busy, total) for number, (busy, total) in spans.items()},
        cpu_busy=_share(busy_s, total_s) if total_s > 0 else None,
        disk_read=_per_second(
            {name: disk.read_bytes for name, disk in disks_before.items()},
            {name: disk.read_bytes for name, disk in disks.items()},
            seconds,
        ),
        disk_written=_per_second(
            {name: disk.written_bytes for name, disk in disks_before.items()},
            {name: disk.written_bytes for name, disk in disks.items()},
            seconds,
        ),
        network_received=_per_second(
            {name: port.received_bytes for name, port in ports_before.items()},
            {name: port.received_bytes for name, port in ports.items()},
            seconds,
        ),
        network_sent=_per_second(
            {name: port.sent_bytes for name, port in ports_before.items()},
            {name: port.sent_bytes for name, port in ports.items()},
            seconds,
        ),
    )


def _per_second(before: Mapping[str, int | None], now: Mapping[str, int | None], seconds: float) -> dict[str, float]:
    rates = {}
    for name, value in now.items():
        earlier = before.get(name)
        if seconds > 0 and value is not None and earlier is not None and value >= earlier:
            rates[name] = (value - earlier) / seconds
    return rates


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole))
