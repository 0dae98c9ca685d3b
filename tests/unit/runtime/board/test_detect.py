"""`edgeqwen detect`: the profile that fits a board, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from unit.runtime import boards

from edgeqwen.cli import main
from runtime.board.detect import Detected, detect
from runtime.board.machine import Machine, PciDevice, read_machine
from runtime.profile import Profile, builtin_profiles, find_profile, parse_profile

ARM, X86 = "aarch64", "x86_64"


def ours() -> list[Profile]:
    return [find_profile(name) for name in builtin_profiles()]


X86_CPU = ["generic-x86_64", "openvino-x86_64"]


def profile_for(name: str, base: str, detect: Mapping[str, object], **device: object) -> Profile:
    """A profile like `base` for another board."""
    data = find_profile(base).model_dump()
    return parse_profile(data | {"name": name, "detect": detect, "device": data["device"] | device}, name)


def names(found: Detected) -> list[str]:
    """The best first."""
    return [match.profile.name for match in (found.best, *found.alternatives) if match]


@pytest.mark.parametrize(
    ("board", "arch", "fits", "unsupported"),
    [
        (boards.raspberry_pi_5, ARM, ["raspberry-pi-5", "generic-arm64"], []),
        (boards.raspberry_pi_4, ARM, ["raspberry-pi-4", "generic-arm64"], []),
        (boards.rk3588, ARM, ["rk3588-cpu", "generic-arm64"], ["rockchip-rk3588-npu"]),
        (boards.jetson_orin_nano, ARM, ["jetson-orin-nano", "generic-arm64"], []),
        (boards.jetson_agx_orin, ARM, ["jetson-agx-orin", "generic-arm64"], []),
        (boards.jetson_agx_thor, ARM, ["jetson-agx-thor", "generic-arm64"], []),
        (boards.unknown_arm64, ARM, ["generic-arm64"], []),
        (boards.x86_with_nvidia_card, X86, ["generic-x86_64-cuda", *X86_CPU], []),
        (boards.plain_x86, X86, X86_CPU, []),
        (boards.ryzen_ai, X86, X86_CPU, ["amd-ryzen-ai"]),
        (boards.core_ultra, X86, ["intel-core-ultra-gpu", "intel-core-ultra-npu", *X86_CPU], []),
        (boards.qcs6490, ARM, ["qualcomm-qcs6490", "generic-arm64"], []),
    ],
)
def test_a_board_gets_its_own_profile_before_the_generic_one(
    board: boards.Board, arch: str, fits: list[str], unsupported: list[str], tmp_path: Path
) -> None:
    """What cannot be built is never chosen, and said."""
    found = detect(read_machine(board(tmp_path), arch), ours())
    assert names(found) == fits
    assert [match.profile.name for match in found.unsupported] == unsupported


ORIN_NANO = profile_for("orin-nano", "generic-arm64", {"device_tree": ["nvidia,*p3767-000[345]*"]}, memory_mb=8192)
AGX_ORIN = profile_for("agx-orin", "generic-arm64", {"device_tree": ["nvidia,*p3701-*"]}, memory_mb=65536)
ANY_ORIN = profile_for("any-orin", "generic-arm64", {"device_tree": ["nvidia,tegra234"]})
QCS6490 = profile_for("qcs6490", "generic-arm64", {"device_tree": ["qcom,qcm6490", "qcom,qcs6490"]})
CORE_ULTRA = profile_for("core-ultra", "generic-x86_64", {"pci": ["8086:*:1200"]})


@pytest.mark.parametrize(
    ("board", "arch", "fits"),
    [
        (boards.jetson_orin_nano, ARM, ["orin-nano", "any-orin", "generic-arm64"]),
        (boards.jetson_agx_orin, ARM, ["agx-orin", "any-orin", "generic-arm64"]),
        (boards.qcs6490, ARM, ["qcs6490", "generic-arm64"]),
        (boards.core_ultra, X86, ["core-ultra", "generic-x86_64"]),
        (boards.plain_x86, X86, ["generic-x86_64"]),
    ],
)
def test_what_names_a_board_more_specifically_comes_first(
    board: boards.Board, arch: str, fits: list[str], tmp_path: Path
) -> None:
    """A module before the chip on it, which is before any machine; the order in which profiles are given is none."""
    machine = read_machine(board(tmp_path), arch)
    profiles = [find_profile("generic-arm64"), find_profile("generic-x86_64"), ANY_ORIN, AGX_ORIN, ORIN_NANO, QCS6490]
    profiles += [CORE_ULTRA, find_profile("generic-x86_64-cuda")]
    assert names(detect(machine, profiles)) == fits
    assert names(detect(machine, reversed(profiles))) == fits


def test_all_rules_of_a_profile_must_fit(tmp_path: Path) -> None:
    """A Raspberry Pi with an accelerator card is not one without."""
    card = {"device_tree": ["brcm,bcm2712"], "pci": ["1e60:2864"]}
    with_card = profile_for("pi-with-card", "raspberry-pi-5", card)
    machine = read_machine(boards.raspberry_pi_5(tmp_path), ARM)
    assert names(detect(machine, [*ours(), with_card])) == ["raspberry-pi-5", "generic-arm64"]
    boards.write(tmp_path / "sys/bus/pci/devices/0001:01:00.0/uevent", "PCI_CLASS=120000\nPCI_ID=1E60:2864\n")
    machine = read_machine(tmp_path, ARM)
    assert names(detect(machine, [*ours(), with_card])) == ["pi-with-card", "raspberry-pi-5", "generic-arm64"]


def test_a_processor_without_the_instructions_does_not_fit(tmp_path: Path) -> None:
    """Whatever its name, and even if only some of its cores lack them."""
    machine = read_machine(boards.make_root(tmp_path, features=boards.CORTEX_A76, cores=4, memory_mb=4000), ARM)
    dotprod = profile_for("any-dotprod", "raspberry-pi-5", {})
    assert names(detect(machine, [find_profile("generic-arm64"), dotprod])) == ["any-dotprod", "generic-arm64"]
    cpuinfo = tmp_path / "proc/cpuinfo"
    cpuinfo.write_text(cpuinfo.read_text() + f"\nprocessor\t: 4\nFeatures\t: {boards.CORTEX_A72}\n")
    assert names(detect(read_machine(tmp_path, ARM), [dotprod])) == []
    assert names(detect(read_machine(tmp_path, ARM), ours())) == ["generic-arm64"]


def test_too_little_memory_or_too_few_cores_are_doubts(tmp_path: Path) -> None:
    """A profile for the smaller board is better; without one, what to change is said."""
    machine = read_machine(boards.raspberry_pi_5(tmp_path, memory_mb=1980), ARM)
    found = detect(machine, ours())
    assert found.best is not None
    assert found.best.profile.name == "raspberry-pi-5"
    [doubt] = found.best.doubts
    assert "for 4096 MB of memory and there are 1980" in doubt
    small = profile_for("pi-5-2gb", "raspberry-pi-5", {"device_tree": ["brcm,bcm2712"]}, memory_mb=2048)
    assert names(detect(machine, [*ours(), small]))[0] == "pi-5-2gb"
    large = read_machine(boards.raspberry_pi_5(tmp_path), ARM)
    assert names(detect(large, [small, *ours()]))[0] == "raspberry-pi-5"
    one_core = detect(
        read_machine(boards.make_root(tmp_path, features=boards.X86, cores=1, memory_mb=8000), X86), ours()
    )
    assert one_core.best is not None
    assert "2 threads for 1 cores" in one_core.best.doubts[0]


def test_the_machine_is_what_the_kernel_says(tmp_path: Path) -> None:
    """Names as people know them from `uname`, `lspci -nn` and /proc."""
    assert read_machine(boards.core_ultra(tmp_path), X86) == Machine(
        arch="x86_64",
        model="",
        compatible=(),
        features=frozenset((*boards.X86.split(), "avx_vnni")),
        cores=16,
        memory_mb=31500,
        pci=(
            PciDevice("8086:7d01:0600", ""),
            PciDevice("8086:7d55:0300", "i915"),
            PciDevice("8086:7d1d:1200", "intel_vpu"),
        ),
        accelerators=("accel0 (intel_vpu)", "card0 (i915)"),
    )


def test_a_kernel_that_tells_nothing_is_a_machine_too(tmp_path: Path) -> None:
    """No file is there, or none is readable; nothing fits, and nothing breaks."""
    (tmp_path / "proc/cpuinfo").mkdir(parents=True)
    machine = read_machine(tmp_path, ARM)
    assert (machine.cores, machine.memory_mb, machine.features) == (0, 0, frozenset())
    assert detect(machine, ours()).best is None


def run(root: Path, arch: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["detect", "--root", str(root), "--machine", arch, *arguments])


def test_the_command_says_which_and_why_and_what_it_saw(tmp_path: Path) -> None:
    """For people in a few lines, for scripts as one object."""
    done = run(boards.rk3588(tmp_path), ARM)
    assert done.exit_code == 0
    first, *rest = done.stdout.splitlines()
    assert first == f"rk3588-cpu: {find_profile('rk3588-cpu').description}"
    shown = "\n".join(rest)
    for words in (
        "the device tree names rockchip,rk3588",
        "generic-arm64",
        "rockchip-rk3588-npu: RKLLM's toolkit is not on PyPI",
        "Radxa ROCK 5B, aarch64, 8 cores",
        "7905 MB",
        "asimddp",
        "accel0 (rocket)",
    ):
        assert words in shown
    told = json.loads(run(tmp_path, ARM, "--json").stdout)
    assert told["profile"] == "rk3588-cpu"
    assert [fit["profile"] for fit in told["fits"]] == ["rk3588-cpu", "generic-arm64"]
    assert [(each["profile"], each["instead"]) for each in told["unsupported"]] == [
        ("rockchip-rk3588-npu", "rk3588-cpu")
    ]
    assert told["machine"]["compatible"] == ["radxa,rock-5b", "rockchip,rk3588"]


def test_a_profile_of_ones_own_can_be_detected(tmp_path: Path) -> None:
    """It comes before ours of the same claim; one that cannot be used is refused."""
    mine = tmp_path / "my-board.yaml"
    data = find_profile("raspberry-pi-5").model_dump() | {"name": "my-board"}
    mine.write_text(yaml.safe_dump(data))
    root = boards.raspberry_pi_5(tmp_path / "root")
    assert run(root, ARM, "--profile", str(mine)).stdout.startswith("my-board: ")
    mine.write_text(yaml.safe_dump(data | {"detect": {"pci": ["any"]}}))
    refused = run(root, ARM, "--profile", str(mine))
    assert (refused.exit_code, refused.stdout) == (3, "")
    assert "detect.pci[0]: must match" in refused.stderr


def test_a_device_without_a_driver_is_mentioned(tmp_path: Path) -> None:
    """Its profile fits, but nothing will run there before the kernel knows it."""
    mine = tmp_path / "core-ultra.yaml"
    mine.write_text(yaml.safe_dump(CORE_ULTRA.model_dump()))
    shown = run(boards.core_ultra(tmp_path / "root", driver=""), X86, "--profile", str(mine)).stdout
    assert "PCI device 8086:7d1d:1200 (no driver)" in shown


def test_where_nothing_fits_it_says_what_it_saw_and_what_to_do(tmp_path: Path) -> None:
    """Exit status 3, with one line on stderr."""
    done = run(boards.unknown_arm64(tmp_path), "riscv64")
    assert (done.exit_code, done.stderr.count("\n")) == (3, 1)
    assert "no profile fits this riscv64 machine" in done.stderr
    assert "A board, riscv64" in done.stdout
    assert json.loads(run(tmp_path, "riscv64", "--json").stdout)["profile"] is None


def test_this_machine_has_a_profile() -> None:
    """Whatever runs the tests is x86-64 or 64-bit ARM."""
    assert CliRunner().invoke(main, ["detect"]).exit_code == 0
