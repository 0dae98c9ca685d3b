"""Which variant of a package a device takes."""

from __future__ import annotations

from collections.abc import Sequence

from ..board.detect import detect
from ..board.machine import read_machine
from ..errors import PackageError
from ..profile import Profile, builtin_profiles
from .contents import Offer


def choose_variant(offers: Sequence[Offer], variant: str | None, arch: str, profiles: Sequence[str] = ()) -> Offer:
    """The offer called `variant`; else for the first of `profiles` that has one; else the only one for `arch`.

    Args:
        arch: the device's, as `uname -m` says it.
        profiles: that fit the device, the best first, as `edgeqwen detect` finds them.

    Raises PackageError, with what there is, if none or several are left.
    """
    if variant is not None:
        found = [offer for offer in offers if offer.variant == variant]
        return _only(found, offers, f"no variant {variant!r}")
    for profile in profiles:
        if found := [offer for offer in offers if offer.profile == profile and offer.arch == arch]:
            return _only(found, offers, "")
    found = [offer for offer in offers if offer.arch == arch]
    return _only(found, offers, f"nothing for {arch}")


def _only(found: Sequence[Offer], offers: Sequence[Offer], none: str) -> Offer:
    if len(found) == 1:
        return found[0]
    package = f"{offers[0].name} {offers[0].version}"
    if found:
        names = ", ".join(offer.variant for offer in found)
        raise PackageError(f"{package} has several variants for this device, name one with --variant: {names}")
    have = ", ".join(f"{offer.variant} ({offer.arch})" for offer in offers)
    raise PackageError(f"{package} has {none}; it has {have}")


def choose_for_this_device(offers: Sequence[Offer], variant: str | None, profile: str | None = None) -> Offer:
    """`choose_variant` for the machine that this is; `profile` instead of those that are found to fit it."""
    machine = read_machine()
    if variant is not None:
        return choose_variant(offers, variant, machine.arch)
    if profile is not None:
        profiles = [profile]
    else:
        found = detect(machine, [Profile.load(path) for path in builtin_profiles().values()])
        profiles = [match.profile.name for match in (found.best, *found.alternatives) if match]
    return choose_variant(offers, None, machine.arch, profiles)
