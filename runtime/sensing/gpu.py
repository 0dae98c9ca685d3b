"""Graphics and neural processors: what sysfs tells of them, and NVML of NVIDIA's cards.

- Jetson: `load` of the GPU's device in permille, its clock in devfreq.
- Rockchip and others: `load` of the devfreq device, as `45@1000000000Hz` in percent.
- AMD: `gpu_busy_percent` and `mem_info_vram_*` (Documentation/gpu/amdgpu/thermal.rst).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .files import names_in, read_counter, read_text
from .nvml import Nvml

_JETSON_LOADS = ("platform/gpu.0", "platform/bus@0/17000000.gpu", "platform/17000000.gpu", "gpu.0")
_DEVFREQ = re.compile(r".*(gpu|npu|mali|\.gv11b|\.ga10b|\.gp10b).*")
_LOAD = re.compile(r"(\d{1,3})(?:@\d+Hz)?%?", re.ASCII)


@dataclass(frozen=True)
class Gpu:
    """A processor for graphics or neural networks.

    Args:
        name: as its driver or the kernel calls it.
        busy: share of the time in which it worked, 0 to 1.
        frequency_hz: its clock.
        memory_total_bytes: of its own; None where it shares that of the board.
        throttled: what holds it back; None if nobody tells.
    """

    name: str
    busy: float | None = None
    frequency_hz: int | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    celsius: float | None = None
    watts: float | None = None
    throttled: tuple[str, ...] | None = None


class Gpus:
    """What there is under `root`, and the cards that `nvml` has."""

    def __init__(self, root: Path, nvml: Nvml | None = None) -> None:
        self._clocks = list(_devfreq(root))
        self._cards = list(_amd_cards(root))
        self._load = next(
            (
                str(root / "sys/devices" / folder / "load")
                for folder in _JETSON_LOADS
                if names_in(root / "sys/devices" / folder, "load")
            ),
            None,
        )
        self._nvml = nvml

    def read(self) -> tuple[Gpu, ...]:
        """Those that answer."""
        return (*self._from_devfreq(), *filter(None, map(_amd_card, self._cards)), *self._from_nvml())

    def _from_devfreq(self) -> Iterator[Gpu]:
        jetson = None if self._load is None else _share(read_counter(self._load), 1000)
        for name, folder in self._clocks:
            busy = _percent(read_text(folder / "load"))
            if busy is None and "npu" not in name:
                busy, jetson = jetson, None
            frequency_hz = read_counter(folder / "cur_freq")
            if busy is not None or frequency_hz is not None:
                yield Gpu(name, busy, frequency_hz)
        if jetson is not None:
            yield Gpu("gpu", jetson)

    def _from_nvml(self) -> Iterator[Gpu]:
        for card in self._nvml.read() if self._nvml is not None else ():
            yield Gpu(
                card.name,
                _share(card.busy_percent, 100),
                card.frequency_hz,
                card.memory_used_bytes,
                card.memory_total_bytes,
                card.celsius,
                card.watts,
                card.throttled,
            )


def _devfreq(root: Path) -> Iterator[tuple[str, Path]]:
    folder = root / "sys/class/devfreq"
    for name in names_in(folder):
        if _DEVFREQ.fullmatch(name):
            yield name, folder / name


def _amd_cards(root: Path) -> Iterator[Path]:
    folder = root / "sys/class/drm"
    for name in names_in(folder, "card"):
        if name.removeprefix("card").isdecimal() and names_in(folder / name / "device", "gpu_busy_percent"):
            yield folder / name


def _amd_card(card: Path) -> Gpu | None:
    device = card / "device"
    busy = _share(read_counter(device / "gpu_busy_percent"), 100)
    used, total = (read_counter(device / f"mem_info_vram_{kind}") for kind in ("used", "total"))
    return None if busy is None else Gpu(f"{card.name} (amdgpu)", busy, None, used, total)


def _percent(text: str | None) -> float | None:
    found = _LOAD.fullmatch(text or "")
    return _share(int(found[1]), 100) if found else None


def _share(part: int | None, whole: int) -> float | None:
    return part / whole if part is not None and 0 <= part <= whole else None
