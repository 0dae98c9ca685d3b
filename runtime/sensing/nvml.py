"""NVIDIA's cards, by NVML (extra `nvidia`). Its library is loaded only where the kernel has NVIDIA's driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import names_in

_REASONS = {
    0x08: "gpu slowed down by hardware",
    0x20: "gpu too hot (software)",
    0x40: "gpu too hot (hardware)",
    0x80: "gpu power brake",
}
"""Of nvmlClocksEventReasons those that mean trouble; reaching its power limit is what a busy card is made for."""


@dataclass(frozen=True)
class Card:
    """What NVML says of a card; None where this card, or this driver, does not say it."""

    name: str
    busy_percent: int | None
    frequency_hz: int | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    celsius: float | None
    watts: float | None
    throttled: tuple[str, ...] | None


class Nvml:
    """The library, loaded."""

    def __init__(self, library: Any) -> None:
        self._library = library

    @classmethod
    def open(cls, root: Path) -> Nvml | None:
        """None without a driver under `root`, without the package, or if the two do not get along."""
        if not names_in(root / "proc/driver/nvidia", "version"):
            return None
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return None
        return cls(pynvml)

    def read(self) -> list[Card]:
        """The cards that answer."""
        count = self._ask(self._library.nvmlDeviceGetCount) or 0
        handles = [self._ask(self._library.nvmlDeviceGetHandleByIndex, index) for index in range(count)]
        return [self._card(index, handle) for index, handle in enumerate(handles) if handle is not None]

    def alive(self) -> bool:
        """Whether the driver still answers; a new one must be met by a new start of the library."""
        return self._ask(self._library.nvmlDeviceGetCount) is not None

    def close(self) -> None:
        """Frees what the library holds."""
        self._ask(self._library.nvmlShutdown)

    def _card(self, index: int, handle: Any) -> Card:
        nvml = self._library
        use = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        megahertz = self._ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_GRAPHICS)
        celsius = self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        milliwatts = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        reasons = self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        return Card(
            name=str(self._ask(nvml.nvmlDeviceGetName, handle) or f"nvidia{index}"),
            busy_percent=None if use is None else int(use.gpu),
            frequency_hz=None if megahertz is None else int(megahertz) * 1_000_000,
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_total_bytes=None if memory is None else int(memory.total),
            celsius=None if celsius is None else float(celsius),
            watts=None if milliwatts is None else milliwatts / 1000,
            throttled=None if reasons is None else tuple(text for bit, text in _REASONS.items() if reasons & bit),
        )

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._library.NVMLError:  # not of this card, not with this driver, or the card is lost
            return None
