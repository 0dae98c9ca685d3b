"""The battery that feeds the board: /sys/class/power_supply (Documentation/ABI/testing/sysfs-class-power)."""

from __future__ import annotations

from pathlib import Path

from ..sensing.files import names_in, read_number, read_text


def battery_percent(root: Path = Path("/")) -> float | None:
    """The charge of the emptiest battery that discharges, 0 to 100; None while none does, or none is there.

    Batteries of devices, such as a mouse's, do not count.
    """
    folder = root / "sys/class/power_supply"
    charges = [
        charge
        for supply in (folder / name for name in names_in(folder))
        if read_text(supply / "type") == "Battery"
        and read_text(supply / "scope") != "Device"
        and read_text(supply / "status") == "Discharging"
        and (charge := read_number(supply / "capacity")) is not None
        and 0 <= charge <= 100
    ]
    return float(min(charges)) if charges else None
