"""Graphics: sysfs of several makers, and NVML as a library that says what a test has it say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trees import put

from runtime.sensing.gpu import Gpu, Gpus
from runtime.sensing.nvml import Card, Nvml


class NVMLError(Exception):
    """As pynvml's."""


class FakeNvml:
    """pynvml as far as it is used, for cards that answer only what is in `answers`."""

    NVMLError = NVMLError
    NVML_CLOCK_GRAPHICS = 0
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*arguments: Any) -> Any:
            if name not in self._answers:
                raise NVMLError(name)
            return self._answers[name]

        return ask


def test_nvidias_cards() -> None:
    """In our units; the power limit of a busy card is no trouble, a brake is."""
    library = FakeNvml(
        nvmlDeviceGetCount=1,
        nvmlDeviceGetHandleByIndex="handle",
        nvmlDeviceGetName="NVIDIA RTX 4000",
        nvmlDeviceGetUtilizationRates=SimpleNamespace(gpu=37, memory=5),
        nvmlDeviceGetMemoryInfo=SimpleNamespace(used=2 << 30, total=20 << 30, free=18 << 30),
        nvmlDeviceGetClockInfo=1410,
        nvmlDeviceGetTemperature=61,
        nvmlDeviceGetPowerUsage=70_500,
        nvmlDeviceGetCurrentClocksThrottleReasons=0x84,
    )
    brake = ("gpu power brake",)
    assert Nvml(library).read() == [Card("NVIDIA RTX 4000", 37, 1_410_000_000, 2 << 30, 20 << 30, 61.0, 70.5, brake)]


def test_a_card_that_does_not_answer_a_question() -> None:
    """It is there all the same; one that is lost is not."""
    silent = FakeNvml(nvmlDeviceGetCount=1, nvmlDeviceGetHandleByIndex="handle")
    assert Nvml(silent).read() == [Card("nvidia0", None, None, None, None, None, None, None)]
    assert Nvml(FakeNvml(nvmlDeviceGetCount=2)).read() == []
    Nvml(FakeNvml()).close()
    assert Nvml(silent).alive()
    assert not Nvml(FakeNvml()).alive()


def test_cards_are_among_the_gpus(tmp_path: Path) -> None:
    """In shares; what no card says stays unknown."""
    library = FakeNvml(
        nvmlDeviceGetCount=1,
        nvmlDeviceGetHandleByIndex="handle",
        nvmlDeviceGetUtilizationRates=SimpleNamespace(gpu=37, memory=5),
    )
    assert Gpus(tmp_path, Nvml(library)).read() == (Gpu("nvidia0", 0.37),)


def test_nvml_is_loaded_only_with_a_driver(tmp_path: Path) -> None:
    """The library is there for tests; a machine without NVIDIA's driver does not pay for it."""
    assert Nvml.open(tmp_path) is None
    put(tmp_path, "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX")
    opened = Nvml.open(tmp_path)  # of the machine that runs the test: with a card or without
    if opened is not None:
        opened.close()


def test_rockchips_graphics_and_npu(tmp_path: Path) -> None:
    """Load in percent with the clock behind it."""
    for name, load in (("fb000000.gpu", "45@600000000Hz"), ("fdab0000.npu", "7@1000000000Hz")):
        put(tmp_path, f"sys/class/devfreq/{name}/load", load)
        put(tmp_path, f"sys/class/devfreq/{name}/cur_freq", 600_000_000)
    put(tmp_path, "sys/class/devfreq/dmc/load", "12@528000000Hz")
    assert Gpus(tmp_path).read() == (Gpu("fb000000.gpu", 0.45, 600_000_000), Gpu("fdab0000.npu", 0.07, 600_000_000))


def test_a_jetson_without_a_clock_in_devfreq(tmp_path: Path) -> None:
    """The load alone is a reading."""
    put(tmp_path, "sys/devices/gpu.0/load", 1000)
    assert Gpus(tmp_path).read() == (Gpu("gpu", 1.0),)


def test_amds_cards(tmp_path: Path) -> None:
    """Connectors are no cards."""
    put(tmp_path, "sys/class/drm/card1/device/gpu_busy_percent", 12)
    put(tmp_path, "sys/class/drm/card1/device/mem_info_vram_used", 1024)
    put(tmp_path, "sys/class/drm/card1/device/mem_info_vram_total", 4096)
    put(tmp_path, "sys/class/drm/card1-HDMI-A-1/device/gpu_busy_percent", 12)
    assert Gpus(tmp_path).read() == (Gpu("card1 (amdgpu)", 0.12, None, 1024, 4096),)
