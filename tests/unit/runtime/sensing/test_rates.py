"""Rates between two readings."""

from __future__ import annotations

from pathlib import Path

from runtime.sensing.board import Reading
from runtime.sensing.disk import Disk
from runtime.sensing.network import Interface
from runtime.sensing.processor import Core
from runtime.sensing.rates import rates_between

HOME = Path("/home")


def test_rates_are_per_second_and_shares() -> None:
    """Of each core, and of all together by their time."""
    before = Reading(
        10.0,
        cores=(Core(0, 5.0, 10.0), Core(1, 1.0, 10.0)),
        disks=(Disk(HOME, 9, 4, 1000, 0),),
        interfaces=(Interface("eth0", 100, 200),),
    )
    now = Reading(
        12.0,
        cores=(Core(0, 7.0, 12.0), Core(1, 1.0, 12.0)),
        disks=(Disk(HOME, 9, 3, 5000, 100),),
        interfaces=(Interface("eth0", 300, 200),),
    )
    rates = rates_between(before, now)
    assert (rates.seconds, rates.cpu_busy) == (2.0, 0.5)
    assert rates.core_busy == {0: 1.0, 1: 0.0}
    assert (rates.disk_read, rates.disk_written) == ({"/home": 2000.0}, {"/home": 50.0})
    assert (rates.network_received, rates.network_sent) == ({"eth0": 100.0}, {"eth0": 0.0})


def test_counters_that_went_backwards_or_are_new_say_nothing() -> None:
    """A core that was off line, an interface that was reset or plugged in, a disk without counters."""
    before = Reading(
        10.0,
        cores=(Core(0, 5.0, 10.0),),
        disks=(Disk(HOME, 9, 4, None, None),),
        interfaces=(Interface("eth0", 100, 200),),
    )
    now = Reading(
        11.0,
        cores=(Core(0, 1.0, 2.0), Core(1, 1.0, 2.0)),
        disks=(Disk(HOME, 9, 4, None, None),),
        interfaces=(Interface("eth0", 5, 5), Interface("usb0", 1, 1)),
    )
    rates = rates_between(before, now)
    assert rates.cpu_busy is None
    assert dict(rates.core_busy) == dict(rates.disk_read) == dict(rates.network_received) == {}


def test_a_share_is_never_beyond_its_bounds() -> None:
    """The kernel's idle time may go back a little."""
    before = Reading(10.0, cores=(Core(0, 5.0, 10.0),))
    assert rates_between(before, Reading(11.0, cores=(Core(0, 6.2, 11.0),))).cpu_busy == 1.0
    assert rates_between(before, Reading(11.0, cores=(Core(0, 4.9, 11.0),))).cpu_busy == 0.0
    assert rates_between(before, before).cpu_busy is None
