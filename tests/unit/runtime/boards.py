"""What /proc and /sys of some boards say, as far as `edgeqwen detect` reads it, in a folder.

Names of the device trees are those of Linux and of the makers' kernels, PCI numbers those of the PCI ID database.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

CORTEX_A72 = "fp asimd evtstrm crc32 cpuid"
CORTEX_A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
CORTEX_A78 = f"{CORTEX_A76} uscat ilrcpc flagm paca pacg"
X86 = "fpu sse sse2 ssse3 fma sse4_1 sse4_2 avx f16c avx2"

PciCard = tuple[str, str, str]  # PCI_ID, PCI_CLASS and DRIVER of its uevent


def make_root(
    root: Path,
    *,
    features: str,
    cores: int,
    memory_mb: int,
    model: str = "",
    compatible: tuple[str, ...] = (),
    pci: tuple[PciCard, ...] = (),
    devices: dict[str, str] | None = None,
) -> Path:
    """Writes the files; `devices` are those of /sys/class with their drivers, such as `drm/card0`."""
    key = "flags" if features == X86 else "Features"
    blocks = [f"processor\t: {number}\n{key}\t\t: {features}\n" for number in range(cores)]
    write(root / "proc/cpuinfo", "\n".join(blocks))
    write(root / "proc/meminfo", f"MemTotal:       {memory_mb << 10} kB\nMemFree:         1000 kB\n")
    if model:
        write(root / "proc/device-tree/model", f"{model}\0")
    if compatible:
        write(root / "proc/device-tree/compatible", "".join(f"{name}\0" for name in compatible))
    for number, (ids, kind, driver) in enumerate(pci):
        lines = [*([f"DRIVER={driver}"] if driver else []), f"PCI_CLASS={kind}", f"PCI_ID={ids}", "PCI_SLOT_NAME=0"]
        write(root / f"sys/bus/pci/devices/0000:00:{number:02x}.0/uevent", "\n".join(lines) + "\n")
    for name, driver in (devices or {}).items():
        write(root / f"sys/class/{name}/device/uevent", f"DRIVER={driver}\nMODALIAS=x\n")
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def raspberry_pi_5(root: Path, memory_mb: int = 8063) -> Path:
    return make_root(
        root,
        model="Raspberry Pi 5 Model B Rev 1.0",
        compatible=("raspberrypi,5-model-b", "brcm,bcm2712"),
        features=CORTEX_A76,
        cores=4,
        memory_mb=memory_mb,
        pci=(("14E4:2712", "60400", "pcieport"), ("1DE4:0001", "20000", "rp1")),
        devices={"drm/card0": "v3d", "drm/card1": "vc4-drm", "drm/card1-HDMI-A-1": "none"},
    )


def raspberry_pi_4(root: Path) -> Path:
    return make_root(
        root,
        model="Raspberry Pi 4 Model B Rev 1.4",
        compatible=("raspberrypi,4-model-b", "brcm,bcm2711"),
        features=CORTEX_A72,
        cores=4,
        memory_mb=3792,
    )


def rk3588(root: Path) -> Path:
    return make_root(
        root,
        model="Radxa ROCK 5B",
        compatible=("radxa,rock-5b", "rockchip,rk3588"),
        features=CORTEX_A76,
        cores=8,
        memory_mb=7905,
        devices={"accel/accel0": "rocket", "drm/card0": "rockchip-drm"},
    )


def jetson_orin_nano(root: Path) -> Path:
    return make_root(
        root,
        model="NVIDIA Jetson Orin Nano Developer Kit",
        compatible=("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
        features=CORTEX_A78,
        cores=6,
        memory_mb=7620,
    )


def jetson_agx_orin(root: Path) -> Path:
    return make_root(
        root,
        model="NVIDIA Jetson AGX Orin Developer Kit",
        compatible=("nvidia,p3737-0000+p3701-0000", "nvidia,p3701-0000", "nvidia,tegra234"),
        features=CORTEX_A78,
        cores=12,
        memory_mb=62800,
    )


def jetson_agx_thor(root: Path) -> Path:
    return make_root(
        root,
        model="NVIDIA Jetson AGX Thor Developer Kit",
        compatible=("nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"),
        features=f"{CORTEX_A78} i8mm",
        cores=14,
        memory_mb=125800,
    )


def qcs6490(root: Path) -> Path:
    return make_root(
        root,
        model="Qualcomm Technologies, Inc. Robotics RB3gen2",
        compatible=("qcom,qcs6490-rb3gen2", "qcom,qcm6490"),
        features=CORTEX_A78,
        cores=8,
        memory_mb=5600,
    )


def core_ultra(root: Path, driver: str = "intel_vpu") -> Path:
    """A laptop with Meteor Lake; without a driver for its NPU if `driver` is empty."""
    devices = {"drm/card0": "i915"} | ({"accel/accel0": driver} if driver else {})
    return make_root(
        root,
        features=f"{X86} avx_vnni",
        cores=16,
        memory_mb=31500,
        pci=(("8086:7D01", "60000", ""), ("8086:7D55", "30000", "i915"), ("8086:7D1D", "120000", driver)),
        devices=devices,
    )


def ryzen_ai(root: Path) -> Path:
    """A laptop with Strix Point."""
    pci = (("1022:17F0", "118000", "amdxdna"), ("1002:150E", "38000", "amdgpu"))
    return make_root(root, features=X86, cores=24, memory_mb=31000, pci=pci, devices={"accel/accel0": "amdxdna"})


def plain_x86(root: Path) -> Path:
    return make_root(root, features=X86, cores=2, memory_mb=7800, pci=(("1AF4:1000", "20000", "virtio-pci"),))


def x86_with_nvidia_card(root: Path) -> Path:
    """With the card's sound device, which has the same vendor."""
    pci = (("10DE:2684", "30000", "nvidia"), ("10DE:22BA", "40300", "snd_hda_intel"))
    return make_root(root, features=X86, cores=8, memory_mb=31900, pci=pci)


def unknown_arm64(root: Path) -> Path:
    return make_root(
        root,
        model="A board",
        compatible=("somebody,board", "somebody,chip"),
        features=CORTEX_A72,
        cores=4,
        memory_mb=1900,
    )


Board = Callable[[Path], Path]
