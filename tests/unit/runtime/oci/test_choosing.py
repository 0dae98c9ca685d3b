"""The variant that a device takes."""

from __future__ import annotations

import pytest

from runtime.board.machine import read_machine
from runtime.errors import PackageError
from runtime.oci.choosing import choose_for_this_device, choose_variant
from runtime.oci.contents import Offer


def offer(variant: str, arch: str = "aarch64", profile: str | None = None) -> Offer:
    return Offer(f"sha256:{'0' * 64}", 1, "qwen", "1.0.0", variant, profile or variant, arch)


PI, GENERIC, PC = offer("raspberry-pi-5"), offer("generic-arm64"), offer("generic-x86_64", "x86_64")


def test_a_name_decides() -> None:
    """Whatever it is for: somebody may fetch for another board."""
    assert choose_variant([PI, GENERIC, PC], "generic-x86_64", "aarch64", ["raspberry-pi-5"]) == PC


@pytest.mark.parametrize(
    ("profiles", "chosen"),
    [
        (["raspberry-pi-5", "generic-arm64"], PI),
        (["raspberry-pi-4", "generic-arm64"], GENERIC),
        (["generic-x86_64", "generic-arm64"], GENERIC),
    ],
)
def test_the_best_profile_that_has_one_decides(profiles: list[str], chosen: Offer) -> None:
    """One of another architecture is passed over."""
    assert choose_variant([PI, GENERIC, PC], None, "aarch64", profiles) == chosen


def test_the_only_one_for_the_architecture_is_taken() -> None:
    """As of a profile of the user's own, which no board is known by."""
    assert choose_variant([offer("my-board"), PC], None, "aarch64", ["raspberry-pi-5"]).variant == "my-board"


@pytest.mark.parametrize(
    ("variant", "arch", "profiles", "reason"),
    [
        ("none", "aarch64", [], r"^qwen 1\.0\.0 has no variant 'none'; it has raspberry-pi-5 \(aarch64\), "),
        (
            None,
            "aarch64",
            [],
            "several variants for this device, name one with --variant: raspberry-pi-5, generic-arm64",
        ),
        (None, "riscv64", [], r"has nothing for riscv64; it has .*, generic-x86_64 \(x86_64\)$"),
    ],
)
def test_what_cannot_be_decided_is_said_with_what_there_is(
    variant: str | None, arch: str, profiles: list[str], reason: str
) -> None:
    with pytest.raises(PackageError, match=reason):
        choose_variant([PI, GENERIC, PC], variant, arch, profiles)


def test_two_of_one_profile_need_a_name() -> None:
    """Of several that fit alike, none is the right one."""
    alike = [offer("fast", profile="raspberry-pi-5"), offer("small", profile="raspberry-pi-5")]
    with pytest.raises(PackageError, match="name one with --variant: fast, small"):
        choose_variant(alike, None, "aarch64", ["raspberry-pi-5"])


def test_this_machine_takes_what_fits_it() -> None:
    """By what it is, or by the profile that is named."""
    arch = read_machine().arch
    mine = [offer("one", arch, "one"), offer("two", arch, "two")]
    assert choose_for_this_device(mine[:1], None).variant == "one"
    assert choose_for_this_device(mine, None, "two").variant == "two"
    assert choose_for_this_device(mine, "one").variant == "one"
