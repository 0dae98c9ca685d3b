"""What this machine is: its board, processor, memory and devices, as the kernel tells them.

Read from /proc and /sys: the device tree's root (Devicetree Specification, 3.2), /proc/cpuinfo, /proc/meminfo, and the
`uevent` files of PCI devices (Documentation/ABI/testing/sysfs-bus-pci), of graphics and of accelerators.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from ..sensing.files import read_text

_FEATURES = ("Features", "flags")  # of /proc/cpuinfo, on ARM and on x86


@dataclass(frozen=True)
class PciDevice:
    """A device on the PCI bus.

    Args:
        ids: `VENDOR:DEVICE:CLASS`, in hex as `lspci -nn` shows them: `8086:7d1d:1200`.
        driver: that the kernel runs it with; empty if it has none.
    """

    ids: str
    driver: str


@dataclass(frozen=True)
class Machine:
    """What there is.

    Args:
        arch: as `uname -m` says it.
        model: the board's name in the device tree, else in its firmware; empty if neither tells.
        compatible: the names that the device tree gives the board, the most specific first.
        features: instruction sets of the processor, as /proc/cpuinfo names them.
        cores: logical processors.
        memory_mb: what the kernel manages, in MiB, some less than the board has.
        pci: by address.
        accelerators: graphics and compute devices as the kernel calls them, with their driver: `accel0 (intel_vpu)`.
    """

    arch: str
    model: str
    compatible: tuple[str, ...]
    features: frozenset[str]
    cores: int
    memory_mb: int
    pci: tuple[PciDevice, ...]
    accelerators: tuple[str, ...]


def read_machine(root: Path = Path("/"), arch: str | None = None) -> Machine:
    """Reads /proc and /sys under `root`; what is not there stays empty. `arch` unset: this machine's."""
    cpuinfo = _text(root / "proc/cpuinfo")
    total = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return Machine(
        arch=arch or platform.machine(),
        model=_text(root / "proc/device-tree/model") or _text(root / "sys/class/dmi/id/product_name"),
        compatible=tuple(filter(None, _text(root / "proc/device-tree/compatible").split("\0"))),
        features=_features(cpuinfo),
        cores=len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)),
        memory_mb=int(total[1]) >> 10 if total else 0,
        pci=_pci_devices(root / "sys/bus/pci/devices"),
        accelerators=_accelerators(root / "sys/class"),
    )


def _features(cpuinfo: str) -> frozenset[str]:
    """Those that all processors have: a program may run on any."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    sets = [frozenset(names.split()) for key, _, names in lines if key.strip() in _FEATURES]
    return frozenset.intersection(*sets) if sets else frozenset()


def _pci_devices(folder: Path) -> tuple[PciDevice, ...]:
    devices = []
    for device in sorted(folder.glob("*")):
        event = _event(device)
        vendor, _, number = event.get("PCI_ID", "").lower().partition(":")
        if vendor and number:
            kind = event.get("PCI_CLASS", "").lower().zfill(6)[:4]
            devices.append(PciDevice(f"{vendor}:{number}:{kind}", event.get("DRIVER", "")))
    return tuple(devices)


def _accelerators(folder: Path) -> tuple[str, ...]:
    found = sorted([*folder.glob("accel/accel*"), *folder.glob("drm/card[0-9]")])
    return tuple(f"{each.name} ({_event(each / 'device').get('DRIVER', 'no driver')})" for each in found)


def _event(device: Path) -> dict[str, str]:
    """The KEY=VALUE lines of a device's `uevent`."""
    return dict(line.split("=", 1) for line in _text(device / "uevent").splitlines() if "=" in line)


def _text(path: Path) -> str:
    return read_text(path) or ""
